"""Plan with numbers that hold: peak GPU memory of a training step, what fits, and what to change when it does not."""

from skill.memory.estimate import estimate_for, estimate_vram
from skill.memory.models import DevicePeak, Gib, GpuFit, Lever, MemoryEstimate, Span, TrainingTime

__all__ = [
    "DevicePeak",
    "Gib",
    "GpuFit",
    "Lever",
    "MemoryEstimate",
    "Span",
    "TrainingTime",
    "estimate_for",
    "estimate_vram",
]
