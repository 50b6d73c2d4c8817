"""Job records on disk: what is known of the training, merge or evaluation of a run.

One JSON file a job, `jobs/<kind>.json`, written beside and renamed under the run's lock; every step also goes to
`events.jsonl`. Nothing is kept in memory, so any number of servers and command lines may look at one workspace.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skill.errors import NotFound
from skill.runs.processes import Process, locked
from skill.runs.states import Kind, State, check
from skill.workspace import RunDir, write_json


class JobRecord(BaseModel):
    """A job of a run. Times are unix seconds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Kind
    run_id: str
    argv: list[str] = Field(default_factory=list)
    state: State = "created"
    attempt: int = 1
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    supervisor: Process | None = None
    worker: Process | None = None
    exit_code: int | None = Field(default=None, description="Of the worker; negative: the signal that ended it")
    reason: str | None = Field(default=None, description="Why it failed or was cancelled, in a sentence")
    cause: str | None = Field(default=None, description="The named cause of a failure, see diagnosis.py")
    fingerprint: str = ""
    slot: str | None = Field(default=None, description="What it runs on: cpu-0, gpu-1 …")
    log_offset: int = Field(default=0, description="Bytes of the log that belong to earlier attempts")
    kill_after: float | None = Field(default=None, description="A cancelled worker is killed at this time")


def record_file(run: RunDir, kind: Kind) -> Path:
    return run.jobs / f"{kind}.json"


def log_file(run: RunDir, kind: Kind) -> Path:
    return run.train_log if kind == "train" else run.jobs / f"{kind}.log"


def result_file(run: RunDir, kind: Kind) -> Path:
    return run.path / "result.json" if kind == "train" else run.jobs / f"{kind}.result.json"


def error_file(run: RunDir, kind: Kind) -> Path:
    return run.jobs / f"{kind}.error.json"


def args_file(run: RunDir, kind: Kind) -> Path:
    return run.jobs / f"{kind}.args.json"


def progress_file(run: RunDir, kind: Kind) -> Path:
    return run.jobs / f"{kind}.progress.jsonl"


def supervisor_lock(run: RunDir, kind: Kind) -> Path:
    """Held by the supervisor for as long as it lives."""
    return run.jobs / f".{kind}.supervisor.lock"


def worker_lock(run: RunDir, kind: Kind) -> Path:
    """Held by the worker, and by what it forks, for as long as any of them lives."""
    return run.jobs / f".{kind}.worker.lock"


@contextmanager
def run_locked(run: RunDir) -> Iterator[None]:
    """Only one process at a time changes the records of a run."""
    if not run.path.is_dir():
        raise NotFound(f"The folder of run {run.name!r} is gone.", hint="list_runs() shows the runs there are.")
    run.jobs.mkdir(exist_ok=True)
    with locked(run.jobs / ".lock"):
        yield


def load(run: RunDir, kind: Kind) -> JobRecord | None:
    """The record as it lies on disk, not compared with the processes; None when the job was never started.

    A damaged record (a failing disk: it is never written in place) is rebuilt from what else the folder holds.
    """
    try:
        text = record_file(run, kind).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return JobRecord.model_validate_json(text)
    except (ValidationError, ValueError):
        return _rebuilt(run, kind)


def _rebuilt(run: RunDir, kind: Kind) -> JobRecord:
    steps = [event for event in events(run) if event.get("job") == kind]
    last = steps[-1] if steps else {}
    fields: dict[str, Any] = {"kind": kind, "run_id": run.name, "created_at": last.get("t", 0.0)}
    with suppress(ValidationError):
        return JobRecord(
            **fields, state=last.get("to", "running"), attempt=last.get("attempt", 1), reason=last.get("reason")
        )
    return JobRecord(**fields, state="running")


def save(run: RunDir, record: JobRecord) -> JobRecord:
    """Write the record; the caller holds the run's lock. Never brings a deleted run folder back."""
    if not run.path.is_dir():
        raise NotFound(f"The folder of run {run.name!r} is gone.", hint="list_runs() shows the runs there are.")
    write_json(record_file(run, record.kind), record.model_dump(mode="json"))
    return record


def begin(run: RunDir, record: JobRecord) -> JobRecord:
    """Record a new attempt and clear what an earlier one left as its result; the caller holds the run's lock."""
    for stale in (result_file(run, record.kind), error_file(run, record.kind), progress_file(run, record.kind)):
        stale.unlink(missing_ok=True)
    save(run, record)
    _append_event(run, record, old=None)
    return record


def move(run: RunDir, record: JobRecord, new: State, **changes: Any) -> JobRecord:
    """The record in its new state, on disk before it is returned; the caller holds the run's lock.

    Raises:
        StateError: the table of states has no such step.
        OSError: the disk refuses the write; nothing changed.
    """
    check(record.state, new)
    moved = record.model_copy(update={"state": new, **changes})
    save(run, moved)
    _append_event(run, moved, old=record.state)
    return moved


def _append_event(run: RunDir, record: JobRecord, *, old: State | None) -> None:
    event = {"t": round(time.time(), 3), "job": record.kind, "from": old, "to": record.state}
    event |= {"attempt": record.attempt, "by": os.getpid()}
    event |= {key: value for key in ("reason", "cause", "slot") if (value := getattr(record, key))}
    with suppress(OSError):  # history; the record itself is written
        append_line(run.events, json.dumps(event, ensure_ascii=False))


def append_line(path: Path, line: str) -> None:
    """One line in one write: lines of several processes do not mix."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(handle, (line + "\n").encode("utf-8"))
    finally:
        os.close(handle)


def events(run: RunDir) -> list[dict[str, Any]]:
    """All recorded steps of all jobs of a run, oldest first; lines cut by a crash are skipped."""
    return list(read_lines(run.events))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a .jsonl file; anything else in it is skipped."""
    try:
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        for line in file:
            with suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None when absent or not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
