"""The streaming merge against PEFT's own, bit for bit; and what a killed or impossible merge leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skill.adapters.bits import from_float32, to_float32
from skill.adapters.lora import NeedsPeft
from skill.adapters.merge import merge_folder
from skill.adapters.shards import read_model
from skill.errors import ConflictError, ModelUnsupported, NotFound, ResourceError
from tests.adapters.merge_cases import logits_of, merged_by_peft, save_adapter, save_base, tensors

KINDS = {
    "lora": {},
    "rank 200": {"r": 200},
    "rslora": {"use_rslora": True},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 7, "layers.1.mlp.up_proj": 3},
        "alpha_pattern": {"^model.layers.0.*": 9, "v_proj": 5},
    },
    "dora": {"use_dora": True},
    "head saved": {"modules_to_save": ["lm_head"]},
    "head and embedding saved": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "embedding saved": {"modules_to_save": ["embed_tokens"]},
    "embedding saved, kept tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "trained tokens": {"trainable_token_indices": [1, 5]},
    "lora on embedding": {"target_modules": ["q_proj", "embed_tokens"]},
}
BOUND = {"float32": 2e-6, "bfloat16": 2e-2, "float16": 3e-3}  # logits of about 0.5, two layers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_pefts_bit_for_bit(kind, tied, dtype, tmp_path):
    base = save_base(tmp_path / "base", tied=tied, dtype=dtype)
    adapter = save_adapter(base, tmp_path / "adapter", **KINDS[kind])
    theirs, unmerged = merged_by_peft(base, adapter, tmp_path / "peft")
    merge_folder(base, adapter, tmp_path / "out")
    ours = tensors(tmp_path / "out")
    if kind == "lora on embedding" and tied:
        # PEFT's merge changes the head too, which base+adapter does not; ours unties it instead
        assert ours.keys() - theirs.keys() == {"lm_head.weight"}
        del ours["lm_head.weight"]
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert float((logits_of(tmp_path / "out") - unmerged).abs().max()) < BOUND[dtype]


def test_weights_stored_input_first(tmp_path):
    """GPT-2 keeps (in, out) matrices (fan_in_fan_out)."""
    base = save_base(tmp_path / "base", kind="gpt2")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    theirs, _ = merged_by_peft(base, adapter, tmp_path / "peft")
    merge_folder(base, adapter, tmp_path / "out")
    ours = tensors(tmp_path / "out")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rank=st.sampled_from([1, 3, 16, 64]),
    hidden=st.sampled_from([32, 64, 192]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    threads=st.integers(1, 3),
    dora=st.booleans(),
)
def test_any_shape_rank_and_thread_count(tmp_path_factory, rank, hidden, dtype, threads, dora):
    tmp = tmp_path_factory.mktemp("merge")
    base = save_base(tmp / "base", hidden=hidden, dtype=dtype)
    adapter = save_adapter(base, tmp / "adapter", r=rank, target_modules="all-linear", use_dora=dora)
    theirs, _ = merged_by_peft(base, adapter, tmp / "peft")
    merge_folder(base, adapter, tmp / "out", threads=threads)
    ours = tensors(tmp / "out")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_another_dtype_is_what_peft_gives_on_a_base_loaded_in_it(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    theirs = PeftModel.from_pretrained(loaded, adapter).merge_and_unload().state_dict()
    merge_folder(base, adapter, tmp_path / "out", dtype="bfloat16")
    ours = tensors(tmp_path / "out")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_same_shards_in_the_same_order(tmp_path):
    base = save_base(tmp_path / "base")
    merge_folder(base, save_adapter(base, tmp_path / "adapter"), tmp_path / "out")
    before, after = read_model(base), read_model(tmp_path / "out")
    assert len(before) > 2
    assert [(s.file.name, [t.name for t in s.tensors]) for s in before] == [
        (s.file.name, [t.name for t in s.tensors]) for s in after
    ]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_bfloat16_rounds_as_torch(values):
    array = np.array(values, dtype=np.float32)
    wanted = torch.from_numpy(array.copy()).bfloat16()
    out, back = np.empty(len(array), np.uint16), np.empty(len(array), np.float32)
    from_float32(array.copy(), "BF16", out, np.empty(len(array), np.uint32))
    assert (out.view(np.int16) == wanted.view(torch.int16).numpy()).all()
    to_float32(out, "BF16", back)
    assert (back == wanted.float().numpy()).all()


def test_plain_lora_needs_no_torch(tmp_path):
    base = save_base(tmp_path / "base", hidden=128)
    adapter = save_adapter(base, tmp_path / "adapter")
    code = (
        "import sys; from pathlib import Path; from skill.adapters.merge import merge_folder\n"
        "merge_folder(*map(Path, sys.argv[1:])); print('torch' in sys.modules)"
    )
    argv = [sys.executable, "-c", code, str(base), str(adapter), str(tmp_path / "out")]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_a_killed_merge_never_leaves_a_model(tmp_path):
    """SIGKILL at moments spread over the merge: the folder is whole or not there, and no hidden one has a config."""
    base = save_base(tmp_path / "base", hidden=512)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules="all-linear")
    code = (
        "import sys; from pathlib import Path; from skill.adapters import merge; merge.UNIT = 4096\n"
        "print('ready', flush=True); merge.merge_folder(*map(Path, sys.argv[1:]))"
    )
    whole = merge_folder(base, adapter, tmp_path / "reference")
    killed = 0
    for moment in range(8):
        out = tmp_path / f"out-{moment}"
        argv = [sys.executable, "-c", code, str(base), str(adapter), str(out)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moment * 0.02)  # where in the merge it dies, not something waited for
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if out.exists():
            assert sum(t.nbytes for s in read_model(out) for t in s.tensors) == whole.bytes_written
        else:
            killed += 1
            for hidden in tmp_path.glob(f".{out.name}.partial-*"):
                if (hidden / "config.json").exists():  # written last: then all weights are there
                    assert sum(t.nbytes for s in read_model(hidden) for t in s.tensors) == whole.bytes_written
            merge_folder(base, adapter, out)
            assert list(tmp_path.glob(f".{out.name}.partial-*")) == [], "the next merge clears up"
    assert killed > 0


def test_a_failing_merge_leaves_nothing(tmp_path):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")

    def fail(done: int, total: int) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        merge_folder(base, adapter, tmp_path / "out", progress=fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_disk_is_asked_first(tmp_path, monkeypatch):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    monkeypatch.setattr("shutil.disk_usage", lambda path: os.terminal_size((0, 0)) and type("U", (), {"free": 1000}))
    with pytest.raises(ResourceError, match="GiB free"):
        merge_folder(base, adapter, tmp_path / "out")


def test_a_full_disk_is_named_and_nothing_is_kept(tmp_path, monkeypatch):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(ResourceError, match="disk filled up"):
        merge_folder(base, adapter, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_refusals_name_what_to_do(tmp_path):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())

    def with_config(**changes: object) -> Path:
        (adapter / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        return adapter

    with pytest.raises(ModelUnsupported, match="PREFIX_TUNING cannot be merged"):
        merge_folder(base, with_config(peft_type="PREFIX_TUNING"), tmp_path / "out")
    with pytest.raises(NeedsPeft, match="IA3"):
        merge_folder(base, with_config(peft_type="IA3"), tmp_path / "out")
    with pytest.raises(ModelUnsupported, match="does not fit this base"):
        merge_folder(save_base(tmp_path / "other", hidden=32), with_config(), tmp_path / "out")
    with pytest.raises(NotFound, match="adapter_config"):
        merge_folder(base, base, tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConflictError, match="exists"):
        merge_folder(base, adapter, tmp_path / "out")


def test_a_diverged_adapter_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelUnsupported, match="NaN or infinity"):
        merge_folder(base, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cut_file_is_named(tmp_path):
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    shard = sorted(base.glob("*.safetensors"))[0]
    with shard.open("r+b") as stream:
        stream.truncate(shard.stat().st_size - 8)
    with pytest.raises(ModelUnsupported, match="cut short"):
        merge_folder(base, adapter, tmp_path / "out")
