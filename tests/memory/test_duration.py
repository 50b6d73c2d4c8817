"""Hours against published ones; FLOPs, cost and disk as arithmetic."""

import pytest

from skill.errors import SpecError
from skill.memory import estimate_vram
from skill.memory.duration import (
    active_params,
    checkpoint_bytes,
    disk_bytes,
    flops_per_token,
    score_width,
    share_of_peak,
    trained_params,
    training_time,
)
from skill.memory.gpus import find_gpu, known_gpus
from skill.memory.job import Job
from skill.memory.shapes import Shape, from_catalogue
from skill.workspace import Workspace


def known(name: str) -> Shape:
    shape = from_catalogue(name)
    assert shape is not None
    return shape


A100 = find_gpu("A100-80GB")
LLAMA_8B = known("meta-llama/Llama-3.1-8B")
MISTRAL = known("mistralai/Mistral-7B-v0.1")
QWEN = {  # the first Qwen: layers, hidden, heads, intermediate
    "1.8B": Shape("qwen", 24, 2048, 16, 16, 128, 5504, 151936),
    "7B": Shape("qwen", 32, 4096, 32, 32, 128, 11008, 151936),
    "14B": Shape("qwen", 40, 5120, 40, 40, 128, 13696, 151936),
}


@pytest.mark.parametrize(
    ("shape", "method", "batch", "length", "tokens_per_s"),
    [
        # fms-acceleration, scripts/benchmarks/refs/a100_80gb.csv and a100_80gb_liger.csv, one GPU
        (MISTRAL, "full", 4, 4096, 3062.7),
        (LLAMA_8B, "full", 4, 4096, 3299.9),
        # QwenLM/Qwen README, "Profiling of Memory and Speed": 8 rows an iteration, one at a time
        (QWEN["1.8B"], "lora", 1, 256, 8 * 256 / 1.0),
        (QWEN["1.8B"], "lora", 1, 8192, 8 * 8192 / 6.8),
        (QWEN["1.8B"], "qlora", 1, 1024, 8 * 1024 / 1.4),
        (QWEN["7B"], "lora", 1, 256, 8 * 256 / 1.2),
        (QWEN["7B"], "lora", 1, 2048, 8 * 2048 / 5.2),
        (QWEN["7B"], "qlora", 1, 512, 8 * 512 / 3.0),
        (QWEN["7B"], "qlora", 1, 8192, 8 * 8192 / 22.3),
        (QWEN["14B"], "lora", 1, 4096, 8 * 4096 / 17.0),
        (QWEN["14B"], "qlora", 1, 2048, 8 * 2048 / 11.8),
    ],
)
def test_published_speeds_lie_inside_the_interval(shape, method, batch, length, tokens_per_s):
    job = Job(
        shape=shape, method="full" if method == "full" else "lora", batch=batch, length=length, checkpointing=True
    )
    job = job.but(quant="nf4") if method == "qlora" else job
    hours = training_time(job, A100, 10_000_000).hours
    assert hours.low <= 10_000_000 / tokens_per_s / 3600 <= hours.high
    assert hours.high < 5 * hours.low, "an interval that says something"


def test_lora_does_two_thirds_of_full():
    full, lora = (flops_per_token(1e9, method=method, checkpointing=False) for method in ("full", "lora"))
    assert full == 6e9 and lora == pytest.approx(full * 2 / 3)
    assert flops_per_token(1e9, method="full", checkpointing=True) == 8e9


def test_parameters_a_token_meets():
    assert active_params(LLAMA_8B) == LLAMA_8B.params - LLAMA_8B.embedding
    tied, moe = known("Qwen/Qwen3-0.6B"), known("mistralai/Mixtral-8x7B-Instruct-v0.1")
    assert active_params(tied) == tied.params
    assert 12.5e9 < active_params(moe) < 13e9, "12.9B active of 46.7B, by its paper"
    assert score_width(Shape("mistral", 2, 8, 2, 2, 4, 16, 10, sliding_window=512), 4096) == 2 * 512 * 8


def test_every_gpu_has_a_sane_share_and_the_measured_one_the_narrowest():
    spans = {}
    for gpu in known_gpus():
        share = share_of_peak(gpu, "lora")
        assert 0.05 < share.low < share.middle < share.high <= 0.8, gpu.name
        spans[gpu.compute_capability] = share.high / share.low
    assert min(spans, key=lambda key: spans[key]) == A100.compute_capability


def test_time_is_linear_in_tokens_and_falls_with_gpus():
    job = Job(shape=LLAMA_8B, batch=4, length=2048, checkpointing=True)
    one, ten = (training_time(job, A100, n * 10_000_000).hours.value for n in (1, 10))
    assert ten == pytest.approx(10 * one, rel=0.06)
    four = training_time(job.but(num_gpus=4, sharding="fsdp"), A100, 100_000_000).hours
    assert four.low < ten / 4 < four.high and four.value > ten / 4


def test_many_short_rows_pay_for_their_launches():
    job = Job(shape=LLAMA_8B, batch=1, length=2048, checkpointing=True)
    short = training_time(job, A100, 1_000_000, micro_steps=20_000).hours  # 50 tokens a row
    assert short.value > 5 * training_time(job, A100, 1_000_000).hours.value


def test_disk_of_adapter_and_of_the_whole_model():
    lora = Job(shape=LLAMA_8B, rank=16)
    assert trained_params(lora) == 41_943_040  # PEFT prints this for r=16 on all linear layers
    assert checkpoint_bytes(lora) == 3 * 4 * trained_params(lora)
    full = Job(shape=LLAMA_8B, method="full", dtype="float32")
    assert disk_bytes(full, checkpoints=1) == 4 * 4 * LLAMA_8B.params
    assert disk_bytes(lora, checkpoints=1, merged=True) - disk_bytes(lora, checkpoints=1) == 2 * LLAMA_8B.params


def test_estimate_vram_tells_time_and_cost(tmp_path):
    ws = Workspace.open(tmp_path)
    model = "meta-llama/Llama-3.1-8B"
    assert estimate_vram(ws, model=model).time is None
    asked = estimate_vram(ws, model=model, gpu="L4", method="qlora", tokens=5_000_000, price_per_gpu_hour=0.8).time
    assert asked and asked.gpu == "L4" and asked.cost
    assert asked.cost.value == pytest.approx(0.8 * asked.hours.value, rel=0.06)
    assert "not measured on this GPU" in asked.basis
    smallest = estimate_vram(ws, model=model, method="lora", tokens=5_000_000)
    assert smallest.time and smallest.time.gpu == next(row.gpu for row in smallest.fits if row.verdict == "fits")
    with pytest.raises(SpecError, match=r"tokens(.|\n)*price_per_gpu_hour"):
        estimate_vram(ws, model=model, tokens=0, price_per_gpu_hour=-1)
    with pytest.raises(SpecError, match="needs tokens"):
        estimate_vram(ws, model=model, price_per_gpu_hour=2)
