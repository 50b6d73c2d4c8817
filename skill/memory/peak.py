"""One question, one answer: the peak of a Job in three counters, by the best model that applies."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Literal

from skill.memory.certainty import sharding_overhead
from skill.memory.forms import beyond_static
from skill.memory.job import Job
from skill.memory.ledger import Step, run
from skill.memory.ledger.allocator import Allocator
from skill.memory.ledger.step import Walk

GIB = 1 << 30
# What a process holds outside PyTorch's allocator: CUDA context, kernels, cuBLAS and cuDNN handles. Two were measured,
# as nvidia-smi minus reserved: compute capability 7.5 by fitcheck-llm's T4 runs (0.148 GB, the same in 79 runs), 8.6 by
# vramcalc's A6000 runs (0.74 GB).
MEASURED_CONTEXT_GIB = {"7.5": 0.14, "8.6": 0.69}
# The others are guesses near the larger of the two; their interval is wider (certainty.py).
CONTEXT_GIB = {**MEASURED_CONTEXT_GIB, "8.0": 0.5, "8.9": 0.5, "9.0": 0.6, "10.0": 0.7, "12.0": 0.6}
DEFAULT_CONTEXT_GIB = 0.5
REPLAY_LAYERS = 4
# Lengths, as shares of the longest, of the steps before the longest one: a fixed, unsorted spread of padded batches.
VARYING = (0.55, 0.30, 0.80, 0.45, 0.95, 0.65, 0.38, 0.72, 1.0, 1.0)


@dataclass(frozen=True)
class Peak:
    """Bytes. `parts` sums to allocated; `at` is where in the step the peak lies."""

    allocated: float
    reserved: float
    process: float
    cached: float
    context: float
    context_measured: bool
    parts: dict[str, float]
    at: str
    method_used: Literal["closed_form", "traced", "analytic"]


@functools.lru_cache(maxsize=1024)
def peak(job: Job, *, compute_capability: str | None = None, quick: bool = False) -> Peak:
    """Peak bytes of one training step of `job`. `quick` skips the allocator replay (reserved by a ratio)."""
    step, method_used = _step(job)
    cached = step.allocated * 0.06 if quick else reserved_above(job)
    reserved = step.allocated + cached
    context = CONTEXT_GIB.get(compute_capability or "", DEFAULT_CONTEXT_GIB) * GIB
    process = reserved + context + sharding_overhead(job, step.allocated)
    known = compute_capability in MEASURED_CONTEXT_GIB
    return Peak(step.allocated, reserved, process, cached, context, known, step.parts, step.peak_at, method_used)


def _step(job: Job) -> tuple[Step, Literal["closed_form", "analytic"]]:
    """By the compiled form where there is one, else by walking the step on the ledger."""
    form = beyond_static(job)
    if form is None:
        return run(job), "analytic"
    return Walk(job, full=False).known(*form), "closed_form"


@functools.lru_cache(maxsize=256)
def reserved_above(job: Job) -> int:
    """Bytes the caching allocator holds beyond the live peak, by replaying its algorithm over the steps of a shallower
    model of the same shape (the large blocks are the same). Varying lengths leave blocks behind that fit no other
    length; equal lengths are in steady state after two steps."""
    shape = job.shape
    if shape.layers > REPLAY_LAYERS:
        job = job.but(shape=replace(shape, layers=REPLAY_LAYERS, official_params=None, dense_layers=0))
    allocator = Allocator()
    longest = run(job, full=True)
    allocator.allocate("static", longest.static)
    alive = longest.alive
    shares = VARYING if job.lengths_vary and job.length >= 64 else (1.0, 1.0)
    half = run(job.but(length=job.length // 2), full=True).events if shares is VARYING else longest.events
    for i, share in enumerate(shares):
        allocator.replay(_between(half, longest.events, share), i)
        for key in alive:
            allocator.free((i, key))
    return max(0, allocator.peak_reserved - allocator.peak_allocated)


def _between(half: list[tuple[int, int]], whole: list[tuple[int, int]], share: float) -> list[tuple[int, int]]:
    """The events of a step of `share` of the length, from those of half of it and of all of it (same code, so the same
    events; sizes are linear in the length but for attention scores, which only eager attention has)."""
    if share == 1.0 or len(half) != len(whole):
        return whole
    weight = 2 * (1 - share)
    return [
        (key, int(big + (small - big) * weight) if big else 0)
        for (_, small), (key, big) in zip(half, whole, strict=True)
    ]
