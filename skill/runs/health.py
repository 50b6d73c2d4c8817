"""Is a run well? Sick ones by their curves, failed ones by how they ended. Thresholds are judgement, stated here.

nan_loss          a loss or gradient norm that is not a number, or infinite
empty_loss_mask   the data held no trained token, or loss and gradient are exactly 0
divergence        the loss of late is at least 1.5 times that of the first steps, and 0.5 nats above its best
overfitting       eval loss rose twice in a row, by 5 % above its best, while training loss fell
no_learning       after 30 steps and a third of the run, the loss is within 1 % of where it began
plateau           eval loss of the last three evaluations within 0.2 % of each other, and steps are left
"""

from __future__ import annotations

import math
from statistics import median

from skill.runs import metrics
from skill.runs.diagnosis import Diagnosis, of_failure, spec_patch
from skill.runs.metrics import Point
from skill.runs.store import JobRecord, error_file, read_object
from skill.workspace import RunDir

FIRST = 5  # steps that make up "where it began" and "of late"
ENOUGH_STEPS = 30


def check(run: RunDir, record: JobRecord | None) -> Diagnosis | None:
    """What is wrong with the training of a run; None when nothing is known to be."""
    if record is None or record.state in ("created", "queued", "cancelled", "cancelling"):
        return None
    ill = of_curves(run, running=record.state == "running")
    if record.state == "failed":
        ended = of_failure(run, record, record.exit_code, error=read_object(error_file(run, record.kind)))
        if ended.cause == "script_error" and ill is not None and ill.cause in ("nan_loss", "empty_loss_mask"):
            return ill  # the script stopped because of it
        return (
            ended
            if record.cause in (None, ended.cause)
            else ended.model_copy(update={"cause": record.cause, "reason": record.reason or ended.reason})
        )
    return ill


def of_curves(run: RunDir, *, running: bool) -> Diagnosis | None:
    """The first of the causes above that the metrics speak for."""
    start = metrics.start_line(run.metrics)
    if metrics.number(start, "trained_tokens") == 0:
        return _diagnosis(run, "empty_loss_mask", "No token of the data is trained.", ["start line: trained_tokens 0"])
    events = metrics.recent(run.metrics)
    for key in ("loss", "grad_norm", "eval_loss"):
        for event in events:
            value = metrics.number(event, key)
            if (value is not None and not math.isfinite(value)) or event.get(key, 0) in ("nan", "NaN", "inf"):
                step = event.get("step")
                return _diagnosis(
                    run, "nan_loss", f"{key} is not a number at step {step}.", [f"step {step}: {key} {value}"]
                )
    losses = metrics.loss_curve(run.metrics)
    if (
        len(losses) >= FIRST
        and all(p.value == 0 for p in losses)
        and not any(metrics.number(e, "grad_norm") for e in events)
    ):
        return _diagnosis(run, "empty_loss_mask", "Loss and gradient are exactly 0 from the first step.", ["loss 0.0"])
    return _of_trend(run, losses, metrics.eval_curve(run.metrics), running=running)


def _of_trend(run: RunDir, losses: list[Point], evals: list[Point], *, running: bool) -> Diagnosis | None:
    figures = metrics.latest(run.metrics)
    if len(losses) >= 2 * FIRST:
        first, late = _level(losses[:FIRST]), _level(losses[-FIRST:])
        best = min(_level(losses[i : i + FIRST]) for i in range(len(losses) - FIRST + 1))
        if late >= 1.5 * first and late >= best + 0.5:
            seen = [f"loss {first:.3f} at the start, {late:.3f} of late"]
            return _diagnosis(run, "divergence", f"The loss grows: {seen[0]}.", seen)
        third = figures.total is None or figures.step * 3 >= figures.total
        if figures.step >= ENOUGH_STEPS and third and abs(late - first) <= 0.01 * first:
            seen = [f"loss {first:.4f} at the start, {late:.4f} after {figures.step} steps"]
            return _diagnosis(run, "no_learning", f"The loss does not move: {seen[0]}.", seen)
    if len(evals) >= 3:
        best_eval = min(evals, key=lambda point: point.value)
        a, b, c = (point.value for point in evals[-3:])
        falling = len(losses) >= 2 * FIRST and _level(losses[-FIRST:]) < _level(losses[:FIRST])
        if a < b < c and c > 1.05 * best_eval.value and falling:
            seen = [f"eval loss {best_eval.value:.4f} at step {best_eval.step}, {c:.4f} at step {evals[-1].step}"]
            return _diagnosis(run, "overfitting", f"It learns the training rows by heart: {seen[0]}.", seen)
        if running and max(a, b, c) - min(a, b, c) <= 0.002 * min(a, b, c):
            seen = [f"last eval losses {a:.4f}, {b:.4f}, {c:.4f}"]
            return _diagnosis(run, "plateau", f"It has stopped improving: {seen[0]}.", seen)
    return None


def _level(points: list[Point]) -> float:
    return median(point.value for point in points)


FIXES = {
    "nan_loss": "A lower learning rate with warm-up; start under a new name, the weights of this run are spoilt.",
    "divergence": "Stop it and start under a new name with a lower learning rate.",
    "empty_loss_mask": "validate_dataset shows what is trained: often max_length cuts the answers off.",
    "overfitting": "Keep the best checkpoint (it is kept) and train for fewer epochs, or add rows.",
    "no_learning": "A higher learning rate; then check with validate_dataset that the trained part is what you meant.",
    "plateau": "Nothing is broken: stopping now (cancel_run) loses little.",
}


def _diagnosis(run: RunDir, cause: str, reason: str, evidence: list[str]) -> Diagnosis:
    return Diagnosis(cause=cause, reason=reason, evidence=evidence, fix=FIXES[cause], patch=spec_patch(run, cause))
