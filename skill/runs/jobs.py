"""Starting a job, reading it as it is now, and what follows its end: the report, the merge that was asked for."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skill.errors import ConflictError, ResourceError, StateError, TunesmithError
from skill.runs import local, timing
from skill.runs.lifecycle import reconcile
from skill.runs.processes import identity, is_held, reap_later, spawn, take_lock
from skill.runs.slots import Slot
from skill.runs.states import ENDED, Kind
from skill.runs.store import (
    JobRecord,
    args_file,
    begin,
    load,
    log_file,
    move,
    read_object,
    run_locked,
    save,
    supervisor_lock,
    worker_lock,
)
from skill.workspace import RunDir, Workspace, write_json

ENDING_S = 0.5  # between the end of a job on disk and the end of its supervisor's lock lie milliseconds


def current(run: RunDir, kind: Kind) -> JobRecord | None:
    """The job as it is true now; None when it was never started. Finds the end of jobs whose supervisor died."""
    record, found_end = reconcile(run, kind)
    if record is not None and found_end:
        after_end(run, record)
    return record


def start_job(
    ws: Workspace, run: RunDir, kind: Kind, argv: list[str], args: Mapping[str, Any] | None = None
) -> JobRecord:
    """Start a merge or an evaluation of a run, detached; returns at once. The same call while it runs is the same job.

    Raises:
        ConflictError: the job runs with other arguments.
        StateError: the training of this run is not over.
    """
    training = current(run, "train")
    if kind != "train" and training is not None and training.state not in ENDED:
        raise StateError(
            f"Run {run.name!r} is {training.state}; its {kind} can start when the training is over.",
            hint=f"Wait for it: get_run(run_id={run.name!r}, wait_s=30)",
        )
    given = json.loads(json.dumps(dict(args or {}), default=str))
    running = current(run, kind)
    if running is not None and running.state not in ENDED:
        if read_object(args_file(run, kind)) == given:
            return running
        raise ConflictError(
            f"The {kind} of run {run.name!r} runs already, with other arguments.",
            hint=f"Wait for it with get_run(run_id={run.name!r}, wait_s=30), or cancel_run(run_id={run.name!r}).",
        )
    return begin_attempt(run, kind, argv, args=given)


def begin_attempt(
    run: RunDir,
    kind: Kind,
    argv: list[str],
    *,
    args: Mapping[str, Any] | None = None,
    fingerprint: str = "",
    slot: Slot | None = None,
) -> JobRecord:
    """Record a new attempt and start its supervisor, which holds `slot` from now on.

    Someone who came first wins: then the record of that attempt is returned and the slot is released.
    """
    try:
        with run_locked(run):
            previous = load(run, kind)
            if previous is not None and previous.state not in ENDED:
                return previous
            own = take_lock(supervisor_lock(run, kind), wait_s=ENDING_S)
            if own is None or is_held(worker_lock(run, kind)):
                raise StateError(
                    f"Processes of the last {kind} of run {run.name!r} are still ending.", hint="Try again in a moment."
                )
            try:
                log = log_file(run, kind)
                record = begin(
                    run,
                    JobRecord(
                        kind=kind,
                        run_id=run.name,
                        argv=argv,
                        attempt=previous.attempt + 1 if previous else 1,
                        created_at=round(time.time(), 3),
                        fingerprint=fingerprint,
                        slot=slot.name if slot else None,
                        log_offset=log.stat().st_size if log.exists() else 0,
                    ),
                )
                if args is not None:
                    write_json(args_file(run, kind), args)
                return _start_supervisor(run, record, [own, *([slot.handle] if slot else [])], slot)
            finally:
                os.close(own)
    except OSError as error:
        if isinstance(error, TunesmithError):
            raise
        raise ResourceError(
            f"The job cannot be recorded in {run.path}: {error.strerror or error}.", hint="Free space on that disk."
        ) from error
    finally:
        if slot:
            os.close(slot.handle)


def _start_supervisor(run: RunDir, record: JobRecord, handles: list[int], slot: Slot | None) -> JobRecord:
    argv = local.supervisor_argv(run, record.kind, handles)
    log = run.jobs / f".{record.kind}.supervisor.log"
    try:
        process = spawn(argv, cwd=run.path, env=local.supervisor_environment(slot), log=log, keep_open=tuple(handles))
    except OSError as error:
        reason = f"The supervisor could not be started: {error.strerror or error}."
        return move(run, record, "failed", ended_at=round(time.time(), 3), reason=reason, cause="engine")
    reap_later(process)
    return save(run, record.model_copy(update={"supervisor": identity(process.pid)}))


def after_end(run: RunDir, record: JobRecord) -> None:
    """What follows the end of a job. A failure here never touches the job's own state."""
    for step in (_remember_speed, _remember_memory, _merge_if_asked, _report):
        try:
            step(run, record)
        except Exception:  # the supervisor's last act: written to its log
            traceback.print_exc(file=sys.stderr)


def _remember_speed(run: RunDir, record: JobRecord) -> None:
    if record.kind == "train" and record.state == "completed":
        timing.remember(run, record)


def _remember_memory(run: RunDir, record: JobRecord) -> None:
    from skill.runs import accuracy  # only at the end, as the report

    if record.kind == "train" and record.state == "completed":
        accuracy.record(workspace_of(run), run)


def _merge_if_asked(run: RunDir, record: JobRecord) -> None:
    if record.kind != "train" or record.state != "completed" or not run.spec().launch.merge_after:
        return
    argv = [sys.executable, "-m", "skill.adapters.worker", str(run.path)]
    start_job(workspace_of(run), run, "merge", argv, {"base": "auto", "dtype": None})


def _report(run: RunDir, record: JobRecord) -> None:
    from skill.runs.report import write_report  # only at the end: keeps the supervisor small while it waits

    write_report(run)


def workspace_of(run: RunDir) -> Workspace:
    """The workspace a run folder lies in: `<root>/runs/<name>`."""
    return Workspace(Path(run.path).resolve().parents[1])
