"""launch, cancel, resume: what a person or an agent does with a run."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from skill.errors import ConflictError, NotFound, ResourceError, StateError
from skill.runs import local, slots
from skill.runs.jobs import begin_attempt, current
from skill.runs.preview import GIB, KEPT_FREE_GIB, LaunchPreview, check_rendered, preview, preview_file
from skill.runs.processes import signal_job
from skill.runs.states import ENDED, KINDS, Kind
from skill.runs.status import RunStatus, get_run
from skill.runs.store import JobRecord, load, move, read_object, run_locked, worker_lock
from skill.spec import RunSpec
from skill.workspace import RunDir, Workspace

CANCEL_GRACE_S = 120.0  # to finish the current step and save a checkpoint


class LaunchStarted(BaseModel):
    """A training that was started, or was there already. The run goes on without whoever started it."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    state: str
    attempt: int
    already_there: bool = Field(description="True: the same run was launched before, nothing was started now")
    resumed_from: str | None = Field(default=None, description="The checkpoint it goes on from")
    run_dir: str
    log: str
    next_step: str


def launch(ws: Workspace, run_id: str, *, dry_run: bool = True) -> LaunchPreview | LaunchStarted:
    """Preview (the default) or start the training of a rendered run. Returns within a second; the work is detached.

    The same name and spec is the same run: launching it again while it runs, or after it completed, starts nothing.

    Raises:
        NotFound: no such run, or it was not rendered.
        ConflictError: launched before with a different spec, or the machine is busy.
        StateError: it failed or was cancelled; resume_run goes on with it.
        ResourceError: the disk cannot hold its checkpoints, or there is no GPU for launch.device cuda.
    """
    run = ws.existing_run(run_id)
    record = current(run, "train")
    if dry_run:
        return preview(ws, run, record)
    spec = run.spec()
    check_rendered(run, spec)
    if record is not None:
        _same_spec(run, record, spec)
        if record.state in ("failed", "cancelled"):
            raise StateError(
                f"Run {run_id!r} was started before and is {record.state}: {record.reason or 'no reason known'}",
                hint=f"resume_run(run_id={run_id!r}) goes on from its last checkpoint; or render it under a new name.",
            )
        return _started(run, record, already_there=True)
    return _start(ws, run, spec)


def resume_run(ws: Workspace, run_id: str) -> LaunchStarted:
    """Go on with a failed or cancelled training from its last whole checkpoint, in a new attempt.

    Raises:
        StateError: it is running, completed, or was never launched.
        ConflictError: run.yaml was changed since, or the machine is busy.
    """
    run = ws.existing_run(run_id)
    record = current(run, "train")
    if record is None:
        raise StateError(
            f"Run {run_id!r} was never launched.", hint=f"Start it: launch_training(run_id={run_id!r}, dry_run=false)"
        )
    if record.state not in ("failed", "cancelled"):
        hint = (
            f"run_eval(run_id={run_id!r}) measures it against the base."
            if record.state == "completed"
            else f"Watch it: get_run(run_id={run_id!r}, wait_s=30)"
        )
        raise StateError(f"Run {run_id!r} is {record.state}; only failed or cancelled runs resume.", hint=hint)
    spec = run.spec()
    check_rendered(run, spec)
    _same_spec(run, record, spec)
    for kind in KINDS:
        other = current(run, kind)
        if other is not None and other.state not in ENDED:
            raise ConflictError(
                f"The {kind} of run {run_id!r} is {other.state}.", hint=f"Wait: get_run(run_id={run_id!r}, wait_s=30)"
            )
    return _start(ws, run, spec)


def _start(ws: Workspace, run: RunDir, spec: RunSpec) -> LaunchStarted:
    _check_disk(run)
    checkpoint = newest_checkpoint(run)
    slot = slots.take_slot(spec, run.path)
    record = begin_attempt(run, "train", local.train_argv(), fingerprint=spec.fingerprint, slot=slot)
    started = _started(run, record, already_there=record.supervisor is None or record.slot != slot.name)
    return started.model_copy(update={"resumed_from": checkpoint.name if checkpoint else None})


def _check_disk(run: RunDir) -> None:
    """Refuse what the preview knew will not fit; what it knew, so that starting takes no time."""
    free = shutil.disk_usage(run.path).free / GIB
    known = (read_object(preview_file(run)) or {}).get("disk") or {}
    needed = known.get("needed_gib") or 0.0
    if free < needed + KEPT_FREE_GIB:
        raise ResourceError(
            f"The disk of {run.path} has {free:.1f} GiB free; checkpoints need {needed:.1f} GiB.",
            hint="Free space there, or render again with a lower training.save_total_limit.",
        )


def _started(run: RunDir, record: JobRecord, *, already_there: bool) -> LaunchStarted:
    watch = f"get_run(run_id={run.name!r}, wait_s=30) follows it."
    done = f"It is completed. run_eval(run_id={run.name!r}) measures it against the base."
    return LaunchStarted(
        run_id=run.name,
        state=record.state,
        attempt=record.attempt,
        already_there=already_there,
        run_dir=str(run.path),
        log=str(run.train_log),
        next_step=done if record.state == "completed" else watch,
    )


def _same_spec(run: RunDir, record: JobRecord, spec: RunSpec) -> None:
    if record.fingerprint and record.fingerprint != spec.fingerprint:
        raise ConflictError(
            f"Run {run.name!r} was launched with a different spec (run.yaml was changed since).",
            hint="Render the changed spec under a new name, or restore run.yaml.",
        )


def newest_checkpoint(run: RunDir) -> Path | None:
    """The newest checkpoint folder that holds what a resume needs. train.py looks into the weights as well."""
    found = [path for path in run.checkpoints.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if read_object(path / "trainer_state.json") is not None and any(path.glob("*.safetensors")):
            return path
    return None


def cancel_run(ws: Workspace, run_id: str, *, job: Kind | None = None) -> RunStatus:
    """Stop a running job of a run (training first, else merge or evaluation). Training saves a checkpoint first.

    A worker that has not stopped after two minutes is killed. Returns at once; the state is then `cancelling`.

    Raises:
        StateError: nothing of this run is running.
    """
    run = ws.existing_run(run_id)
    if job is not None and job not in KINDS:
        raise NotFound(f"No job {str(job)[:40]!r}.", hint=f"Known: {', '.join(KINDS)}.")
    states: dict[str, str] = {}
    kinds: tuple[Kind, ...] = (job,) if job else KINDS
    for kind in kinds:
        record = current(run, kind)
        if record is not None and record.state not in ENDED:
            _cancel(run, kind)
            return get_run(ws, run_id)
        states[kind] = record.state if record else "not started"
    seen = ", ".join(f"{kind} {state}" for kind, state in states.items())
    raise StateError(
        f"Nothing of run {run_id!r} is running ({seen}).", hint=f"get_run(run_id={run_id!r}) shows where it stands."
    )


def _cancel(run: RunDir, kind: Kind) -> None:
    with run_locked(run):
        record = load(run, kind)
        if record is None or record.state in ENDED:
            return
        now = round(time.time(), 3)
        if record.state in ("created", "queued"):  # no worker yet, and none will be started: that needs this lock
            move(run, record, "cancelled", ended_at=now, reason="Cancelled before it started.")
            return
        if record.state == "running":
            grace = float(os.environ.get("TUNESMITH_CANCEL_GRACE_S", CANCEL_GRACE_S))
            record = move(run, record, "cancelling", kill_after=now + grace)
        signal_job(record.worker, worker_lock(run, kind), signal.SIGTERM)
