"""The engine with real processes: start, watch, cancel, resume, idempotence, busy machine."""

from __future__ import annotations

import time

import pytest

from skill.errors import ConflictError, NotFound, StateError
from skill.runs import cancel_run, get_run, launch, list_runs, resume_run
from skill.runs.control import LaunchStarted
from skill.runs.processes import is_same
from skill.runs.states import ENDED
from skill.runs.store import events, load, read_object, record_file
from skill.workspace import read_spec, write_spec
from tests.runs.conftest import MakeRun, until


def start(ws, run) -> LaunchStarted:
    started = launch(ws, run.name, dry_run=False)
    assert isinstance(started, LaunchStarted)
    return started


def ended(ws, run, within_s=20.0):
    return until(lambda: (s := get_run(ws, run.name, wait_s=5)).state in ENDED and s, within_s=within_s)


def weights(run) -> str:
    return (run.adapter / "adapter_model.safetensors").read_text()


def test_a_run_from_launch_to_completion(ws, make_run: MakeRun):
    run = make_run(hold_at=3)
    before = time.monotonic()
    started = start(ws, run)
    assert time.monotonic() - before < 1.0
    assert started.state == "created"
    assert not started.already_there
    seen = until(lambda: (s := get_run(ws, run.name)).step == 3 and s)
    assert seen.state == "running"
    assert (seen.total_steps, seen.loss, seen.eval_loss, seen.slot) == (8, 1.3333, 2.5, "cpu-0")
    assert "get_run" in seen.next_step
    (run.path / "go").touch()
    done = ended(ws, run)
    assert done.state == "completed", done
    assert (done.step, done.attempt, done.best_eval_loss, done.best_step) == (8, 1, 0.625, 8)
    assert "run_eval" in done.next_step
    record = load(run, "train")
    assert record is not None
    assert record.exit_code == 0
    assert [event["to"] for event in events(run)] == ["created", "running", "completed"]
    until(lambda: (run.path / "report.html").exists())


def test_launching_again_is_the_same_run(ws, make_run: MakeRun):
    run = make_run(hold_at=2)
    start(ws, run)
    until(lambda: get_run(ws, run.name).state == "running")
    again = start(ws, run)
    assert (again.already_there, again.attempt, again.state) == (True, 1, "running")
    (run.path / "go").touch()
    ended(ws, run)
    last = start(ws, run)
    assert (last.already_there, last.attempt, last.state) == (True, 1, "completed")
    assert "run_eval" in last.next_step


def test_a_different_spec_under_the_same_name_is_refused(ws, make_run: MakeRun):
    run = make_run(hold_at=2)
    start(ws, run)
    until(lambda: get_run(ws, run.name).state == "running")
    spec = read_spec(run.spec_file)
    write_spec(spec.model_copy(update={"training": spec.training.model_copy(update={"seed": 7})}), run.spec_file)
    with pytest.raises(ConflictError, match=r"run\.yaml of 'one' was changed"):
        launch(ws, run.name, dry_run=False)
    (run.path / "provenance.json").unlink()  # even where nothing tells what the script was rendered from
    with pytest.raises(ConflictError, match="different spec"):
        launch(ws, run.name, dry_run=False)


def test_a_second_run_on_a_busy_machine_is_refused_with_the_name_of_the_first(ws, make_run: MakeRun):
    first, second = make_run("first", hold_at=2), make_run("second")
    start(ws, first)
    with pytest.raises(ConflictError, match=r"CPU is busy: first is training.*get_run\(run_id='first'"):
        launch(ws, second.name, dry_run=False)
    assert load(second, "train") is None
    assert launch(ws, second.name).busy_with == ["first"]
    (first.path / "go").touch()
    ended(ws, first)
    start(ws, second)  # whoever sees the end may start the next at once
    assert ended(ws, second).state == "completed"


def test_two_slots_run_two_trainings(ws, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNESMITH_CPU_SLOTS", "2")
    runs = [make_run(name, hold_at=2) for name in ("a", "b", "c")]
    start(ws, runs[0])
    start(ws, runs[1])
    with pytest.raises(ConflictError, match=r"a, b is training|b, a is training"):
        launch(ws, "c", dry_run=False)
    assert {get_run(ws, run.name).attempt for run in runs[:2]} == {1}


def test_cancel_saves_a_checkpoint_and_resume_ends_with_the_same_weights(ws, make_run: MakeRun):
    plain = make_run("plain")
    start(ws, plain)
    assert ended(ws, plain).state == "completed"

    run = make_run("stopped", hold_at=3)
    start(ws, run)
    until(lambda: get_run(ws, run.name).step == 3)
    assert cancel_run(ws, run.name).state in ("cancelling", "cancelled")
    stopped = ended(ws, run)
    assert (stopped.state, stopped.reason) == ("cancelled", "Cancelled; it stopped by itself.")
    record = load(run, "train")
    assert record is not None
    assert record.exit_code == 143
    assert "resume_run" in stopped.next_step
    with pytest.raises(StateError, match="Nothing of run 'stopped' is running"):
        cancel_run(ws, run.name)
    with pytest.raises(StateError, match="resume_run"):
        launch(ws, run.name, dry_run=False)

    (run.path / "go").touch()
    again = resume_run(ws, run.name)
    assert (again.attempt, again.resumed_from) == (2, "checkpoint-4")
    done = ended(ws, run)
    assert (done.state, done.attempt, done.step) == ("completed", 2, 8)
    assert weights(run) == weights(plain)
    with pytest.raises(StateError, match="is completed; only failed or cancelled runs resume"):
        resume_run(ws, run.name)


def test_cancel_kills_what_does_not_stop(ws, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNESMITH_CANCEL_GRACE_S", "0.2")
    run = make_run(hold_at=3, deaf=True)
    start(ws, run)
    until(lambda: get_run(ws, run.name).step == 3)
    cancel_run(ws, run.name)
    stopped = ended(ws, run)
    assert stopped.state == "cancelled"
    assert stopped.reason is not None
    assert "killed because it did not stop in time" in stopped.reason


def test_resume_of_what_was_never_launched_or_still_runs(ws, make_run: MakeRun):
    run = make_run(hold_at=2)
    with pytest.raises(StateError, match="never launched"):
        resume_run(ws, run.name)
    start(ws, run)
    with pytest.raises(StateError, match="only failed or cancelled"):
        resume_run(ws, run.name)
    with pytest.raises(NotFound, match=r"No run 'onne'.*Did you mean 'one'"):
        get_run(ws, "onne")


def test_long_poll_returns_on_news_and_not_before(ws, make_run: MakeRun):
    run = make_run(hold_at=3)
    start(ws, run)
    seen = until(lambda: (s := get_run(ws, run.name)).step == 3 and s)
    before = time.monotonic()
    same = get_run(ws, run.name, wait_s=0.4, since=seen.cursor)
    assert 0.4 <= time.monotonic() - before < 5
    assert same.step == 3
    (run.path / "go").touch()
    news = get_run(ws, run.name, wait_s=30, since=same.cursor)
    assert news.cursor != same.cursor
    last = ended(ws, run)
    before = time.monotonic()
    get_run(ws, run.name, wait_s=30, since=get_run(ws, run.name).cursor)  # nothing runs: nothing to wait for
    assert time.monotonic() - before < 5
    assert last.state == "completed"


def test_list_runs(ws, make_run: MakeRun):
    assert list_runs(ws).total == 0
    for name in ("a", "b", "c"):
        make_run(name)
    start(ws, ws.run("b"))
    ended(ws, ws.run("b"))
    listed = list_runs(ws)
    assert (listed.total, listed.runs[0].run_id, listed.runs[0].state, listed.runs[0].method) == (
        3,
        "b",
        "completed",
        "lora",
    )
    assert {row.run_id for row in list_runs(ws, state="created").runs} == {"a", "c"}
    short = list_runs(ws, limit=1)
    assert (short.shown, short.total) == (1, 3)
    assert "2 more" in short.next_step
    with pytest.raises(ValueError, match="Did you mean 'running'"):
        list_runs(ws, state="runing")


def test_preview_says_what_would_happen(ws, make_run: MakeRun):
    run = make_run()
    plan = launch(ws, run.name)
    assert plan.command.endswith("train.py")
    assert str(run.path) in plan.command
    assert plan.total_steps == 2  # 16 rows in batches of 8, one epoch
    assert plan.disk.free_gib and plan.disk.free_gib > 0
    assert plan.memory.free_gib and plan.memory.free_gib > 0
    assert "dry_run=false" in plan.next_step
    assert any("too few" in warning for warning in plan.warnings)
    assert load(run, "train") is None  # nothing was started
    run.script.unlink()
    with pytest.raises(NotFound, match=r"no train\.py.*render_training_script"):
        launch(ws, run.name)


def test_cuda_without_a_gpu_is_refused(ws, make_run: MakeRun):
    run = make_run(spec={"launch": {"device": "cuda"}})
    with pytest.raises(OSError, match="no NVIDIA GPU"):
        launch(ws, run.name, dry_run=False)


def test_the_worker_is_where_the_record_says(ws, make_run: MakeRun):
    run = make_run(hold_at=2)
    start(ws, run)
    until(lambda: get_run(ws, run.name).state == "running")
    record = load(run, "train")
    assert record is not None and record.worker is not None and record.supervisor is not None
    assert is_same(record.worker)
    assert is_same(record.supervisor)
    stored = read_object(record_file(run, "train"))
    assert stored is not None
    assert stored["worker"]["pid"] == record.worker.pid
