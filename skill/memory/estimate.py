"""The verbs of this room: estimate_vram for arguments, estimate_for for a RunSpec."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from skill.errors import NotFound, SpecError
from skill.memory.certainty import TRACED_OFF, Bounds, certainty, spread
from skill.memory.duration import training_time
from skill.memory.gpus import GIB, Gpu, find_gpu, known_gpus, live_gpus
from skill.memory.host import host_peak
from skill.memory.job import OPTIMIZERS, Job, job_from_spec
from skill.memory.models import DevicePeak, Gib, GpuFit, MemoryEstimate, TrainingTime
from skill.memory.options import fits, fits_at_hand, levers
from skill.memory.peak import Peak, peak
from skill.memory.resolve import resolve_shape
from skill.spec import RunSpec
from skill.workspace import Workspace

LIVE_AGE_S = 5.0  # nvidia-smi takes longer than an estimate; what-if questions come in bursts
Method = Literal["full", "lora", "qlora", "prefix"]
Sharding = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"]


def estimate_vram(
    ws: Workspace,
    *,
    model: str,
    method: Method = "lora",
    batch_size: int = 1,
    max_length: int = 1024,
    gradient_accumulation_steps: int = 1,
    lora_rank: int = 16,
    activation_checkpointing: bool = True,
    optimizer: str = "adamw_torch_fused",
    precision: Literal["bf16", "fp16", "fp32"] = "bf16",
    gpu: str | None = None,
    num_gpus: int = 1,
    sharding: Sharding = "none",
    tokens: int | None = None,
    price_per_gpu_hour: float | None = None,
    trace: bool = False,
) -> MemoryEstimate:
    """Peak memory of one training step of the script that render_training_script would write, per GPU.

    tokens: to be trained on in all (validate_dataset's total times epochs); gives the time on `gpu`, or on the smallest
    GPU that fits, and with price_per_gpu_hour its cost.

    trace: run the installed libraries' own code on meta tensors in a subprocess (about ten seconds) instead of the
    analytic model.

    Raises:
        SpecError: arguments out of range, all of them at once.
        ModelNotFound: no shape of the model at hand.
        NotFound: an unknown GPU.
    """
    counts = {
        "batch_size": batch_size,
        "max_length": max_length,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "lora_rank": lora_rank,
        "num_gpus": num_gpus,
    }
    problems = [f"{name} must be at least 1; got {value}." for name, value in counts.items() if value < 1]
    if optimizer not in OPTIMIZERS:
        problems.append(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got {optimizer[:40]!r}.")
    if tokens is not None and tokens < 1:
        problems.append(f"tokens must be at least 1; got {tokens}.")
    if price_per_gpu_hour is not None and price_per_gpu_hour < 0:
        problems.append(f"price_per_gpu_hour must not be negative; got {price_per_gpu_hour}.")
    if price_per_gpu_hour is not None and tokens is None:
        problems.append("price_per_gpu_hour needs tokens: a cost is hours times a price.")
    if sharding not in ("none", "ddp") and num_gpus == 1:
        problems.append(f"sharding {sharding!r} needs num_gpus of at least 2; got 1.")
    if problems:
        raise SpecError("\n- ".join(["estimate_vram cannot read its arguments:", *problems]))
    chosen = find_gpu(gpu) if gpu else None
    full = method == "full"
    job = Job(
        shape=resolve_shape(ws, model),
        method="full" if full else "prefix" if method == "prefix" else "lora",
        batch=batch_size,
        length=max_length,
        dtype="float32" if full or precision == "fp32" else "float16" if precision == "fp16" else "bfloat16",
        quant="nf4-dq" if method == "qlora" else "none",
        rank=lora_rank,
        adapter_dtype="bfloat16" if method == "qlora" else "float32",
        autocast={"bf16": "bfloat16", "fp16": "float16", "fp32": None}[precision],
        attention=_attention(chosen, precision),
        checkpointing=activation_checkpointing,
        optimizer=OPTIMIZERS[optimizer],
        accumulation=gradient_accumulation_steps,
        padded=True,
        lengths_vary=True,
        num_gpus=num_gpus,
        sharding=sharding,
    )
    return _on_gpu(job, model, method, chosen, trace=trace, tokens=tokens, price=price_per_gpu_hour)


def estimate_for(ws: Workspace, spec: RunSpec, *, gpu: str | None = None) -> MemoryEstimate:
    """The same for a RunSpec, on the device it will run on: the CPU where there is no GPU to be seen."""
    shape = resolve_shape(ws, spec.model.id, spec.model.revision)
    device = spec.launch.device
    if device == "auto":
        device = "cuda" if gpu or live_gpus() else "cpu"
    job = job_from_spec(spec, shape, device=device)
    if device == "cpu":
        return _on_cpu(job, spec.model.id, spec.method.type)
    return _on_gpu(job, spec.model.id, spec.method.type, find_gpu(gpu) if gpu else None)


def _attention(gpu: Gpu | None, precision: str) -> Literal["flash", "efficient"]:
    return "efficient" if precision == "fp32" or (gpu is not None and not gpu.flash) else "flash"


def _on_gpu(
    job: Job,
    model: str,
    method: str,
    gpu: Gpu | None,
    *,
    trace: bool = False,
    tokens: int | None = None,
    price: float | None = None,
) -> MemoryEstimate:
    result = peak(job, compute_capability=gpu.compute_capability if gpu else None)
    if trace:
        from skill.memory.trace import traced_peak

        result = traced_peak(job, result)
    sure = certainty(job, result.allocated, result.cached, result.context, context_measured=result.context_measured)
    at_hand = [] if gpu else fits_at_hand(job, result, live_gpus(max_age_s=LIVE_AGE_S))
    rows = at_hand + fits(job, result, [gpu] if gpu else known_gpus())
    return MemoryEstimate(
        model=model,
        method=method,
        device="cuda",
        device_peak=DevicePeak(
            allocated_gib=_gib(result.allocated, sure.allocated),
            reserved_gib=_gib(result.reserved, sure.reserved),
            process_gib=_gib(result.process, sure.process),
        ),
        breakdown_gib={k: round(v / GIB, 3) for k, v in result.parts.items() if v >= GIB / 2000},
        fits=rows,
        levers=levers(job),
        assumptions=_assumptions(job, result),
        method_used=result.method_used,
        time=_time(job, rows, gpu, tokens, price),
        next_step=_next(rows, gpu),
    )


def _time(
    job: Job, rows: list[GpuFit], gpu: Gpu | None, tokens: int | None, price: float | None
) -> TrainingTime | None:
    """On the GPU asked for, else on the one at hand or the smallest one that fits; None without tokens or a GPU."""
    if tokens is None:
        return None
    for name in [gpu.name] if gpu else [row.gpu for row in rows if row.verdict == "fits"]:
        with suppress(NotFound):  # a GPU at hand that the table does not know
            return training_time(job, find_gpu(name), tokens, price_per_gpu_hour=price)
    return None


def _on_cpu(job: Job, model: str, method: str) -> MemoryEstimate:
    resident, parts = host_peak(job)
    return MemoryEstimate(
        model=model,
        method=method,
        device="cpu",
        device_peak=DevicePeak(allocated_gib=resident, reserved_gib=resident, process_gib=resident),
        breakdown_gib={k: round(v, 3) for k, v in parts.items() if v >= 0.0005},
        fits=[],
        levers=levers(job),
        assumptions=["resident memory of the training process on the CPU", *_assumptions(job, None)],
        method_used="analytic",
        next_step="Call launch_training with dry_run to compare with the memory of this machine.",
    )


def _gib(value: float, bounds: Bounds) -> Gib:
    low, high = min(bounds.low, value), max(bounds.high, value)
    return Gib(value=round(value / GIB, 2), low=round(low / GIB, 2), high=round(high / GIB, 2))


def _assumptions(job: Job, result: Peak | None) -> list[str]:
    out = [f"the longest batch: {job.batch} rows of {job.length} tokens", f"shape from {job.shape.source}"]
    if job.loss == "trl_chunked":
        out.append("TRL 1.16's chunked loss: no logits tensor")
    if job.lengths_vary:
        out.append("rows of different lengths: the allocator keeps blocks of several sizes")
    if not job.shape.family.exact or job.shape.moe:
        out.append(f"model type {job.shape.model_type!r} stands on a generic decoder; pass trace for its own code")
    elif spread(job) >= TRACED_OFF["phi"]:
        out.append(f"model type {job.shape.model_type!r} was not confirmed by a trace of its code: a wide interval")
    if job.num_gpus > 1:
        out.append(f"figures are for each of {job.num_gpus} GPUs, {job.sharding}")
    if result is not None and result.method_used == "traced":
        out.append("traced with the installed transformers, PEFT and TRL")
    return out


def _next(rows: list, gpu: Gpu | None) -> str:
    smallest = next((row for row in rows if row.verdict == "fits"), None)
    if gpu is not None and smallest is None:
        return "Call estimate_vram again with one of the levers, or a larger gpu."
    if smallest is None:
        return "Call estimate_vram again with one of the levers, or with num_gpus and sharding fsdp."
    if smallest.at_hand:
        return f"Call render_training_script with these settings; {smallest.gpu}, at hand, has room for it now."
    return f"Call render_training_script with these settings; the smallest GPU that fits is {smallest.gpu}."
