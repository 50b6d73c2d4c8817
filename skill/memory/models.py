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


class DevicePeak(Result):
    """Peak of one device over a training step: live tensors, the allocator's cache, and what nvidia-smi shows."""

    allocated_gib: Gib
    reserved_gib: Gib
    process_gib: Gib


class GpuFit(Result):
    gpu: str
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
    next_step: str
