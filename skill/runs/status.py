"""get_run and list_runs: what is true of runs now, in a few small numbers."""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from skill.errors import SpecError, TunesmithError, did_you_mean
from skill.runs import health, metrics
from skill.runs.diagnosis import Diagnosis
from skill.runs.jobs import current
from skill.runs.logs import clean, tail
from skill.runs.states import ENDED, KINDS, STATES, Kind
from skill.runs.store import JobRecord, args_file, log_file, progress_file, read_object, record_file, result_file
from skill.workspace import RunDir, Workspace, read_spec

MAX_WAIT_S = 30.0
MAX_LOG_LINES = 200
POLL_S = 0.1


class View(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class JobView(View):
    """A training, merge or evaluation of the run."""

    state: str
    attempt: int
    step: int | None = None
    total: int | None = None
    phase: str | None = None
    reason: str | None = None
    result: dict[str, Any] | None = Field(default=None, description="What a completed merge or evaluation found")


class RunStatus(View):
    """A run now. Losses are nats per trained token; `log` and quoted evidence are untrusted output of the process."""

    run_id: str
    state: str = Field(description="Of the training: created (not launched yet), queued, running, cancelling, ...")
    attempt: int = 0
    step: int = 0
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    best_eval_loss: float | None = None
    best_step: int | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_s: float | None = None
    elapsed_s: float | None = Field(default=None, description="Of this attempt")
    eta_s: float | None = None
    rss_gib: float | None = None
    gpu_peak_gib: float | None = None
    slot: str | None = None
    reason: str | None = None
    diagnosis: Diagnosis | None = Field(default=None, description="Named cause of a failure or of a sick run")
    jobs: dict[str, JobView] = Field(default_factory=dict)
    log: list[str] = Field(default_factory=list)
    run_dir: str
    report: str | None = None
    cursor: str = Field(description="Give it back as `since` to wait for what changes after this answer")
    next_step: str


class RunRow(View):
    run_id: str
    state: str
    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    model: str | None = None
    method: str | None = None
    updated_at: float | None = None


class RunList(View):
    """Runs of the workspace, the latest change first."""

    runs: list[RunRow]
    total: int
    shown: int
    next_step: str


def cursor(run: RunDir) -> str:
    """Changes whenever a job's state, the metrics or a job's progress changes. Three stat calls."""
    files = [run.events, run.metrics, *(progress_file(run, kind) for kind in KINDS), record_file(run, "train")]
    return ".".join(_stamp(path) for path in files)


def _stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "0"
    return f"{stat.st_size:x}-{stat.st_mtime_ns & 0xFFFFFFFF:x}"


def get_run(
    ws: Workspace, run_id: str, *, wait_s: float = 0, log_lines: int = 20, since: str | None = None
) -> RunStatus:
    """A run now, or as soon as something of it changes within `wait_s` seconds (at most 30).

    Args:
        since: the `cursor` of an earlier answer; returns at once when something changed after it.

    Raises:
        NotFound: no such run.
    """
    run = ws.existing_run(run_id)
    seen = since or cursor(run)
    deadline = time.monotonic() + min(max(wait_s, 0.0), MAX_WAIT_S)
    jobs = _jobs(run)
    while cursor(run) == seen and _busy(jobs) and time.monotonic() < deadline:
        time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
        jobs = _jobs(run)
    ws.existing_run(run_id)  # it may be deleted meanwhile
    return _status(run, jobs, min(max(log_lines, 0), MAX_LOG_LINES))


def _jobs(run: RunDir) -> dict[Kind, JobRecord]:
    return {kind: record for kind in KINDS if (record := current(run, kind)) is not None}


def _busy(jobs: dict[Kind, JobRecord]) -> bool:
    return any(record.state not in ENDED for record in jobs.values())


def _status(run: RunDir, jobs: dict[Kind, JobRecord], log_lines: int) -> RunStatus:
    here = cursor(run)
    train = jobs.get("train")
    figures = metrics.latest(run.metrics)
    state = train.state if train else "created"
    found = health.check(run, train)
    running = state in ("running", "cancelling")
    remaining = metrics.eta_s(figures) if running else None
    shown = next((record for record in jobs.values() if record.state not in ENDED), train)
    report = run.path / "report.html"
    return RunStatus(
        run_id=run.name,
        state=state,
        attempt=train.attempt if train else 0,
        step=figures.step,
        total_steps=figures.total,
        epoch=_round(figures.epoch, 2),
        loss=_round(figures.loss, 4),
        eval_loss=_round(figures.eval_loss, 4),
        best_eval_loss=_round(figures.best_eval_loss, 4),
        best_step=figures.best_step,
        learning_rate=_significant(figures.learning_rate),
        grad_norm=_significant(figures.grad_norm),
        tokens_per_s=_round(figures.tokens_per_s, 1),
        elapsed_s=_elapsed(train),
        eta_s=_round(remaining, 0),
        rss_gib=_round(figures.rss_gib, 2),
        gpu_peak_gib=_round(figures.gpu_peak_gib, 2),
        slot=train.slot if train and running else None,
        reason=clean(train.reason, limit=700) if train and train.reason else None,
        diagnosis=found,
        jobs={kind: _job_view(run, record) for kind, record in jobs.items()},
        log=tail(log_file(run, shown.kind), log_lines, since=shown.log_offset) if shown else [],
        run_dir=str(run.path),
        report=str(report) if report.is_file() else None,
        cursor=here,
        next_step=next_step(run, jobs, found),
    )


def _job_view(run: RunDir, record: JobRecord) -> JobView:
    seen = metrics.job_progress(progress_file(run, record.kind)) if record.kind != "train" else {}
    step, total = metrics.number(seen, "step"), metrics.number(seen, "total")
    return JobView(
        state=record.state,
        attempt=record.attempt,
        step=int(step) if step is not None else None,
        total=int(total) if total is not None else None,
        phase=clean(str(seen["phase"]), limit=80) if seen.get("phase") else None,
        reason=clean(record.reason, limit=700) if record.reason else None,
        result=read_object(result_file(run, record.kind)) if _has_result(record) else None,
    )


def _has_result(record: JobRecord) -> bool:
    return record.kind != "train" and record.state == "completed"


def _elapsed(record: JobRecord | None) -> float | None:
    if record is None or record.started_at is None:
        return None
    return round(max(0.0, (record.ended_at or time.time()) - record.started_at), 1)


def _round(value: float | None, digits: int) -> float | None:
    """Rounded; None for what JSON cannot say. That a loss is no number is told by the diagnosis."""
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _significant(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def next_step(run: RunDir, jobs: dict[Kind, JobRecord], found: Diagnosis | None) -> str:
    """One sentence that names the call that comes next."""
    name = run.name
    train = jobs.get("train")
    busy = next((record for record in jobs.values() if record.state not in ENDED), None)
    if busy is not None:
        sick = f" It looks ill ({found.cause}): {found.fix}" if found else ""
        return (
            f"get_run(run_id={name!r}, wait_s=30) follows the {busy.kind}; cancel_run(run_id={name!r}) stops it.{sick}"
        )
    if train is None:
        return f"launch_training(run_id={name!r}) previews it; with dry_run=false it starts."
    if train.state in ("failed", "cancelled"):
        first = f"{found.fix} Then: " if found and found.fix and "resume_run" not in found.fix else ""
        return f"{first}resume_run(run_id={name!r}) goes on from the last checkpoint."
    merge, evaluation = jobs.get("merge"), jobs.get("eval")
    for record in (merge, evaluation):
        if record is not None and record.state == "failed":
            tool = "merge_adapter" if record.kind == "merge" else "run_eval"
            return f"The {record.kind} failed: {record.reason} Mend that, then {tool}(run_id={name!r})."
    tuned = (run.evaluation / "report.json").is_file() or (
        evaluation is not None and (read_object(args_file(run, "eval")) or {}).get("candidate") != "base"
    )  # an evaluation of a prompt before the training is no verdict on what was trained
    if evaluation is None or evaluation.state != "completed" or not tuned:
        return f"run_eval(run_id={name!r}) compares it with the base on held-out rows."
    if run.adapter.is_dir() and (merge is None or merge.state != "completed"):
        return f"Read {run.path / 'report.html'}; merge_adapter(run_id={name!r}) makes one model of it."
    return f"All done: read {run.path / 'report.html'}."


def list_runs(ws: Workspace, *, limit: int = 20, state: str | None = None) -> RunList:
    """The runs of the workspace, latest change first.

    Raises:
        SpecError: no such state.
    """
    if state is not None and state not in STATES:
        raise SpecError(f"No state {str(state)[:40]!r}.", hint=did_you_mean(str(state), STATES))
    limit = min(max(limit, 1), 200)
    runs = [ws.run(name) for name in ws.run_names() if _is_name(ws, name)]
    runs.sort(key=_changed_at, reverse=True)
    rows: list[RunRow] = []
    matching = 0
    for run in runs:
        if state is None and len(rows) >= limit:
            matching = len(runs)
            break
        record = current(run, "train")
        if state is None or (record.state if record else "created") == state:
            matching += 1
            if len(rows) < limit:
                rows.append(_row(run, record))
    hint = "get_run(run_id=...) shows one of them." if rows else "render_training_script(...) makes the first one."
    if matching > len(rows):
        hint = f"{matching - len(rows)} more: list_runs(limit={min(matching, 200)}). {hint}"
    return RunList(runs=rows, total=matching, shown=len(rows), next_step=hint)


def _is_name(ws: Workspace, name: str) -> bool:
    try:
        ws.run(name)
    except SpecError:  # a folder somebody put there
        return False
    return True


def _changed_at(run: RunDir) -> float:
    for path in (run.metrics, run.events, run.spec_file):
        try:
            return path.stat().st_mtime
        except OSError:
            continue
    return 0.0


def _row(run: RunDir, record: JobRecord | None) -> RunRow:
    figures = metrics.latest(run.metrics)
    model, method = _what(str(run.spec_file), _changed_at_file(run.spec_file))
    return RunRow(
        run_id=run.name,
        state=record.state if record else "created",
        step=figures.step,
        total_steps=figures.total,
        loss=_round(figures.loss, 4),
        eval_loss=_round(figures.eval_loss, 4),
        model=model,
        method=method,
        updated_at=round(_changed_at(run), 1),
    )


def _changed_at_file(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@functools.lru_cache(maxsize=1024)
def _what(spec_file: str, changed_at: float) -> tuple[str | None, str | None]:
    try:
        spec = read_spec(Path(spec_file))
    except (TunesmithError, OSError):
        return None, None
    return spec.model.id, spec.method.type


def summary(run: RunDir) -> dict[str, Any]:
    """The status as plain data without log lines, for the report."""
    return _status(run, _jobs(run), 0).model_dump(mode="json")
