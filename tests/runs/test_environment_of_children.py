from __future__ import annotations

import pytest

from skill.runs import get_run
from skill.runs.local import child_environment
from skill.runs.slots import visible_gpus
from tests.runs.conftest import MakeRun
from tests.runs.test_engine import ended, start


def test_only_what_training_needs_is_passed_on(ws, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-one")
    monkeypatch.setenv("HF_TOKEN", "secret-two")
    monkeypatch.setenv("TUNESMITH_HTTP_TOKEN", "secret-three")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "TUNESMITH_HTTP_TOKEN", "RANK", "HF_HUB_OFFLINE", "HOME"]
    run = make_run(print_env=names)
    start(ws, run)
    status = ended(ws, run)
    seen = dict(line.removeprefix("env ").split("=", 1) for line in status.log if line.startswith("env "))
    assert [name for name in names if seen[name] == "None"] == names[:4]
    assert seen["HF_HUB_OFFLINE"] == "1"


def test_a_token_is_passed_when_it_is_named_and_never_shown(ws, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "aB3" * 10)
    monkeypatch.setenv("TUNESMITH_PASS_ENV", "HF_TOKEN, OTHER")
    assert child_environment()["HF_TOKEN"] == "hf_" + "aB3" * 10
    run = make_run(print_env=["HF_TOKEN"])
    start(ws, run)
    log = ended(ws, run).log
    assert any(line.startswith("env HF_TOKEN=[") for line in log)
    assert not any("aB3aB3" in line for line in log)
    for path in run.jobs.iterdir():
        assert "aB3aB3" not in path.read_text()


def test_visible_gpus_follows_cuda_visible_devices(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_log_of_an_attempt_only(ws, make_run: MakeRun):
    run = make_run(say=["hello"], fail_at=3, how="silent")
    start(ws, run)
    ended(ws, run)
    assert get_run(ws, run.name, log_lines=1).log == ["hello"]
