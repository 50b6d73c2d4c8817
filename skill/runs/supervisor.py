"""`python -m skill.runs.supervisor RUN_DIR KIND [LOCK_FD ...]`: starts one worker, waits for it, writes down its end.

Detached from whoever asked for the job. Small on purpose: no torch, and the worker writes its own log, so killing the
supervisor harms nothing; whoever looks next finds the worker running, or settles its end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from skill.runs.jobs import after_end
from skill.runs.lifecycle import settle
from skill.runs.local import worker_environment
from skill.runs.logs import shorten
from skill.runs.processes import identity, signal_job, spawn, take_lock
from skill.runs.states import Kind, kind_of
from skill.runs.store import JobRecord, load, log_file, move, run_locked, supervisor_lock, worker_lock
from skill.workspace import RunDir

TICK_S = 1.0
LEFTOVER_S = 5.0  # for what an earlier attempt's worker forked to notice that it is gone
LOG_CAP_BYTES = 64 * 2**20
GONE_GRACE_S = 30.0  # for the worker of a deleted run folder


def main() -> None:
    kind = kind_of(sys.argv[2]) if len(sys.argv) > 2 else None
    if kind is None:
        sys.exit(__doc__)
    run = RunDir(Path(sys.argv[1]))
    handles = tuple(int(text) for text in sys.argv[3:])  # the supervisor's own lock, then the slot's
    if not handles:  # started by hand, without a lock handed over
        own = take_lock(supervisor_lock(run, kind))
        if own is None:
            sys.exit(f"{run.name}: the {kind} job has a supervisor already.")
        handles = (own,)
    for handle in handles:
        os.set_inheritable(handle, False)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = _start(run, kind, keep_open=handles[1:])
    if worker is None:
        return
    _watch(run, kind, worker, stop)
    _clear(run, kind, worker)
    for handle in handles[1:]:  # whoever sees the end may take the slot at once
        os.close(handle)
    ended = _finish(run, kind, worker)
    os.close(handles[0])  # a new attempt may begin before anything that takes time
    if ended is not None:
        after_end(run, ended)


def _start(run: RunDir, kind: Kind, *, keep_open: tuple[int, ...]) -> subprocess.Popen[bytes] | None:
    """Start the worker and record it, under the run's lock: whoever cancels sees either no worker or its identity."""
    with run_locked(run):
        record = load(run, kind)
        if record is None or record.state != "created":
            return None  # cancelled meanwhile
        lock = take_lock(worker_lock(run, kind), wait_s=LEFTOVER_S)
        if lock is None:
            move(run, record, "failed", reason="A worker of an earlier attempt still runs.", cause="engine")
            return None
        log = log_file(run, kind)
        try:
            with log.open("ab") as file:
                stamp = time.strftime("%Y-%m-%d %H:%M:%S %z")
                file.write(f"[tunesmith: attempt {record.attempt}, {stamp}]\n".encode())
            env = worker_environment(run, kind)
            worker = spawn(record.argv, cwd=run.path, env=env, log=log, keep_open=(lock, *keep_open))
        except OSError as error:
            reason = f"The worker could not be started: {error.strerror or error}."
            move(run, record, "failed", ended_at=round(time.time(), 3), reason=reason, cause="engine")
            return None
        finally:
            os.close(lock)
        now = round(time.time(), 3)
        with suppress(OSError):  # disk full: the worker runs all the same, and readers find it by its lock
            move(run, record, "running", started_at=now, supervisor=identity(os.getpid()), worker=identity(worker.pid))
        return worker


def _watch(run: RunDir, kind: Kind, worker: subprocess.Popen[bytes], stop: threading.Event) -> None:
    """Until the worker ends: bound its log, kill it when a cancellation's time is over or its folder is gone."""
    ended = threading.Event()

    def wait() -> None:
        worker.wait()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    kill_at: float | None = None  # monotonic: a changed clock neither kills early nor forgets
    while not ended.wait(TICK_S):
        shorten(log_file(run, kind), LOG_CAP_BYTES)
        if kill_at is None:
            if not run.spec_file.exists():
                _signal(worker, signal.SIGTERM)
                kill_at = time.monotonic() + GONE_GRACE_S
            elif stop.is_set():  # the machine goes down: let it save a checkpoint; the system kills what is left
                _signal(worker, signal.SIGTERM)
                kill_at = float("inf")
            else:
                kill_at = _cancel_deadline(run, kind)
        elif time.monotonic() >= kill_at:
            _signal(worker, signal.SIGKILL)


def _cancel_deadline(run: RunDir, kind: Kind) -> float | None:
    record = load(run, kind)
    if record is None or record.state != "cancelling" or record.kill_after is None:
        return None
    return time.monotonic() + max(0.0, record.kill_after - time.time())


def _signal(worker: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, number)


def _clear(run: RunDir, kind: Kind, worker: subprocess.Popen[bytes]) -> None:
    """Kill what the worker left behind, in its group and outside."""
    _signal(worker, signal.SIGKILL)
    signal_job(None, worker_lock(run, kind), signal.SIGKILL)


def _finish(run: RunDir, kind: Kind, worker: subprocess.Popen[bytes]) -> JobRecord | None:
    """Write down how it ended."""
    if not run.path.is_dir():
        return None
    with run_locked(run):
        record = load(run, kind)
        if record is None or record.state not in ("running", "cancelling", "created"):
            return None
        return settle(run, record, worker.returncode)


if __name__ == "__main__":
    main()
