"""Runs with a script that keeps train.py's protocol without a model; whatever they start is ended with the test."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from skill.spec import parse
from skill.workspace import RunDir, Workspace, write_json, write_spec

FAKE = Path(__file__).with_name("fake_train.py")
MakeRun = Callable[..., RunDir]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots and speeds of this test only."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("TUNESMITH_CPU_SLOTS", raising=False)


@pytest.fixture
def make_run(ws: Workspace) -> Iterator[MakeRun]:
    """`make_run("name", steps=8, hold_at=3, spec={...})` writes a run folder as render_run would."""

    def make(name: str = "one", *, spec: dict[str, Any] | None = None, **plan: Any) -> RunDir:
        run = ws.run(name)
        run.data.mkdir(parents=True)
        values = {
            "name": name,
            "model": {"id": "models/none"},
            "data": {"train": "t.jsonl"},
            "method": {"type": "lora"},
        }
        parsed = parse(values | (spec or {}))
        write_spec(parsed, run.spec_file)
        run.script.write_text(FAKE.read_text(encoding="utf-8"), encoding="utf-8")
        row = {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
        (run.data / "train.jsonl").write_text((json.dumps(row) + "\n") * 16, encoding="utf-8")
        write_json(run.path / "provenance.json", {"fingerprint": parsed.fingerprint})
        write_json(run.path / "fake.json", {"steps": 8} | plan)
        return run

    yield make
    end_all(ws.root)


def processes_under(root: Path) -> list[psutil.Process]:
    """Supervisors and workers of runs under a folder, and what they started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("TUNESMITH_WORKSPACE") == str(root):
                found.append(process)
    return found


def end_all(root: Path) -> None:
    for process in processes_under(root):
        if process.pid != psutil.Process().pid:
            with suppress(psutil.Error):
                process.kill()


def until(look: Callable[[], Any], *, within_s: float = 20.0) -> Any:
    """The first true answer of `look`; fails the test when there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        value = look()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within_s} s: {look}"
        time.sleep(0.01)
