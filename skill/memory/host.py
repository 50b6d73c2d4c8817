"""Training on the CPU: resident memory of the process. Simple on purpose: libraries, live tensors, the
fallback kernels'
temporaries, and what the allocator of the C library keeps."""

from __future__ import annotations

from skill.memory.job import Job
from skill.memory.ledger import run
from skill.memory.models import Gib

GIB = 1 << 30
LIBRARIES_GIB = 0.85  # torch, transformers, TRL, PEFT and datasets imported, before a model: ru_maxrss on Linux x86-64
# The loss of TRL 1.16 without Triton folds each [4096, 32768] tile in torch: float32 logits and three of their size.
TILE_TOKENS, TILE_VOCAB, TILE_COPIES = 4096, 32768, 4


def host_peak(job: Job) -> tuple[Gib, dict[str, float]]:
    """(resident peak with a 90 % interval in GiB, its parts in GiB)."""
    step = run(job.but(workspace=0))
    tile = min(job.tokens, TILE_TOKENS) * min(job.shape.vocab, TILE_VOCAB) * 4 * TILE_COPIES
    live = (step.allocated + tile) / GIB
    value = LIBRARIES_GIB + live
    parts = {name: size / GIB for name, size in step.parts.items() if size > 0}
    parts |= {"libraries": LIBRARIES_GIB, "loss_tiles": tile / GIB}
    # Short rows need less, malloc's arenas and padding more: the interval is wide and says so.
    interval = Gib(
        value=round(value, 2), low=round(LIBRARIES_GIB + 0.45 * live, 2), high=round(value + 0.35 * live + 0.3, 2)
    )
    return interval, parts
