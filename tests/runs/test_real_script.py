"""The rendered train.py under the engine: killed and cancelled, its weights end bit for bit as if nothing had been."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from skill.models import ModelInfo
from skill.runs import cancel_run, get_run, launch, resume_run
from skill.runs.store import load
from skill.scripts import render_run
from skill.spec import parse
from skill.workspace import RunDir, Workspace
from tests.runs.conftest import end_all, until
from tests.runs.test_engine import ended


@pytest.fixture
def real(ws: Workspace, tiny_model: ModelInfo, monkeypatch: pytest.MonkeyPatch):
    """`real("name")` renders a LoRA run of 12 steps on the tiny model."""
    monkeypatch.setenv("TUNESMITH_READ_DIRS", str(Path(tiny_model.id).parent))
    there = Workspace.open(ws.root)
    rows = [{"prompt": f"Say {i}", "completion": f"It is {i * 7}"} for i in range(56)]
    (ws.root / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(name: str) -> RunDir:
        values = {
            "name": name,
            "model": {"id": tiny_model.id},
            "data": {"train": "t.jsonl"},
            "method": {"type": "lora"},
        }
        training = {"num_train_epochs": 10, "max_steps": 12, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
        training |= {"eval_steps": 3, "save_steps": 3}
        render_run(there, parse(values | {"training": training, "launch": {"device": "cpu", "num_threads": 1}}))
        return there.run(name)

    yield there, make
    end_all(ws.root)


def start(ws: Workspace, name: str) -> None:
    launch(ws, name, dry_run=False)


def digest(run: RunDir) -> str:
    return hashlib.sha256((run.adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_killed_and_a_cancelled_training_end_with_the_same_weights(real):
    ws, make = real
    plain, killed, stopped = make("plain"), make("killed"), make("stopped")
    plan = launch(ws, "plain")
    assert plan.total_steps == 12
    start(ws, "plain")
    done = ended(ws, plain, within_s=120)
    assert done.state == "completed", done
    assert (done.step, done.total_steps) == (12, 12)
    assert done.rss_gib

    start(ws, "killed")
    until(lambda: get_run(ws, "killed", wait_s=1).step >= 5, within_s=90)
    record = load(killed, "train")
    assert record and record.worker
    os.kill(record.worker.pid, signal.SIGKILL)
    failed = ended(ws, killed, within_s=10)
    assert failed.state == "failed"
    assert resume_run(ws, "killed").resumed_from is not None
    assert ended(ws, killed, within_s=120).state == "completed"

    start(ws, "stopped")
    until(lambda: get_run(ws, "stopped", wait_s=1).step >= 4, within_s=90)
    cancel_run(ws, "stopped")
    cancelled = ended(ws, stopped, within_s=60)
    assert (cancelled.state, cancelled.reason) == ("cancelled", "Cancelled; it stopped by itself.")
    resume_run(ws, "stopped")
    assert ended(ws, stopped, within_s=120).state == "completed"

    assert digest(killed) == digest(plain)
    assert digest(stopped) == digest(plain)
