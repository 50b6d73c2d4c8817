"""A published measurement (one row of a rows file) as a Job: what the row's fields say about the code that ran.

The keys are facts of each framework's code, read in its source: which loss implementation, what k-bit preparation does,
which tensors the loop keeps. None is fitted to a measured number.
"""

from __future__ import annotations

import re
from typing import Any

from skill.memory.job import Job
from skill.memory.shapes import Shape, from_catalogue

Row = dict[str, Any]
OLD_HEADS = {"q_proj", "k_proj", "v_proj", "o_proj"}


def version(row: Row, package: str) -> tuple[int, int] | None:
    """Major and minor of a library the row states."""
    text = str((row.get("framework_versions") or {}).get(package) or "")
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


CAPABILITY = {"T4": "7.5", "A6000": "8.6", "A100": "8.0", "A10G": "8.6", "3090": "8.6", "4090": "8.9", "4080": "8.9"}


def capability(row: Row) -> str | None:
    """Compute capability of the row's GPU, for the size of its CUDA context."""
    text = str(row.get("gpu_type"))
    more = {"L40S": "8.9", "L4": "8.9", "H100": "9.0", "H200": "9.0", "B200": "10.0"}
    return next((cc for name, cc in {**CAPABILITY, **more}.items() if name in text), None)


def gpu_flash(row: Row) -> bool:
    """Does the row's GPU run FlashAttention-2 kernels (sm_80 and later)?"""
    return not any(name in str(row.get("gpu_type")) for name in ("T4", "V100", "P100", "2080", "RTX 6000 "))


def quantisation(row: Row) -> str:
    text = str(row.get("weights_dtype")).lower()
    if "gptq" in text or "gptq" in row["model"].lower():
        return "gptq"
    if "nf4" in text or "4bit" in text or "4-bit" in text or row["method"] == "qlora":
        return "nf4-dq" if "double" in text and "no double" not in text else "nf4"
    return "int8" if "int8" in text or "8bit" in text else "none"


def dtype_of(text: object, default: str = "bfloat16") -> str:
    low = str(text).lower()
    if "bf16" in low or "bfloat16" in low:
        return "bfloat16"
    if "fp16" in low or "float16" in low or "16-bit" in low:
        return "float16"
    if "fp32" in low or "float32" in low:
        return "float32"
    return default


def job_for(row: Row) -> Job | None:
    """The Job of a row, or None when the row does not say enough (no batch, no length, unknown model)."""
    shape = from_catalogue(row["model"])
    if shape is None or not row.get("micro_batch_size") or not row.get("seq_len"):
        return None
    if row["method"] not in ("full", "lora", "qlora"):
        return None
    framework = str(row.get("framework")).lower()
    for name, build in FRAMEWORKS:
        if name in framework:
            return build(row, shape)
    return huggingface(row, shape)


def _common(row: Row, shape: Shape) -> dict[str, Any]:
    method = row["method"]
    targets = row.get("target_modules")
    attention = str(row.get("attention_impl")).lower()
    quant = quantisation(row) if method == "qlora" else "none"
    return {
        "shape": shape,
        "method": "full" if method == "full" else "lora",
        "batch": row["micro_batch_size"],
        "length": row["seq_len"],
        "dtype": "bfloat16" if quant != "none" else dtype_of(row.get("weights_dtype")),
        "quant": quant,
        "rank": row.get("lora_r") or 8,
        "targets": tuple(targets) if isinstance(targets, list) else "all-linear",
        "attention": "eager" if "eager" in attention else "flash" if gpu_flash(row) else "efficient",
        "checkpointing": bool(row.get("gradient_checkpointing")),
        "accumulation": row.get("grad_accum") or 1,
        "padded": False,
        # a loop that empties the cache every few steps keeps no odd-sized blocks
        "lengths_vary": "dynamic" in str(row.get("seq_len_kind")).lower()
        and "empty_cache" not in str(row.get("notes")),
        "optimizer": optimizer(row),
        "num_gpus": row.get("gpus") or 1,
        "sharding": sharding(row),
        "offload": bool(row.get("cpu_offload")),
    }


def optimizer(row: Row) -> str:
    text = str(row.get("optimizer")).lower()
    if "paged" in text:
        return "paged"
    if "8bit" in text:
        return "adamw_8bit"
    if "cpuadam" in text:
        return "offloaded"
    if "fused" in text and "into backward" not in text:
        return "adamw_fused"
    return "adamw_foreach"


def sharding(row: Row) -> str:
    text = str(row.get("sharding") or "none").lower()
    if "no_shard" in text or "ddp" in text:
        return "ddp"
    if "fsdp" in text:
        return "fsdp"
    found = re.search(r"zero-?(\d)", text)
    return f"zero{found[1]}" if found else "none"


def autocast(row: Row) -> str | None:
    """The autocast dtype, or None for pure 16-bit."""
    compute = str(row.get("compute_dtype")).lower()
    amp = ("autocast" in compute and "no autocast" not in compute) or "amp" in compute
    return dtype_of(compute) if amp else None


def loss(row: Row) -> str:
    text = str(row.get("loss_impl")).lower()
    if "liger" in text:
        return "liger"
    if "fused_ce" in text:
        return "fused_ce"
    if "chunkedoutput" in text:
        return "torchtune_chunked"
    return "hf"


def logits(row: Row, default: tuple[int, int] = (5, 0)) -> str:
    """How the row's transformers treats the logits before the loss."""
    if "bigcode" in row["model"]:
        return "half"
    transformers = version(row, "transformers") or default
    return "rebind" if transformers < (4, 46) else "shift" if transformers < (4, 50) else "modern"


def huggingface(row: Row, shape: Shape) -> Job:
    """HF Trainer or a plain loop on transformers + PEFT."""
    keys = _common(row, shape)
    weights = str(row.get("weights_dtype")).lower()
    keys.update(
        autocast=autocast(row),
        loss=loss(row),
        logits=logits(row),
        reentrant=True,
        kbit_prepare="kbit" in weights or "fp32 (prepare" in weights,
        adapter_dtype=dtype_of(row.get("trainable_dtype"), "float32"),
    )
    return Job(**keys)


def fms(row: Row, shape: Shape) -> Job:
    """fms-acceleration scenarios: HF Trainer, SFTTrainer of TRL 0.13; the plugins named in the framework field."""
    framework = row["framework"]
    keys = _common(row, shape)
    foak = "foak" in framework
    baseline = "baseline-peft-bnb" in framework and (row.get("gpus") or 1) == 1  # TRL skips it under FSDP
    old = (version(row, "transformers") or (4, 45)) < (4, 48)
    fused_lora = foak and keys["quant"] != "none"
    keys.update(
        autocast=autocast(row),
        # before 4.48 these families copied keys and values to all heads in front of the flash kernel
        repeat_kv=old and shape.model_type in ("mistral", "mixtral", "qwen2", "phi3"),
        loss=loss(row),
        logits=logits(row, (4, 45)),  # the version its repository pinned when rows without one were written
        reentrant=True,
        kbit_prepare=baseline,
        kbit_embeddings_low=baseline,  # TRL 0.13 peft_module_casting_to_bf16
        adapter_dtype="float32",
        lora_dropout=0.1,
        norm_kernel="unsloth" if foak else "hf",
        rope_kernel="fused" if foak else "hf",
        lora_kernel="unsloth" if fused_lora else "peft",
    )
    return Job(**keys)


def fitcheck(row: Row, shape: Shape) -> Job:
    """fitcheck-llm scripts/measure.py: float16 base, float32 adapters, no autocast, the loop holds the outputs."""
    job = huggingface(row, shape)
    return job.but(
        dtype="float16", autocast=None, outputs_alive=True, clip=False, adapter_dtype="float32", reentrant=False
    )


def canif(row: Row, shape: Shape) -> Job:
    """can-i-finetune-this benchmark.py: eager attention, all-ones mask, the loop holds the last outputs."""
    job = huggingface(row, shape)
    return job.but(outputs_alive=True, clip=False, kbit_prepare=row["method"] == "qlora", adapter_dtype="float32")


def litgpt(row: Row, shape: Shape) -> Job:
    """litgpt finetune/lora.py: bf16-true, dropout 0.05, bitsandbytes 0.41 or 0.42 (its pins until 2025)."""
    keys = _common(row, shape)
    keys.update(
        engine="litgpt",
        autocast=None,
        loss="litgpt_chunked",
        outputs_alive=True,
        adapter_dtype="bfloat16",
        lora_dropout=0.05,
        clip=False,
        bnb_saves_input=True,
        bnb_half=True,
        reentrant=False,
    )
    return Job(**keys)


def torchtune(row: Row, shape: Shape) -> Job:
    """torchtune recipes: pure bf16; compiled layers keep what one-kernel norms and rotary keep."""
    keys = _common(row, shape)
    text = str(row.get("optimizer")).lower()
    compiled = bool(row.get("compile"))
    offloads = "activation offloading" in str(row.get("notes"))
    keys.update(
        autocast=None,
        loss=loss(row),
        adapter_dtype="bfloat16",
        norm_kernel="fused" if compiled else "hf",
        rope_kernel="fused" if compiled else "hf",
        mlp_kernel="compiled" if compiled else "hf",
        optimizer_in_backward="into backward" in text or "in_bwd" in text,
        offload_activations=offloads and keys["checkpointing"],
        clip=False,
    )
    return Job(**keys)


FRAMEWORKS = [
    ("torchtune", torchtune),
    ("litgpt", litgpt),
    ("fms-hf-tuning", fms),
    ("scripts/measure.py", fitcheck),
    ("canifinetune", canif),
]
