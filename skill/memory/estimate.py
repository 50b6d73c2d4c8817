"""The verbs of this room: estimate_vram for arguments, estimate_for for a RunSpec."""

from __future__ import annotations

from typing import Literal

from skill.errors import SpecError
from skill.memory.gpus import GIB, find_gpu, known_gpus
from skill.memory.job import OPTIMIZERS, Job, job_from_spec
from skill.memory.models import DevicePeak, Gib, GpuFit, Lever, MemoryEstimate
from skill.memory.peak import Peak, peak
from skill.memory.resolve import resolve_shape
from skill.spec import RunSpec
from skill.workspace import Workspace

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
    trace: bool = False,
) -> MemoryEstimate:
    """Peak memory of one training step of the script that render_run would write.

    Raises:
        SpecError: an argument out of range.
        ModelNotFound: no shape of the model at hand.
        NotFound: an unknown GPU.
    """
    problems = [
        f"{name} must be at least 1; got {value}."
        for name, value in (
            ("batch_size", batch_size),
            ("max_length", max_length),
            ("gradient_accumulation_steps", gradient_accumulation_steps),
            ("lora_rank", lora_rank),
            ("num_gpus", num_gpus),
        )
        if value < 1
    ]
    if optimizer not in OPTIMIZERS:
        problems.append(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got {optimizer[:40]!r}.")
    if problems:
        raise SpecError("\n- ".join(["estimate_vram cannot read its arguments:", *problems]))
    shape = resolve_shape(ws, model)
    full = method == "full"
    job = Job(
        shape=shape,
        method="full" if full else "prefix" if method == "prefix" else "lora",
        batch=batch_size,
        length=max_length,
        dtype="float32" if full or precision == "fp32" else "float16" if precision == "fp16" else "bfloat16",
        quant="nf4-dq" if method == "qlora" else "none",
        rank=lora_rank,
        adapter_dtype="bfloat16" if method == "qlora" else "float32",
        autocast={"bf16": "bfloat16", "fp16": "float16", "fp32": None}[precision],
        checkpointing=activation_checkpointing,
        optimizer=OPTIMIZERS[optimizer],
        accumulation=gradient_accumulation_steps,
        num_gpus=num_gpus,
        sharding=sharding,
    )
    return _answer(job, model, method, gpu)


def estimate_for(ws: Workspace, spec: RunSpec, *, gpu: str | None = None) -> MemoryEstimate:
    """The same for a RunSpec."""
    job = job_from_spec(spec, resolve_shape(ws, spec.model.id, spec.model.revision))
    return _answer(job, spec.model.id, spec.method.type, gpu)


def _answer(job: Job, model: str, method: str, gpu: str | None) -> MemoryEstimate:
    result = peak(job)
    table = [find_gpu(gpu)] if gpu else list(known_gpus())
    fits = [_fit(result, g.name, g.usable_gib) for g in table]
    return MemoryEstimate(
        model=model,
        method=method,
        device="cuda",
        device_peak=DevicePeak(
            allocated_gib=_gib(result.allocated, 0.1),
            reserved_gib=_gib(result.reserved, 0.15),
            process_gib=_gib(result.process, 0.2),
        ),
        breakdown_gib={k: round(v / GIB, 3) for k, v in result.parts.items()},
        fits=fits,
        levers=_levers(job, result),
        assumptions=[f"{job.batch} rows of {job.length} tokens", f"shape from {job.shape.source}"],
        method_used="analytic",
        next_step="Call render_training_script with these settings, or estimate_vram with one of the levers.",
    )


def _gib(value: float, spread: float) -> Gib:
    return Gib(
        value=round(value / GIB, 2), low=round(value * (1 - spread) / GIB, 2), high=round(value * (1 + spread) / GIB, 2)
    )


def _fit(result: Peak, name: str, usable: float) -> GpuFit:
    share = result.process / GIB / usable
    verdict: Literal["fits", "tight", "does_not_fit"] = (
        "fits" if share < 0.9 else "tight" if share < 1 else "does_not_fit"
    )
    probability = min(0.99, max(0.01, 0.5 + (1 - share) * 3))
    return GpuFit(gpu=name, memory_gib=usable, verdict=verdict, probability=round(probability, 2))


def _levers(job: Job, result: Peak) -> list[Lever]:
    out = []
    if not job.checkpointing:
        out.append(("activation_checkpointing true", job.but(checkpointing=True), "about a third more time"))
    if job.batch > 1:
        out.append(
            (f"batch_size {job.batch // 2}, doubled accumulation", job.but(batch=job.batch // 2), "slower steps")
        )
    if job.method == "lora" and job.quant == "none":
        out.append(("method qlora", job.but(quant="nf4-dq"), "slower; slightly lower quality"))
    rows = [
        Lever(change=c, frees_gib=round((result.allocated - peak(j).allocated) / GIB, 2), cost=w) for c, j, w in out
    ]
    return sorted((row for row in rows if row.frees_gib > 0), key=lambda row: -row.frees_gib)
