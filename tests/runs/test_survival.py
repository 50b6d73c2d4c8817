"""What is true after something was killed: nothing lost, nothing claimed that is not so, nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from skill.errors import NotFound
from skill.runs import cancel_run, get_run, launch, list_runs, resume_run
from skill.runs.lifecycle import reconcile
from skill.runs.processes import Process, identity, is_held, is_same, signal_job
from skill.runs.states import ENDED
from skill.runs.store import JobRecord, load, record_file, run_locked, save, supervisor_lock, worker_lock
from skill.workspace import write_json
from tests.runs.conftest import MakeRun, processes_under, until
from tests.runs.test_engine import ended, start, weights


def running(ws, run, step=3) -> JobRecord:
    """The record of a run that waits at `step`."""
    start(ws, run)
    until(lambda: get_run(ws, run.name).step == step)
    record = load(run, "train")
    assert record is not None
    assert record.worker is not None
    assert record.supervisor is not None
    return record


def others(ws) -> list[psutil.Process]:
    return [process for process in processes_under(ws.root) if process.pid != os.getpid()]


def test_the_supervisor_is_killed_and_training_goes_on(ws, make_run: MakeRun):
    run = make_run(hold_at=3)
    record = running(ws, run)
    assert record.supervisor
    os.kill(record.supervisor.pid, signal.SIGKILL)
    until(lambda: not is_held(supervisor_lock(run, "train")))
    assert get_run(ws, run.name).state == "running"
    assert is_held(worker_lock(run, "train"))
    (run.path / "go").touch()
    done = ended(ws, run)
    assert done.state == "completed"
    until(lambda: (run.path / "report.html").exists())


def test_cancel_without_a_supervisor(ws, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch):
    run = make_run(hold_at=3, deaf=True)
    record = running(ws, run)
    assert record.supervisor
    os.kill(record.supervisor.pid, signal.SIGKILL)
    until(lambda: not is_held(supervisor_lock(run, "train")))
    monkeypatch.setenv("TUNESMITH_CANCEL_GRACE_S", "0.1")
    cancel_run(ws, run.name)
    assert ended(ws, run).state == "cancelled"  # whoever looks after the grace kills it


def test_the_worker_is_killed_the_run_fails_within_ten_seconds_and_resumes_to_the_same_weights(ws, make_run: MakeRun):
    plain = make_run("plain")
    start(ws, plain)
    ended(ws, plain)
    run = make_run("killed", hold_at=5)
    record = running(ws, run, step=5)
    assert record.worker
    os.kill(record.worker.pid, signal.SIGKILL)
    before = time.monotonic()
    failed = ended(ws, run, within_s=10)
    assert time.monotonic() - before < 10
    assert failed.state == "failed"
    assert failed.reason is not None
    assert failed.reason.startswith("killed (signal 9): usually the system's out-of-memory killer or a manual kill")
    assert failed.diagnosis is not None
    assert failed.diagnosis.cause == "killed"
    (run.path / "go").touch()
    resume_run(ws, run.name)
    assert ended(ws, run).state == "completed"
    assert weights(run) == weights(plain)


def test_both_are_killed(ws, make_run: MakeRun):
    run = make_run(hold_at=3)
    record = running(ws, run)
    assert record.supervisor and record.worker
    os.kill(record.supervisor.pid, signal.SIGKILL)
    os.kill(record.worker.pid, signal.SIGKILL)
    failed = ended(ws, run, within_s=10)
    assert failed.state == "failed"
    assert failed.reason is not None
    assert "no exit code was seen" in failed.reason
    assert not others(ws)
    (run.path / "go").touch()
    resume_run(ws, run.name)
    assert ended(ws, run).state == "completed"


def test_the_server_that_launched_it_is_killed(ws, make_run: MakeRun):
    run = make_run(hold_at=3)
    program = (
        "import os, signal, sys\nfrom skill.runs import launch\nfrom skill.workspace import Workspace\n"
        "launch(Workspace.open(sys.argv[1]), sys.argv[2], dry_run=False)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    server = subprocess.run([sys.executable, "-c", program, str(ws.root), run.name], check=False, timeout=30)
    assert server.returncode == -signal.SIGKILL
    until(lambda: get_run(ws, run.name).step == 3)
    (run.path / "go").touch()
    assert ended(ws, run).state == "completed"


def test_a_launcher_that_died_before_it_started_anything(ws, make_run: MakeRun):
    run = make_run()
    with run_locked(run):
        save(run, JobRecord(kind="train", run_id=run.name, argv=["x"], state="created", created_at=1.0))
    status = get_run(ws, run.name)
    assert status.state == "failed"
    assert status.reason == "Its supervisor ended before the worker was started."
    resume_run(ws, run.name)
    assert ended(ws, run).state == "completed"


def test_a_supervisor_that_died_before_it_wrote_down_the_worker(ws, make_run: MakeRun):
    run = make_run(hold_at=3)
    record = running(ws, run)
    assert record.supervisor
    os.kill(record.supervisor.pid, signal.SIGKILL)
    until(lambda: not is_held(supervisor_lock(run, "train")))
    save(run, record.model_copy(update={"state": "created", "worker": None, "started_at": None}))
    found, _ = reconcile(run, "train")
    assert found is not None
    assert found.state == "running"
    assert found.worker is not None and record.worker is not None
    assert found.worker.pid == record.worker.pid
    (run.path / "go").touch()
    assert ended(ws, run).state == "completed"


def test_a_reused_pid_is_neither_taken_for_the_worker_nor_signalled(ws, make_run: MakeRun):
    run = make_run()
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        real = identity(bystander.pid)
        assert is_same(real)
        stale = Process(pid=bystander.pid, create_time=real.create_time - 100, token="another-boot:12345")
        assert not is_same(stale)
        with run_locked(run):
            state = {"state": "running", "worker": stale, "supervisor": stale, "started_at": 1.0, "created_at": 1.0}
            save(run, JobRecord(kind="train", run_id=run.name, argv=["x"], **state))
        assert get_run(ws, run.name).state == "failed"
        assert signal_job(stale, worker_lock(run, "train"), signal.SIGKILL) == 0
        assert bystander.poll() is None
    finally:
        bystander.communicate(b"\n", timeout=10)


def test_a_run_of_before_a_reboot(ws, make_run: MakeRun):
    run = make_run()
    old = Process(pid=os.getpid(), create_time=1.0, token="00000000-0000-0000-0000-000000000000:77")
    with run_locked(run):
        save(run, JobRecord(kind="train", run_id=run.name, state="running", worker=old, supervisor=old, created_at=1.0))
    status = get_run(ws, run.name)
    assert (status.state, status.reason) == ("failed", "The machine was restarted while it ran.")


def test_a_damaged_record_is_rebuilt(ws, make_run: MakeRun):
    run = make_run()
    start(ws, run)
    ended(ws, run)
    record_file(run, "train").write_text('{"kind": "train", "sta')
    assert get_run(ws, run.name).state == "completed"
    record_file(run, "train").write_text("[]")
    run.events.write_text("\n{half")
    assert get_run(ws, run.name).state == "completed"  # by its result


def test_the_run_folder_is_deleted(ws, make_run: MakeRun):
    run = make_run(hold_at=3)
    running(ws, run)
    shutil.rmtree(run.path)
    assert list_runs(ws).total == 0
    with pytest.raises(NotFound):
        get_run(ws, run.name)
    until(lambda: not others(ws))
    assert not run.path.exists()


@pytest.mark.parametrize("how", ["group", "session"])
def test_nothing_that_the_worker_started_stays(ws, make_run: MakeRun, how: str):
    run = make_run(child=how)
    start(ws, run)
    assert ended(ws, run).state == "completed"
    until(lambda: not others(ws))


def test_sigterm_to_the_supervisor_is_passed_on_and_is_no_cancellation(ws, make_run: MakeRun):
    run = make_run(hold_at=3)
    record = running(ws, run)
    assert record.supervisor
    os.kill(record.supervisor.pid, signal.SIGTERM)
    status = ended(ws, run)
    assert status.state == "failed"
    assert status.diagnosis is not None
    assert status.diagnosis.cause == "preempted"
    assert (run.checkpoints / "checkpoint-4").is_dir()


def test_a_corrupt_newest_checkpoint_is_passed_over(ws, make_run: MakeRun):
    run = make_run(hold_at=5)
    record = running(ws, run, step=5)
    assert record.worker
    os.kill(record.worker.pid, signal.SIGKILL)
    ended(ws, run)
    (run.checkpoints / "checkpoint-4" / "trainer_state.json").unlink()
    (run.path / "go").touch()
    assert resume_run(ws, run.name).resumed_from == "checkpoint-2"
    assert ended(ws, run).state == "completed"


def test_cancelled_before_the_worker_starts(ws, make_run: MakeRun):
    run = make_run()
    start(ws, run)
    status = cancel_run(ws, run.name)  # the supervisor takes longer to start than this
    assert status.state in ("cancelled", "cancelling")
    assert ended(ws, run).state == "cancelled"
    until(lambda: not others(ws))
    assert resume_run(ws, run.name).attempt == 2
    assert ended(ws, run).state == "completed"


def test_merge_after_is_started_by_whoever_finds_the_end(ws, make_run: MakeRun):
    run = make_run(spec={"launch": {"merge_after": True}})
    start(ws, run)
    assert ended(ws, run).state == "completed"
    merge = until(lambda: (record := load(run, "merge")) and record.state in ENDED and record)
    assert merge.argv[1:] == ["-m", "skill.adapters.worker", str(run.path)]
    assert merge.attempt == 1


def test_a_disk_that_takes_no_writes_still_gives_true_answers(ws, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch):
    run = make_run()
    with run_locked(run):
        save(run, JobRecord(kind="train", run_id=run.name, state="running", created_at=1.0))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skill.runs.store.write_json", full)
    assert get_run(ws, run.name).state == "failed"
    stored = load(run, "train")
    assert stored is not None
    assert stored.state == "running"  # could not be written, is found again
    monkeypatch.undo()
    monkeypatch.setenv("TUNESMITH_WORKSPACE", str(ws.root))
    assert get_run(ws, run.name).state == "failed"


def test_a_full_disk_at_launch_is_a_named_error(ws, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch):
    run = make_run()
    write_json(run.jobs / "preview.json", {"disk": {"needed_gib": 1e9}})
    with pytest.raises(OSError, match=r"checkpoints need 1000000000\.0 GiB.*save_total_limit"):
        launch(ws, run.name, dry_run=False)
