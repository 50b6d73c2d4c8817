"""Merge on disk: Tunesmith against PEFT's load + merge_and_unload + save, and against `cp` of the folder with its data
synced. Each contender runs in its own process, interleaved; medians of wall time and of peak resident memory.

    python benchmarks/merge.py                        # synthetic bf16 Llama of 1.5 B parameters, 3 rounds
    python benchmarks/merge.py --base DIR --adapter DIR

The last line is one JSON object: params, wall_ratio_vs_peft, rss_ratio_vs_peft, wall_ratio_vs_cp, bit_identical.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = ("ours", "peft", "cp")


def synthetic(folder: Path, layers: int, hidden: int, rank: int) -> tuple[Path, Path]:
    """A random bf16 Llama in shards of 1 GB and a LoRA adapter on all its linear layers, untrained but not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=hidden * 3, num_hidden_layers=layers, num_attention_heads=hidden // 128,
        num_key_value_heads=max(1, hidden // 512), vocab_size=32_000, dtype="bfloat16",
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "base", max_shard_size="1GB")
    tuned = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    tuned.save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


def peak_mib() -> float:
    """Peak resident memory of this process; ru_maxrss would count the parent's from before exec."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def step(kind: str, base: Path, adapter: Path, out: Path) -> None:
    """One contender, in this process; prints its wall seconds and peak MiB."""
    started = time.perf_counter()
    if kind == "ours":
        from skill.adapters.merge import merge_folder

        merge_folder(base, adapter, out)
    elif kind == "cp":
        shutil.copytree(base, out)
        for file in out.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    else:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out, max_shard_size="1GB")
        for file in out.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    wall = time.perf_counter() - started
    print(json.dumps({"wall_s": wall, "peak_mib": peak_mib()}))


def identical(left: Path, right: Path) -> bool:
    """Same tensors with the same bytes, wherever in the shards they lie."""
    from skill.adapters.shards import by_name, read_model

    ours, theirs = by_name(read_model(left)), by_name(read_model(right))
    if ours.keys() != theirs.keys():
        return False
    for name, tensor in ours.items():
        other = theirs[name]
        with tensor.file.open("rb") as first, other.file.open("rb") as second:
            first.seek(tensor.start)
            second.seek(other.start)
            if tensor.dtype != other.dtype or first.read(tensor.nbytes) != second.read(other.nbytes):
                return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--work", type=Path, help="folder for models and results; default: a temporary one")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step(args.step, args.base, args.adapter, args.out)
        return

    with tempfile.TemporaryDirectory(dir=args.work) as temporary:
        work = Path(temporary)
        base, adapter = args.base, args.adapter
        if base is None:
            print("building a synthetic model …", flush=True)
            base, adapter = synthetic(work, args.layers, args.hidden, args.rank)
        results: dict[str, list[dict[str, float]]] = {kind: [] for kind in STEPS}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
        same = False
        for index in range(args.rounds):
            for kind in STEPS:
                out = work / f"out-{kind}"
                shutil.rmtree(out, ignore_errors=True)
                command = [
                    sys.executable,
                    __file__,
                    "--step",
                    kind,
                    "--base",
                    base,
                    "--adapter",
                    adapter,
                    "--out",
                    out,
                ]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                figures = json.loads(done.stdout.splitlines()[-1])
                results[kind].append(figures)
                print(
                    f"round {index + 1} {kind:5} {figures['wall_s']:7.2f} s {figures['peak_mib']:8.0f} MiB",
                    flush=True,
                )
            if index == 0:
                same = identical(work / "out-ours", work / "out-peft")
        wall = {kind: statistics.median(r["wall_s"] for r in rows) for kind, rows in results.items()}
        peak = {kind: statistics.median(r["peak_mib"] for r in rows) for kind, rows in results.items()}
        from skill.adapters.shards import by_name, read_model

        params = sum(tensor.elements for tensor in by_name(read_model(base)).values())
    summary = {
        "params": params,
        "wall_s": round(wall["ours"], 2),
        "peak_mib": round(peak["ours"]),
        "wall_ratio_vs_peft": round(wall["ours"] / wall["peft"], 3),
        "rss_ratio_vs_peft": round(peak["ours"] / peak["peft"], 4),
        "wall_ratio_vs_cp": round(wall["ours"] / wall["cp"], 3),
        "bit_identical": same,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
