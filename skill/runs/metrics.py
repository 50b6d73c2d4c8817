"""metrics.jsonl as train.py writes it: the latest figures, the loss curves, the time that is left.

Lines: `{"event": "start", "step", "total", ...}` at the begin of each attempt, then one object a log event with `t`
(unix seconds), `step`, `total` and whichever of loss, eval_loss, learning_rate, grad_norm, tokens ... it has.
After a resume, steps behind the checkpoint come twice; the later ones count.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from skill.runs.logs import read_tail
from skill.runs.store import read_lines

TAIL_BYTES = 64 * 1024
WINDOW = 50  # log events from which speed and time left are taken
CURVE_POINTS = 400

Event = dict[str, Any]


class Latest(NamedTuple):
    """The newest figures of a run; None where nothing was logged yet. Losses are nats per trained token."""

    step: int = 0
    total: int | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    best_eval_loss: float | None = None
    best_step: int | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_s: float | None = None
    seconds_per_step: float | None = None
    rss_gib: float | None = None
    gpu_peak_gib: float | None = None
    updated_at: float | None = None


class Point(NamedTuple):
    step: int
    value: float


def number(event: Event, key: str) -> float | None:
    """A number of an event; None when absent or not one. NaN and infinity are numbers here."""
    value = event.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def recent(path: Path, size: int = TAIL_BYTES) -> list[Event]:
    """The last events of the newest attempt: from at most the last `size` bytes; a line half written is left out."""
    events: list[Event] = []
    for line in read_tail(path, size).split(b"\n"):
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and number(event, "step") is not None:
                events = [event] if event.get("event") == "start" else [*events, event]
    return events


def latest(path: Path) -> Latest:
    """The newest figures. Reads the end of the file, and the lines with an eval loss."""
    events = recent(path)
    if not events:
        return Latest()
    newest: Event = {}
    for event in events:
        newest |= {key: value for key, value in event.items() if number(event, key) is not None}
    evals = eval_curve(path)
    finite = [point for point in evals if math.isfinite(point.value)]
    best = min(finite, key=lambda point: point.value, default=None)
    speed = seconds_per_step(events)
    total = number(newest, "total")
    return Latest(
        step=int(number(events[-1], "step") or 0),
        total=int(total) if total is not None and math.isfinite(total) else None,
        epoch=number(newest, "epoch"),
        loss=number(newest, "loss"),
        eval_loss=evals[-1].value if evals else None,
        best_eval_loss=best.value if best else None,
        best_step=best.step if best else None,
        learning_rate=number(newest, "learning_rate"),
        grad_norm=number(newest, "grad_norm"),
        tokens_per_s=tokens_per_second(events),
        seconds_per_step=speed,
        rss_gib=number(newest, "rss_gib"),
        gpu_peak_gib=number(newest, "gpu_peak_gib"),
        updated_at=number(events[-1], "t"),
    )


def seconds_per_step(events: list[Event]) -> float | None:
    """Wall seconds an optimizer step took lately, evaluations and checkpoints between them included."""
    return _rate(events, "step")


def tokens_per_second(events: list[Event]) -> float | None:
    """Tokens (context and trained) a second lately: as the script measured them in its steps, else by the clock."""
    logged = [value for event in events[-WINDOW:] if (value := number(event, "tokens_per_s")) is not None]
    if logged:
        return median(logged)
    rate = _rate(events, "tokens")
    return 1 / rate if rate else None


def _rate(events: list[Event], key: str) -> float | None:
    """Seconds for each unit of a growing counter over the last WINDOW events that carry it."""
    steps = [event for event in events if event.get("event") != "start"]  # loading is not speed
    events = steps if len(steps) > 1 else events
    seen = [(t, value) for e in events if (t := number(e, "t")) is not None and (value := number(e, key)) is not None]
    seen = [pair for pair in seen if math.isfinite(pair[0]) and math.isfinite(pair[1])][-WINDOW:]
    if len(seen) < 2:
        return None
    seconds = sum(max(0.0, b[0] - a[0]) for a, b in pairwise(seen))  # a clock set back counts as no time
    grown = seen[-1][1] - seen[0][1]
    return seconds / grown if grown > 0 and seconds > 0 else None


def eta_s(figures: Latest) -> float | None:
    """Seconds until the last step at the recent speed; None when unknown."""
    if figures.total is None or figures.seconds_per_step is None:
        return None
    return max(0, figures.total - figures.step) * figures.seconds_per_step


def start_line(path: Path) -> Event:
    """The newest "start" line: rows, trained_tokens, device, versions; empty when there is none."""
    found: Event = {}
    for event in _matching(path, b'"start"'):
        if event.get("event") == "start":
            found = event
    return found


def eval_curve(path: Path) -> list[Point]:
    """Eval loss over steps."""
    return _curve(_matching(path, b'"eval_loss"', b'"start"'), "eval_loss")


def loss_curve(path: Path, points: int = CURVE_POINTS) -> list[Point]:
    """Training loss over steps, averaged down to at most `points` points; NaN stays NaN."""
    curve = _curve(list(read_lines(path)), "loss")
    if len(curve) <= points:
        return curve
    width = math.ceil(len(curve) / points)
    groups = [curve[i : i + width] for i in range(0, len(curve), width)]
    return [Point(group[-1].step, sum(p.value for p in group) / len(group)) for group in groups]


def _curve(events: list[Event], key: str) -> list[Point]:
    points: list[Point] = []
    for event in events:
        step, value = number(event, "step"), number(event, key)
        if step is None or not math.isfinite(step):
            continue
        if event.get("event") == "start":
            while points and points[-1].step > step:  # done again by this attempt
                points.pop()
        elif value is not None:
            points.append(Point(int(step), value))
    return points


def _matching(path: Path, *marks: bytes) -> list[Event]:
    """Events of the lines that hold one of `marks`; the others are not parsed."""
    events: list[Event] = []
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return events
    with file:
        for line in file:
            if any(mark in line for mark in marks):
                with suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        events.append(event)
    return events


def job_progress(path: Path) -> Event:
    """The newest line of a `jobs/<kind>.progress.jsonl`: step, total, phase; empty when there is none."""
    for line in reversed(read_tail(path, 4096).split(b"\n")):
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                return event
    return {}
