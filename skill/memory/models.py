"""What estimate_vram returns. GiB = 2^30 bytes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Gib(Result):
    """A figure with its 90 % interval, GiB."""

    value: float
    low: float
    high: float


class Span(Result):
    """A figure with its interval; the unit is in the key that holds it."""

    value: float
    low: float
    high: float


class TrainingTime(Result):
    """How long a training takes on one kind of GPU, and what it costs and leaves on the disk."""

    gpu: str
    num_gpus: int
    tokens: int
    hours: Span
    cost: Span | None = None
    disk_gib: float
    basis: str


class DevicePeak(Result):
    """Peak of one device over a training step: live tensors, the allocator's cache, and what nvidia-smi shows."""

    allocated_gib: Gib
    reserved_gib: Gib
    process_gib: Gib


class GpuFit(Result):
    """at_hand: a GPU of this machine; memory_gib is then what is free on it now, else what the card gives a process."""

    gpu: str
    at_hand: bool | None = None
    memory_gib: float
    verdict: Literal["fits", "tight", "does_not_fit"]
    probability: float


class Lever(Result):
    """One change that lowers the peak."""

    change: str
    frees_gib: float
    cost: str


class MemoryEstimate(Result):
    """Answer of estimate_vram."""

    model: str
    method: str
    device: Literal["cuda", "cpu"]
    device_peak: DevicePeak
    breakdown_gib: dict[str, float]
    fits: list[GpuFit]
    levers: list[Lever]
    assumptions: list[str]
    method_used: Literal["closed_form", "traced", "analytic"]
    time: TrainingTime | None = None
    next_step: str
