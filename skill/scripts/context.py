"""RunSpec + model + data -> the values of a template. Everything derived (steps, cadence) is derived here, once."""

from __future__ import annotations

import json
import math
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from skill.errors import DataError, MissingDependency
from skill.models import ModelInfo
from skill.spec import FullMethod, LoraFields, PrefixMethod, QloraMethod, RunSpec

EVALUATIONS = 5  # a run: enough to see where the loss turns
# The loss during training is measured on a sample of the held-out rows, so that all evaluations together cost about a
# tenth of the training (a forward pass is a third of a step: the backward costs two). run_eval measures on more.
EVAL_SHARE = 0.1
EVAL_ROWS = (32, 256)

# What the scripts import, and accelerate, which decides how they run.
DISTRIBUTIONS = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "safetensors",
    "numpy",
    "psutil",
    "jinja2",
)

IN_WORDS = {
    "full": "all weights",
    "lora": "LoRA adapters on a 16-bit base",
    "qlora": "LoRA adapters on a 4-bit base (QLoRA)",
    "prefix": "prefix tuning",
}


def total_steps(spec: RunSpec, rows: int, *, world_size: int = 1) -> int | None:
    """Optimizer steps as transformers counts them; None with packing, whose row count only the tokenizer knows.

    An upper bound when some rows turn out longer than data.max_length: train.py leaves those out.
    """
    training = spec.training
    if training.max_steps is not None:
        return training.max_steps
    if spec.data.packing:
        return None
    batches = math.ceil(rows / (training.per_device_train_batch_size * world_size))
    return math.ceil(training.num_train_epochs * math.ceil(batches / training.gradient_accumulation_steps))


def eval_steps(spec: RunSpec, total: int | None, eval_rows: int) -> int | None:
    """Optimizer steps between two evaluations; None when nothing is evaluated or the total is not known yet."""
    if not eval_rows or total is None:
        return None
    return spec.training.eval_steps or math.ceil(total / EVALUATIONS)


def sampled_rows(spec: RunSpec, rows: int, eval_rows: int) -> int:
    """How many held-out rows the loss during training is measured on."""
    training, total = spec.training, total_steps(spec, rows)
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    seen = total * batch if training.max_steps and total else rows * training.num_train_epochs
    cadence = eval_steps(spec, total, eval_rows)
    evaluations = math.ceil(total / cadence) if total and cadence else EVALUATIONS
    least, most = EVAL_ROWS
    return min(eval_rows, max(least, min(most, int(EVAL_SHARE * 3 * seen / evaluations))))


def script_context(spec: RunSpec, model: ModelInfo, *, chat_rows: bool, rows: int, eval_rows: int) -> dict[str, Any]:
    """Values for templates/train_sft.py.j2. Strings in it become literals (see skill.scripts.literals)."""
    training, method = spec.training, spec.method
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    evaluate = eval_rows > 0
    best = evaluate and training.load_best_model_at_end
    cadence: float = 1 / EVALUATIONS
    out = "model" if isinstance(method, FullMethod) else "adapter"
    lora = None
    if isinstance(method, LoraFields):
        modules = method.target_modules
        lora = {**method.model_dump(), "target_modules": modules if isinstance(modules, str) else list(modules)}
    quantised = isinstance(method, QloraMethod)
    return {
        "pins": pins(spec),
        "in_words": IN_WORDS[method.type],
        "out": out,
        "method": method.type,
        "lora": lora,
        "quantization": method.model_dump() if quantised else None,
        "prefix": method.model_dump() if isinstance(method, PrefixMethod) else None,
        "compute_dtype": {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[training.precision],
        "model_path": model.path,
        "model_id": model.hub_id,
        "revision": model.revision if model.hub_id else None,
        "dtype": spec.dtype,
        "attn_implementation": spec.model.attn_implementation,
        "chat_rows": chat_rows,
        "max_length": spec.data.max_length,
        "packing": spec.data.packing,
        "evaluate": evaluate,
        "eval_rows": sampled_rows(spec, rows, eval_rows),
        "best": best,
        "patience": training.early_stopping_patience if best else None,
        "training": training.model_dump(),
        "max_steps": training.max_steps if training.max_steps is not None else -1,
        "eval_steps": training.eval_steps or cadence,
        "save_steps": training.save_steps or training.eval_steps or cadence,
        "smoke_rows": 4 * batch,
        "seed": training.seed,
        "device": spec.launch.device,
        "num_threads": spec.launch.num_threads,
        "portions": f"{rows} rows, {batch} an optimizer step and device",
    }


def needs_bitsandbytes(spec: RunSpec) -> bool:
    return spec.method.type == "qlora" or "8bit" in spec.training.optim or spec.training.optim.startswith("paged")


def pins(spec: RunSpec) -> list[str]:
    """`name==version` of what the script imports, as installed here (the script was checked against these)."""
    names = [*DISTRIBUTIONS, *(["bitsandbytes"] if needs_bitsandbytes(spec) else [])]
    return [f"{name}=={public}" for name, public in installed(names).items()]


def installed(names: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Versions without the local part (torch 2.13.0+cpu -> 2.13.0), which no package index serves."""
    found = {}
    for name in names:
        try:
            public = version(name).partition("+")[0]
        except PackageNotFoundError as error:
            raise MissingDependency(f"{name} is not installed.", hint=f"pip install {name}") from error
        if not re.fullmatch(r"[0-9A-Za-z.!_-]+", public):
            raise MissingDependency(f"{name} has no usable version.", hint=f"pip install --force-reinstall {name}")
        found[name] = public
    return found


def has_chat_rows(data: Path) -> bool:
    """Whether data/*.jsonl hold conversations (else plain text).

    Raises:
        DataError: training rows are one, held-out rows the other.
    """
    kinds = {}
    for name in ("train.jsonl", "eval.jsonl"):
        if (data / name).is_file():
            with (data / name).open(encoding="utf-8") as lines:
                kinds[name] = isinstance(json.loads(next(lines))["prompt"], list)
    if len(set(kinds.values())) > 1:
        raise DataError(
            "Training and held-out rows are of two kinds, conversations and plain text.",
            hint="Give data.eval in the format of data.train, or leave it out: data.eval_fraction is split off then.",
        )
    return kinds["train.jsonl"]
