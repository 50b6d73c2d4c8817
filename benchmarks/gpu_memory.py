"""Predicted against measured peak memory on the GPU at hand: python benchmarks/gpu_memory.py [--quick] [--out FILE]

Random-weight models of true width and a few layers (all of them where they fit), the training step of the rendered
script: TRL 1.16's SFTTrainer on transformers 5 (chunked loss), full, LoRA and QLoRA, with and without checkpointing.
Measures torch.cuda.max_memory_allocated, max_memory_reserved and nvidia-smi's figure for this process; the last line is
one JSON object. Each case runs in a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from skill.memory.job import Job  # noqa: E402
from skill.memory.peak import peak  # noqa: E402
from skill.memory.shapes import from_catalogue  # noqa: E402

CASES: list[tuple[str, int | None, dict[str, Any]]] = [
    (model, layers, {**method, "batch": batch, "length": length, "checkpointing": checkpointing})
    for model, layers in (
        ("meta-llama/Llama-3.2-1B", None),
        ("meta-llama/Llama-3.2-3B", None),
        ("meta-llama/Llama-3.1-8B", None),
        ("Qwen/Qwen3-0.6B", None),
        ("google/gemma-3-1b-it", None),
        ("Qwen/Qwen3-30B-A3B", 4),
    )
    for method in (
        {"method": "lora"},
        {"method": "lora", "quant": "nf4-dq", "adapter_dtype": "bfloat16"},
        {"method": "full", "dtype": "float32"},
    )
    for batch, length, checkpointing in ((2, 1024, False), (4, 2048, True))
]


def job_of(model: str, layers: int | None, keys: dict[str, Any]) -> Job:
    shape = from_catalogue(model)
    assert shape is not None
    if layers is not None:
        shape = dataclasses.replace(shape, layers=layers, official_params=None)
    return Job(shape, **keys)


def measure(model: str, layers: int | None, keys: dict[str, Any]) -> dict[str, float]:
    """Run three steps of the case in this process; bytes of the three counters."""
    import tempfile

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from skill.memory.trace.build import config_of

    job = job_of(model, layers, keys)
    config = AutoConfig.for_model(job.shape.model_type, **config_of(job.shape, job.shape.layers))
    torch.manual_seed(0)
    dtype = torch.float32 if job.dtype == "float32" else torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        if job.quant != "none":
            with torch.device("cuda"):
                AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
            torch.cuda.empty_cache()
            quantisation = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            )
            network = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, quantization_config=quantisation, device_map={"": 0}
            )
        else:
            with torch.device("cuda"):
                network = AutoModelForCausalLM.from_config(config, dtype=dtype)
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel

        words = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, "a")), pad_token="a", eos_token="b"
        )
        rows = [{"input_ids": [1] * job.length, "completion_mask": [1] * job.length}] * (job.batch * 6)
        arguments = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=job.batch,
            max_steps=4,
            max_length=job.length,
            gradient_checkpointing=job.checkpointing,
            bf16=True,
            optim="adamw_torch_fused",
            report_to="none",
            save_strategy="no",
            logging_steps=1,
        )
        adapter = None
        if job.method == "lora":
            adapter = LoraConfig(r=job.rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = SFTTrainer(
            model=network,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=words,
            peft_config=adapter,
        )
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        trainer.train()
        free, total = torch.cuda.mem_get_info()
        return {
            "allocated": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
            "process": float(total - free),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the two smallest models")
    parser.add_argument("--out", default=str(ROOT / "benchmarks" / "results" / "gpu_memory.json"))
    parser.add_argument("--case", type=int, help="(inner) run one case and print it")
    args = parser.parse_args()
    if args.case is not None:
        print(json.dumps(measure(*CASES[args.case])))
        return
    rows = []
    for i, (model, layers, keys) in enumerate(CASES):
        if args.quick and model not in ("meta-llama/Llama-3.2-1B", "Qwen/Qwen3-0.6B"):
            continue
        job = job_of(model, layers, keys)
        predicted = peak(job)
        row: dict[str, Any] = {
            "model": model,
            "layers": job.shape.layers,
            **keys,
            "predicted_allocated": predicted.allocated,
        }
        done = subprocess.run([sys.executable, __file__, "--case", str(i)], capture_output=True, text=True, cwd=ROOT)
        try:
            row |= json.loads(done.stdout.strip().splitlines()[-1])
            row["error_pct"] = round(100 * (predicted.allocated / row["allocated"] - 1), 3)
        except (IndexError, ValueError):
            row["failed"] = (done.stderr.strip().splitlines() or ["no output"])[-1][:200]
        rows.append(row)
        print({k: v for k, v in row.items() if k not in ("reserved", "process")}, flush=True)
    errors = [abs(row["error_pct"]) for row in rows if "error_pct" in row]
    summary = {
        "n": len(rows),
        "measured": len(errors),
        "median_pct": round(statistics.median(errors), 3) if errors else None,
        "worst_pct": max(errors, default=None),
    }
    Path(args.out).write_text(json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
