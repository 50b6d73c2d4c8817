"""What a merge or evaluation worker needs: its arguments, a place for progress, and a named end.

    def main(run: RunDir, args: dict[str, Any], progress: Progress) -> dict[str, Any]: ...

    if __name__ == "__main__":
        run_worker(main)

The module is started as `python -m <module> RUN_DIR` by the supervisor, which names the job in TUNESMITH_JOB.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel

from skill.errors import TunesmithError
from skill.runs.logs import clean
from skill.runs.states import KINDS, Kind, kind_of
from skill.runs.store import append_line, args_file, error_file, progress_file, read_object, result_file
from skill.workspace import RunDir, write_json

KIND_VARIABLE = "TUNESMITH_JOB"
STOPPED = 143  # 128 + SIGTERM, as a shell reports it
INTERVAL_S = 0.5


class Progress:
    """Writes `jobs/<kind>.progress.jsonl`; at most two lines a second, every new phase and every last step at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._phase = ""
        self._written = 0.0

    def __call__(self, step: int, total: int, phase: str = "") -> None:
        now = time.monotonic()
        if phase == self._phase and step < total and now - self._written < INTERVAL_S:
            return
        self._phase, self._written = phase, now
        line = {"t": round(time.time(), 3), "step": step, "total": total, "phase": phase}
        with suppress(OSError):  # a full disk must not end the work itself
            append_line(self._path, json.dumps(line, ensure_ascii=False))


Main = Callable[[RunDir, dict[str, Any], Progress], Mapping[str, Any] | BaseModel]


def run_worker(main: Main, kind: Kind | None = None) -> NoReturn:
    """Run `main` as the job `kind` (default: TUNESMITH_JOB) of the run folder in argv, and exit.

    Exit 0 with `jobs/<kind>.result.json`; 1 with `jobs/<kind>.error.json` {code, message, hint}; 143 after SIGTERM.
    """
    chosen = kind or kind_of(os.environ.get(KIND_VARIABLE))
    if chosen is None or len(sys.argv) != 2:
        sys.exit(f"usage: {KIND_VARIABLE}={'|'.join(KINDS)} python -m MODULE RUN_DIR")
    run = RunDir(Path(sys.argv[1]).resolve())
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(STOPPED))  # so that `finally` blocks run
    try:
        result = main(run, read_object(args_file(run, chosen)) or {}, Progress(progress_file(run, chosen)))
        value = result.model_dump(mode="json") if isinstance(result, BaseModel) else dict(result)
        write_json(result_file(run, chosen), value)
    except TunesmithError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        _report(run, chosen, error.code, error.message, error.hint)
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        text = clean(f"{type(error).__name__}: {error}", limit=500)
        _report(run, chosen, "unexpected", text, "The log holds the whole traceback.")
        sys.exit(1)
    sys.exit(0)


def _report(run: RunDir, kind: Kind, code: str, message: str, hint: str) -> None:
    with suppress(OSError):
        write_json(error_file(run, kind), {"code": code, "message": message, "hint": hint})
