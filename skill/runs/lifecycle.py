"""How a job ends, and what is true of one whose supervisor is gone.

`settle` turns "its worker is gone" into completed, failed or cancelled with a reason; the supervisor calls it at once,
any reader calls it (through `reconcile`) when the supervisor is dead. Both come to the same answer.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from typing import Any

from skill.errors import NotFound
from skill.runs import diagnosis
from skill.runs.processes import identity, is_held, signal_job, workers_of
from skill.runs.states import ACTIVE, Kind
from skill.runs.store import (
    JobRecord,
    error_file,
    load,
    log_file,
    move,
    read_object,
    result_file,
    run_locked,
    supervisor_lock,
    worker_lock,
)
from skill.runs.worker import STOPPED
from skill.workspace import RunDir

STOP_EXITS = (STOPPED, -signal.SIGTERM)


def settle(run: RunDir, record: JobRecord, exit_code: int | None) -> JobRecord:
    """The end of a job whose worker is gone, written to disk; the caller holds the run's lock.

    A result counts, whatever the exit code: it is written last, after everything it speaks of.
    `exit_code` None: nobody was there to see it.
    """
    now = round(time.time(), 3)
    changes: dict[str, Any] = {"ended_at": now, "exit_code": exit_code}
    if record.state == "created" and _was_started(run, record):  # the step to running could not be written down
        record = record.model_copy(update={"state": "running"})
    if record.state == "created":
        reason = "Its supervisor ended before the worker was started."
        return _write(run, record, "failed", **changes, reason=reason, cause="engine")
    if read_object(result_file(run, record.kind)) is not None:
        return _write(run, record, "completed", **changes)
    if record.state == "cancelling":
        return _write(run, record, "cancelled", **changes, reason=_how_it_stopped(exit_code))
    found = diagnosis.of_failure(run, record, exit_code, error=read_object(error_file(run, record.kind)))
    return _write(run, record, "failed", **changes, reason=found.reason, cause=found.cause)


def _was_started(run: RunDir, record: JobRecord) -> bool:
    """The supervisor writes a line to the log right before it starts the worker."""
    log = log_file(run, record.kind)
    return log.exists() and log.stat().st_size > record.log_offset


def _how_it_stopped(exit_code: int | None) -> str:
    if exit_code in STOP_EXITS:
        return "Cancelled; it stopped by itself."
    if exit_code == -signal.SIGKILL:
        return "Cancelled; killed because it did not stop in time. It resumes from its last checkpoint."
    return f"Cancelled; it ended with exit code {'unknown' if exit_code is None else exit_code} while stopping."


def _write(run: RunDir, record: JobRecord, state: Any, **changes: Any) -> JobRecord:
    try:
        return move(run, record, state, **changes)
    except OSError:  # a full or read-only disk: the answer is true all the same, and the next reader finds it again
        return record.model_copy(update={"state": state, **changes})


def reconcile(run: RunDir, kind: Kind) -> tuple[JobRecord | None, bool]:
    """The record as it is true now, and whether this call found the job's end.

    While the supervisor lives it keeps the record. When it is dead: a living worker is still running (and is killed
    once a cancellation's time is over); a dead one is settled here.
    """
    record = load(run, kind)
    if record is None or record.state not in ACTIVE or is_held(supervisor_lock(run, kind)):
        return record, False
    try:
        with run_locked(run):
            record = load(run, kind)
            if record is None or record.state not in ACTIVE or is_held(supervisor_lock(run, kind)):
                return record, False
            if is_held(worker_lock(run, kind)):
                return _unsupervised(run, record), False
            signal_job(None, worker_lock(run, kind), signal.SIGKILL)  # what it started in sessions of their own
            ended = settle(run, record, None)
            stored = load(run, kind)
            return ended, stored is not None and stored.state == ended.state
    except (OSError, NotFound):
        if record is None or not run.path.is_dir():
            return None, False
        if not is_held(worker_lock(run, kind)):
            return settle(run, record, None), False  # cannot lock: an answer, not written
        return record, False


def _unsupervised(run: RunDir, record: JobRecord) -> JobRecord:
    lock = worker_lock(run, record.kind)
    if record.state == "created":  # the supervisor died between starting the worker and writing it down
        found = workers_of(lock)
        if found:
            with suppress(OSError):
                started = round(found[0].create_time(), 3)
                record = move(run, record, "running", worker=identity(found[0].pid), started_at=started)
    elif record.state == "cancelling" and record.kill_after is not None and time.time() > record.kill_after:
        signal_job(record.worker, lock, signal.SIGKILL)
    return record
