"""One question, one answer: the peak of a Job in three counters, by the best model that applies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skill.memory.job import Job
from skill.memory.ledger import run

GIB = 1 << 30


@dataclass(frozen=True)
class Peak:
    """Bytes. `parts` sums to allocated; `at` is where in the step the peak lies."""

    allocated: float
    reserved: float
    process: float
    parts: dict[str, float]
    at: str
    method_used: Literal["closed_form", "traced", "analytic"]


def peak(job: Job) -> Peak:
    """Peak bytes of one training step of `job`."""
    step = run(job)
    reserved = step.allocated * 1.08
    return Peak(step.allocated, reserved, reserved + 0.5 * GIB, step.parts, step.peak_at, "analytic")
