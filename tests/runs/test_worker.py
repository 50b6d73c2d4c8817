"""Merge and evaluation workers as real jobs."""

from __future__ import annotations

import sys

import pytest

from skill.errors import ConflictError, StateError
from skill.runs import cancel_run, get_run, start_job
from skill.runs.states import ENDED
from skill.runs.store import load, read_object, result_file
from tests.runs.conftest import MakeRun, until
from tests.runs.test_engine import start

WORKER = """
import sys, time
from pathlib import Path
from skill.errors import DataError
from skill.runs.worker import run_worker

def main(run, args, progress):
    progress(0, 4, "load")
    progress(1, 4, "merge")
    if args["how"] == "named":
        raise DataError("Row 3 is empty.", hint="Call validate_dataset.")
    if args["how"] == "unexpected":
        raise KeyError("what\\x1b[31m")
    try:
        while args["how"] == "wait" and not (run.path / "go").exists():
            time.sleep(0.005)
    finally:
        (run.path / "cleaned").touch()
    progress(4, 4, "merge")
    return {"answer": 42}

run_worker(main)
"""


@pytest.fixture
def merge(ws, make_run: MakeRun, tmp_path):
    run = make_run()
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    argv = [sys.executable, str(script), str(run.path)]
    return run, lambda how="ok": start_job(ws, run, "merge", argv, {"how": how})


def ended(run):
    return until(lambda: (record := load(run, "merge")) and record.state in ENDED and record)


def test_a_result(ws, merge):
    run, begin = merge
    assert begin().state == "created"
    assert ended(run).state == "completed"
    assert read_object(result_file(run, "merge")) == {"answer": 42}
    view = get_run(ws, run.name).jobs["merge"]
    assert (view.step, view.total, view.phase, view.state) == (4, 4, "merge", "completed")
    assert begin().attempt == 2  # again, on demand
    assert ended(run).state == "completed"


def test_a_named_error_reaches_the_status(ws, merge):
    run, begin = merge
    begin("named")
    record = ended(run)
    assert (record.state, record.cause) == ("failed", "data_invalid")
    assert get_run(ws, run.name).jobs["merge"].reason == "Row 3 is empty. Call validate_dataset."


def test_an_unexpected_error_has_its_name_and_a_log(ws, merge):
    run, begin = merge
    begin("unexpected")
    record = ended(run)
    assert (record.state, record.cause) == ("failed", "unexpected")
    assert record.reason is not None
    assert record.reason.startswith("KeyError: 'what")
    assert "Traceback" in (run.jobs / "merge.log").read_text()


def test_cancelling_runs_the_cleanup(ws, merge):
    run, begin = merge
    begin("wait")
    until(lambda: get_run(ws, run.name).jobs["merge"].phase == "merge")
    cancel_run(ws, run.name)
    record = ended(run)
    assert (record.state, record.exit_code) == ("cancelled", 143)
    assert (run.path / "cleaned").exists()


def test_the_same_job_twice_is_one_and_with_other_arguments_refused(ws, merge):
    run, begin = merge
    first = begin("wait")
    assert begin("wait").created_at == first.created_at
    with pytest.raises(ConflictError, match="with other arguments"):
        begin("ok")
    (run.path / "go").touch()
    assert ended(run).attempt == 1


def test_nothing_else_while_it_trains(ws, make_run: MakeRun):
    run = make_run(hold_at=2)
    start(ws, run)
    with pytest.raises(StateError, match="merge can start when the training is over"):
        start_job(ws, run, "merge", [sys.executable, "-c", ""], {})
