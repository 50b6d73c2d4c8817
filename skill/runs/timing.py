"""How long a training will take: from earlier runs of this machine, else from FLOPs (skill.memory.duration) and the
speed that GPUs of its kind were seen to reach, or that this CPU reaches now."""

from __future__ import annotations

import json
import platform
import time
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict

from skill.errors import NotFound
from skill.memory.duration import active_params, flops_per_token, kind_of, score_width, training_time
from skill.memory.gpus import find_gpu, live_gpus
from skill.memory.job import Job, job_from_spec
from skill.memory.shapes import Shape
from skill.runs.metrics import latest, number, recent, start_line
from skill.runs.store import JobRecord, append_line, read_lines
from skill.spec import RunSpec
from skill.workspace import RunDir, cache_dir

CPU_SHARE = (0.25, 1.0)  # of this machine's own fp32 matrix product just now, that a training step reaches
SHORTEST_S = 10  # training shorter than this says more about saving the model than about speed
BYTES_PER_TOKEN = 4.0  # of English text under a vocabulary of 32k to 150k; only where tokens were not counted


class TimeEstimate(BaseModel):
    """Expected seconds of training, evaluations and checkpoints included, with the source of the figure."""

    model_config = ConfigDict(frozen=True)

    expected_s: float
    low_s: float
    high_s: float
    source: str


def _key(spec: RunSpec, device: str) -> dict[str, Any]:
    threads = spec.launch.num_threads
    method, packing = spec.method.type, spec.data.packing
    machine = f"{platform.node()}/{device}/{threads or 'all'}"
    return {"machine": machine, "model": spec.model.id, "method": method, "packing": packing}


def remember(run: RunDir, record: JobRecord) -> None:
    """Note the speed of a completed training for later estimates; a resumed one is left out (its time is in parts)."""
    spec, figures, events = run.spec(), latest(run.metrics), recent(run.metrics)
    if record.attempt > 1 or record.started_at is None or record.ended_at is None or figures.step < 5 or not events:
        return
    line = _key(spec, "cuda" if (record.slot or "").startswith("gpu") else "cpu")
    began = number(start_line(run.metrics), "t")
    if began is None or record.ended_at - began < SHORTEST_S:
        return
    rows = spec.training.per_device_train_batch_size * spec.training.gradient_accumulation_steps
    line |= {"t": round(time.time()), "seconds_per_row": (record.ended_at - began) / (figures.step * rows)}
    line |= {"start_s": round(began - record.started_at, 1)}  # imports, loading, tokenising: the same for every length
    line |= {"bytes_per_row": _bytes_per_row(run), "steps": figures.step, "run": run.name}
    if tokens := number(start_line(run.metrics), "context_tokens"):
        line["context_tokens"] = tokens
    with suppress(OSError):
        append_line(cache_dir() / "speeds.jsonl", json.dumps(line))


def _bytes_per_row(run: RunDir) -> float | None:
    data = run.data / "train.jsonl"
    try:
        with data.open("rb") as file:
            rows = sum(1 for _ in file)
        return data.stat().st_size / rows if rows else None
    except OSError:
        return None


def expected(run: RunDir, spec: RunSpec, steps: int, *, device: str, shape: Shape | None) -> TimeEstimate | None:
    """The time `steps` optimizer steps will take; None when there is nothing to tell it from.

    Args:
        device: "cpu" or "cuda".
        shape: of the model, for the estimate from FLOPs; None when it is not known.
    """
    per_row = _bytes_per_row(run)
    if per_row is None or steps <= 0:
        return None
    micro_steps = steps * spec.training.gradient_accumulation_steps
    rows = micro_steps * spec.training.per_device_train_batch_size
    known = _key(spec, device)
    for earlier in reversed(list(read_lines(cache_dir() / "speeds.jsonl"))):
        size, speed = number(earlier, "bytes_per_row"), number(earlier, "seconds_per_row")
        if size and speed and all(earlier.get(key) == value for key, value in known.items()):
            seconds = (number(earlier, "start_s") or 0.0) + rows * speed * per_row / size
            source = f"the speed of run {str(earlier.get('run'))[:63]!r} on this machine, scaled by the bytes of a row"
            return _rounded(seconds * 0.7, seconds, seconds * 1.5, source)
    if shape is None:
        return None
    tokens = max(1, round(rows * per_row / BYTES_PER_TOKEN))
    job = job_from_spec(spec, shape, device="cuda" if device == "cuda" else "cpu")
    return _on_cpu(job, tokens, rows) if device == "cpu" else _on_gpu(job, tokens, micro_steps)


def _on_gpu(job: Job, tokens: int, micro_steps: int) -> TimeEstimate | None:
    for live in live_gpus()[:1]:
        with suppress(NotFound):
            time = training_time(job, find_gpu(live.name), tokens, micro_steps=micro_steps)
            low, middle, high = (hours * 3600 for hours in (time.hours.low, time.hours.value, time.hours.high))
            return _rounded(low, middle, high, time.basis)
    return None


def _on_cpu(job: Job, tokens: int, rows: int) -> TimeEstimate:
    length = min(job.length, max(1, round(tokens / rows)))
    flops = tokens * flops_per_token(
        active_params(job.shape),
        method=kind_of(job),
        checkpointing=job.checkpointing,
        scores=score_width(job.shape, length),
    )
    speed = matmul_flops()
    slow, fast = (flops / (speed * share) for share in CPU_SHARE)
    where = f"{speed / 1e9:.0f} GFLOP/s, the matrix product of this CPU just now"
    source = f"{flops:.2g} FLOPs over {CPU_SHARE[0]:.0%} to {CPU_SHARE[1]:.0%} of {where}"
    return _rounded(fast, (slow * fast) ** 0.5, slow, source)


def _rounded(low: float, middle: float, high: float, source: str) -> TimeEstimate:
    def two_digits(seconds: float) -> float:
        return float(f"{max(1.0, seconds):.2g}")

    return TimeEstimate(expected_s=two_digits(middle), low_s=two_digits(low), high_s=two_digits(high), source=source)


def matmul_flops(size: int = 768) -> float:
    """fp32 FLOP/s of a matrix product on this machine: best of three; about 50 ms."""
    import numpy as np

    a = np.ones((size, size), dtype=np.float32)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        np.matmul(a, a)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
