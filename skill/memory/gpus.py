"""Known GPUs (data/gpus.json, with sources) and the one at hand."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import time
from dataclasses import dataclass

from skill.errors import NotFound, did_you_mean
from skill.memory.shapes import DATA

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """usable_gib: memory a process can get, torch's total_memory (GiB). bf16_tflops: dense, fp32 accumulate."""

    name: str
    usable_gib: float
    bandwidth_gb_s: float
    bf16_tflops: float
    fp8_tflops: float | None
    compute_capability: str
    price_class: str
    source: str

    @property
    def bf16(self) -> bool:
        """bfloat16 tensor cores: sm_80 and later."""
        return not self.compute_capability[0].isdigit() or float(self.compute_capability) >= 8

    @property
    def flash(self) -> bool:
        """FlashAttention-2 kernels: sm_80 and later."""
        return self.bf16


@functools.cache
def known_gpus() -> tuple[Gpu, ...]:
    """The table, smallest memory first."""
    rows = json.loads((DATA / "gpus.json").read_text(encoding="utf-8"))["gpus"]
    return tuple(sorted((Gpu(**row) for row in rows), key=lambda gpu: (gpu.usable_gib, gpu.name)))


def find_gpu(name: str) -> Gpu:
    """A GPU by name, however written: "A100-80GB", "NVIDIA A100-SXM4-80GB", "RTX 4090", "rtx4090".

    Raises:
        NotFound: no such GPU in the table; the nearest name is given.
    """
    words = _words(name)
    best = [gpu for gpu in known_gpus() if _words(gpu.name) <= words]
    if not best:  # "A100" alone: the smallest of that name
        best = [gpu for gpu in known_gpus() if words and words <= _words(gpu.name)][:1]
    if not best:
        raise NotFound(f"No GPU {name[:60]!r} in the table.", hint=did_you_mean(name, (g.name for g in known_gpus())))
    return max(best, key=lambda gpu: len(_words(gpu.name)))


def _words(name: str) -> frozenset[str]:
    text = re.sub(r"(rtx|gtx|a|h|l|v|t|p|b)[ -]?(\d)", r"\1\2", name.lower())
    text = re.sub(r"\b(\d+)\s*(gb|gib)\b", r"\1gb", text)
    skip = {
        "nvidia",
        "tesla",
        "geforce",
        "sxm",
        "sxm2",
        "sxm4",
        "sxm5",
        "pcie",
        "hbm3",
        "hbm2e",
        "graphics",
        "amd",
        "instinct",
    }
    words = {w for w in re.split(r"[^a-z0-9]+", text) if w and w not in skip}
    return frozenset(w.removeprefix("rtx") if w.startswith("rtx") and w != "rtx" else w for w in words - {"rtx"})


@dataclass(frozen=True)
class LiveGpu:
    name: str
    total_gib: float
    free_gib: float


_seen: tuple[float, list[LiveGpu]] | None = None  # when the driver was asked last, and what it said


def live_gpus(*, max_age_s: float = 0.0) -> list[LiveGpu]:
    """GPUs of this machine with their free memory now, or as seen max_age_s ago at most; empty where there is none."""
    global _seen
    if _seen is None or time.monotonic() - _seen[0] > max_age_s:
        _seen = (time.monotonic(), _ask_driver())
    return list(_seen[1])


def _ask_driver() -> list[LiveGpu]:
    """By nvidia-smi, which needs no torch."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    out = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
            out.append(LiveGpu(parts[0], int(parts[1]) / 1024, int(parts[2]) / 1024))
    return out
