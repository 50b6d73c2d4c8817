import itertools
import json
import subprocess
import sys
import time

import pytest

from skill.errors import ModelNotFound, NotFound, SpecError
from skill.memory import estimate_for, estimate_vram
from skill.memory.certainty import certainty
from skill.memory.gpus import LiveGpu, find_gpu, known_gpus, live_gpus
from skill.memory.job import Job
from skill.memory.peak import peak
from skill.memory.shapes import catalogue, from_catalogue, from_config
from skill.spec import parse
from skill.workspace import Workspace

MODEL = "meta-llama/Llama-3.1-8B"


@pytest.fixture
def ws(tmp_path):
    return Workspace.open(tmp_path)


def test_qlora_needs_less_than_lora_and_full(ws):
    peaks = [
        estimate_vram(ws, model=MODEL, method=m).device_peak.allocated_gib.value for m in ("qlora", "lora", "full")
    ]
    assert peaks[0] < peaks[1] < peaks[2]


def test_counters_are_ordered_and_inside_their_intervals(ws):
    estimate = estimate_vram(ws, model=MODEL, method="qlora", batch_size=4, max_length=2048)
    peak = estimate.device_peak
    assert peak.allocated_gib.value <= peak.reserved_gib.value <= peak.process_gib.value
    for figure in (peak.allocated_gib, peak.reserved_gib, peak.process_gib):
        assert figure.low <= figure.value <= figure.high
    assert sum(estimate.breakdown_gib.values()) == pytest.approx(peak.allocated_gib.value, abs=0.02)
    assert 5.2 < estimate.breakdown_gib["weights"] < 5.5  # 8.03 billion parameters, 6.98 of them in 4 bits


def test_a_lever_frees_what_it_says(ws):
    before = estimate_vram(ws, model=MODEL, method="lora", batch_size=8, activation_checkpointing=False)
    lever = next(x for x in before.levers if x.change == "activation_checkpointing true")
    after = estimate_vram(ws, model=MODEL, method="lora", batch_size=8, activation_checkpointing=True)
    freed = before.device_peak.allocated_gib.value - after.device_peak.allocated_gib.value
    assert lever.frees_gib == pytest.approx(freed, abs=0.02) and freed > 5


def test_verdicts_follow_memory(ws):
    rows = [row for row in estimate_vram(ws, model=MODEL, method="lora", max_length=2048).fits if not row.at_hand]
    assert [row.memory_gib for row in rows] == sorted(row.memory_gib for row in rows)
    assert rows[0].verdict == "does_not_fit" and rows[-1].verdict == "fits"
    chances = [row.probability for row in rows]
    assert all(a <= b + 0.02 for a, b in itertools.pairwise(chances))


def test_the_gpu_at_hand_has_its_row_with_what_is_free_now(ws, monkeypatch):
    live = [LiveGpu("NVIDIA L4", 22.5, 3.0), LiveGpu("NVIDIA L4", 22.5, 21.9), LiveGpu("Unheard 9000", 99.0, 96.0)]
    monkeypatch.setattr("skill.memory.estimate.live_gpus", lambda max_age_s: live)
    estimate = estimate_vram(ws, model=MODEL, method="qlora", tokens=1_000_000)
    ours = [row for row in estimate.fits if row.at_hand]
    assert estimate.fits[: len(ours)] == ours and len(estimate.fits) == 2 + len(known_gpus())
    assert [(row.gpu, row.memory_gib, row.verdict) for row in ours] == [
        ("NVIDIA L4", 21.9, "fits"),
        ("Unheard 9000", 96.0, "fits"),
    ]
    assert "NVIDIA L4" in estimate.next_step and estimate.time and estimate.time.gpu == "L4"
    live[1] = LiveGpu("NVIDIA L4", 22.5, 4.0)  # somebody else trains there
    assert estimate_vram(ws, model=MODEL, method="qlora").fits[0].verdict == "does_not_fit"
    assert not any(row.at_hand for row in estimate_vram(ws, model=MODEL, gpu="L4").fits)


def test_what_was_not_checked_says_so_by_its_interval(ws):
    def width(figure):
        return (figure.high - figure.low) / figure.value

    names = (MODEL, "microsoft/phi-2", "openai-community/gpt2", "tiiuae/falcon-7b")
    llama, *others = (width(estimate_vram(ws, model=name).device_peak.allocated_gib) for name in names)
    assert llama < 0.05 and others == pytest.approx([0.5, 0.5, 0.5], abs=0.03)
    turing, ampere = (certainty(Job(from_catalogue(MODEL)), 8.0, 0.0, 1.0, context_measured=m) for m in (True, False))
    assert ampere.process.low < turing.process.low < turing.process.high < ampere.process.high
    measured = [peak(Job(from_catalogue(MODEL)), compute_capability=c).context_measured for c in ("7.5", "8.6", "9.0")]
    assert measured == [True, True, False]


def test_the_driver_is_asked_again_only_when_its_answer_is_old(monkeypatch):
    asked = []
    monkeypatch.setattr("skill.memory.gpus._seen", None)
    monkeypatch.setattr("skill.memory.gpus._ask_driver", lambda: asked.append(1) or [LiveGpu("L4", 22.0, 20.0)])
    assert live_gpus(max_age_s=60) == live_gpus(max_age_s=60) and len(asked) == 1
    live_gpus()
    assert len(asked) == 2


def test_sharding_spreads_the_weights(ws):
    one = estimate_vram(ws, model=MODEL, method="full", batch_size=1)
    four = estimate_vram(ws, model=MODEL, method="full", batch_size=1, num_gpus=4, sharding="fsdp")
    assert four.breakdown_gib["optimizer"] == pytest.approx(one.breakdown_gib["optimizer"] / 4, rel=0.02)


def test_cpu_estimate_for_a_spec(ws):
    spec = parse(
        {
            "name": "demo",
            "model": {"id": "smollm2-135m-instruct"},
            "data": {"train": "t.jsonl", "max_length": 64},
            "method": {"type": "lora"},
            "launch": {"device": "cpu"},
        }
    )
    estimate = estimate_for(ws, spec)
    assert estimate.device == "cpu" and estimate.fits == []
    process = estimate.device_peak.process_gib
    assert process.low <= 1.44 <= process.high  # ru_maxrss of this very run on two x86-64 cores: 1.44 GiB


def test_errors_name_everything_at_once(ws):
    with pytest.raises(SpecError, match=r"batch_size(.|\n)*optimizer(.|\n)*sharding"):
        estimate_vram(ws, model=MODEL, batch_size=0, optimizer="lion", sharding="fsdp")
    with pytest.raises(ModelNotFound, match="Llama"):
        estimate_vram(ws, model="owner/absent-Llama")
    with pytest.raises(NotFound, match="H200"):
        estimate_vram(ws, model=MODEL, gpu="H900")


def test_a_local_config_gives_the_shape(ws):
    folder = ws.root / "model"
    folder.mkdir()
    config = {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    ours = estimate_vram(ws, model="model").device_peak
    assert ours == estimate_vram(ws, model="Qwen/Qwen3-0.6B").device_peak


def test_shapes_count_the_parameters_of_the_catalogue():
    dense = {"llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "gpt2", "cohere"}
    rows = {key: row for key, row in catalogue().items() if row["model_type"] in dense}
    assert len(rows) > 120
    for key, row in rows.items():
        shape = from_catalogue(key)
        assert shape is not None and shape.computed_params == row["params"], key


def test_a_multimodal_config_counts_its_text_part():
    text = {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape = from_config({"model_type": "gemma3", "text_config": {**text, "vocab_size": 100, "intermediate_size": 128}})
    assert (shape.hidden, shape.layers, shape.vocab, shape.tied) == (64, 2, 100, True)


def test_every_gpu_is_found_by_its_own_and_by_driver_names():
    for gpu in known_gpus():
        assert find_gpu(gpu.name) is gpu
    names = {"NVIDIA A100-SXM4-80GB": "A100-80GB", "Tesla T4": "T4", "rtx4090": "RTX-4090", "A10G-24GB": "A10G"}
    assert {k: find_gpu(k).name for k in names} == names


def test_import_brings_no_heavy_library():
    code = "import sys, skill.memory; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_an_answer_takes_milliseconds(ws):
    estimate_vram(ws, model=MODEL, method="lora", max_length=512)
    start = time.process_time()
    for length in range(600, 620):
        estimate_vram(ws, model=MODEL, method="lora", max_length=length)
    assert (time.process_time() - start) / 20 < 0.25
