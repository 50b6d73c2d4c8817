"""How sure the figures are: 90 % intervals and the chance to fit, by what the job is made of.

The relative half-widths are the 90 % quantiles of the error on published measurements of the same kind of job (plain
transformers, sharded, other frameworks' code, varying lengths), rounded up; benchmarks/vram_accuracy.py
prints the share
of measured runs inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from skill.memory.job import Job

GIB = 1 << 30


@dataclass(frozen=True)
class Bounds:
    """Low and high end, bytes."""

    low: float
    high: float


@dataclass(frozen=True)
class Certainty:
    allocated: Bounds
    reserved: Bounds
    process: Bounds


# Families that keep the narrow interval.
CHECKED = {
    # Within 1 % of a trace of the installed transformers (LoRA, with and without checkpointing, five layers).
    *("qwen2", "qwen3", "gemma", "smollm3", "olmo2", "granite", "gpt_neox"),
    *("llama", "mistral", "gpt_bigcode"),  # by published runs (benchmarks/vram_accuracy.py)
    *("gemma3", "gemma3_text", "phi3"),  # the same trace, without checkpointing only
    "gemma2",  # not traced (its attention has no meta kernel); modelled as gemma3, with a soft cap
}
# Those that were not: the largest difference to the trace, rounded up. Of phi and gpt2 the step is modelled too small.
TRACED_OFF = {"stablelm": 0.03, "cohere": 0.03, "phi": 0.25, "gpt2": 0.25}
UNCHECKED = 0.25  # held against nothing yet: as far off as the worst of those that were


def spread(job: Job) -> float:
    """Relative half-width of the allocated peak's 90 % interval."""
    width = _spread(job)
    kind = job.shape.model_type
    if job.engine != "huggingface" or job.shape.moe or kind in CHECKED:
        return width
    return max(width, TRACED_OFF.get(kind, UNCHECKED))


def _spread(job: Job) -> float:
    if not job.shape.family.exact or job.shape.unexplained > 0.02 * job.shape.params:
        return 0.20
    if job.engine == "torchtune" or job.optimizer_in_backward:
        return 0.06
    if job.shape.moe:
        return 0.06  # routing is never even
    if job.sharding not in ("none", "ddp") or job.num_gpus > 1:
        return 0.012 if job.sharding == "fsdp" else 0.15
    if job.engine == "litgpt":
        return 0.15 if job.quant != "none" else 0.006
    return 0.02 if job.method == "full" and job.autocast else 0.010


def sharding_overhead(job: Job, allocated: float) -> float:
    """Bytes that collectives and their streams add outside the live tensors: NCCL buffers and blocks cached per stream
    (nvidia-smi of published FSDP runs lies 5 to 12 % above single-GPU runs of the same peak)."""
    return 0.0 if job.num_gpus == 1 else 0.08 * allocated + 1.0 * GIB


def certainty(
    job: Job, allocated: float, cached: float, context: float, *, context_measured: bool = False
) -> Certainty:
    """90 % intervals of the three counters.

    Args:
        cached: bytes the allocator holds beyond the peak.
        context: bytes of the CUDA context; measured for its compute capability, or a guess.
    """
    width = spread(job)
    live = Bounds(allocated * (1 - width), allocated * (1 + width))
    more = sharding_overhead(job, allocated)
    if job.lengths_vary:
        held = Bounds(allocated + 0.35 * cached, live.high + 1.5 * cached + more)
    else:
        held = Bounds(live.low + 0.3 * cached, live.high + 2.0 * cached + 0.02 * allocated + more)
    # A measured context differs by driver release and by the kernels that are used; a guess may be off by twice that.
    least, most = (0.3, 1.6) if context_measured else (0.2, 2.2)
    return Certainty(live, held, Bounds(held.low + least * context, held.high + most * context))


def chance_to_fit(job: Job, allocated: float, cached: float, context: float, usable: float) -> float:
    """Probability that a step runs in `usable` bytes. The allocator gives cached blocks back before it fails, so about
    half of what it holds is really needed; the rest of the doubt is the model's own."""
    need = (
        allocated + 0.5 * (0.3 * cached if job.lengths_vary else cached) + context + sharding_overhead(job, allocated)
    )
    sigma = need * max(0.02, spread(job) / 1.645 + 0.012, 0.05 if job.num_gpus > 1 else 0.0)
    return 0.5 * (1 + math.erf((usable - need) / (sigma * math.sqrt(2))))


def verdict(probability: float) -> Literal["fits", "tight", "does_not_fit"]:
    return "fits" if probability >= 0.9 else "does_not_fit" if probability <= 0.1 else "tight"
