"""Predicted against measured peak memory of completed trainings: what estimate_vram said, and what came true.

Compared are like with like: on a GPU the peak of live tensors (torch's max_memory_allocated, of rank 0), on the CPU the
largest resident set of the process (ru_maxrss).
"""

from __future__ import annotations

from contextlib import suppress
from statistics import median
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from skill.errors import TunesmithError
from skill.memory import MemoryEstimate, estimate_for
from skill.runs.jobs import current
from skill.runs.metrics import number
from skill.runs.preview import prediction, preview_file
from skill.runs.store import read_object
from skill.workspace import RunDir, Workspace, write_json


class Comparison(BaseModel):
    """One run. error_pct: (predicted - measured) / measured; inside: measured lies in the 90 % interval."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    model: str
    method: str
    device: Literal["cuda", "cpu"]
    counter: Literal["allocated", "resident"]
    predicted_gib: float
    low_gib: float
    high_gib: float
    measured_gib: float
    error_pct: float
    inside: bool


class Calibration(BaseModel):
    """The record of a workspace, newest run first."""

    model_config = ConfigDict(frozen=True)

    runs: list[Comparison]
    compared: int
    median_abs_error_pct: float | None
    inside_interval_pct: float | None = Field(description="Of the compared runs; 90 is what the intervals promise")
    not_comparable: int = Field(description="Completed runs without a prediction or a measurement")
    next_step: str


def calibration(ws: Workspace) -> Calibration:
    """Every completed training of the workspace whose peak was predicted and measured."""
    rows: list[tuple[float, Comparison]] = []
    missing = 0
    for name in ws.run_names():
        with suppress(TunesmithError):  # a folder somebody put there, a run.yaml edited by hand
            run = ws.existing_run(name)
            training = current(run, "train")
            if training is None or training.state != "completed":
                continue
            row = compared(ws, run)
            if row is None:
                missing += 1
            else:
                rows.append((training.ended_at or 0.0, row))
    found = [row for _, row in sorted(rows, key=lambda pair: pair[0], reverse=True)]
    errors = [abs(row.error_pct) for row in found]
    return Calibration(
        runs=found,
        compared=len(found),
        median_abs_error_pct=round(median(errors), 1) if errors else None,
        inside_interval_pct=round(100 * sum(row.inside for row in found) / len(found), 1) if found else None,
        not_comparable=missing,
        next_step="get_run(run_id=...) shows one of them; its report.html has the same figures."
        if found
        else "launch_training(run_id=..., dry_run=false): the first completed training makes the first row.",
    )


def compared(ws: Workspace, run: RunDir) -> Comparison | None:
    """The comparison of a completed training, as it was recorded at its end; None when something is missing."""
    return recorded(run) or _compare(ws, run)


def recorded(run: RunDir) -> Comparison | None:
    """What was kept at the end of the training."""
    kept = read_object(run.jobs / "calibration.json")
    if kept is None:
        return None
    try:
        return Comparison.model_validate(kept)
    except ValueError:  # of another version
        return None


def record(ws: Workspace, run: RunDir) -> None:
    """Keep the comparison, so that a later version of the estimate does not rewrite what this one said."""
    row = _compare(ws, run)
    if row is not None:
        write_json(run.jobs / "calibration.json", row.model_dump(mode="json"))


def _compare(ws: Workspace, run: RunDir) -> Comparison | None:
    result = read_object(run.path / "result.json")
    said = _prediction(ws, run) if result else None
    if result is None or said is None:
        return None
    counter = "allocated" if said["device"] == "cuda" else "resident"
    measured = number(result, "peak_gpu_gib" if counter == "allocated" else "peak_rss_gib")
    peak = said["allocated_gib" if counter == "allocated" else "process_gib"]
    if not measured:  # trained on another device than it was planned for, or an old result
        return None
    spec = run.spec()
    return Comparison(
        run_id=run.name,
        model=spec.model.id,
        method=spec.method.type,
        device=said["device"],
        counter=counter,
        predicted_gib=peak["value"],
        low_gib=peak["low"],
        high_gib=peak["high"],
        measured_gib=round(measured, 2),
        error_pct=round(100 * (peak["value"] - measured) / measured, 1),
        inside=peak["low"] <= measured <= peak["high"],
    )


def _prediction(ws: Workspace, run: RunDir) -> dict[str, Any] | None:
    """What the preview said before the launch; a run launched without one is estimated now."""
    kept = (read_object(preview_file(run)) or {}).get("predicted")
    if isinstance(kept, dict):
        return kept
    try:
        estimate: MemoryEstimate = estimate_for(ws, run.spec())
    except TunesmithError:
        return None
    return prediction(estimate)
