"""Specs, rows and rendered scripts for the tests of this room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skill.models import ModelInfo
from skill.scripts.context import script_context
from skill.scripts.literals import environment
from skill.spec import RunSpec, parse
from skill.workspace import Workspace

LORA = {"type": "lora", "r": 4, "lora_alpha": 8}


@pytest.fixture
def make_spec() -> Callable[..., RunSpec]:
    """`make_spec(method={...}, training={...}, ...)`: a valid spec, laid over small defaults."""

    def make(**parts: Any) -> RunSpec:
        base: dict[str, Any] = {
            "name": "run",
            "model": {"id": "model"},
            "data": {"train": "train.jsonl"},
            "method": LORA,
        }
        for key, value in parts.items():
            base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) and key != "method" else value
        return parse(base)

    return make


@pytest.fixture
def model_info() -> ModelInfo:
    """A model that only lies on a hub: nothing about it is looked up."""
    return ModelInfo(
        id="owner/name",
        source="hub",
        path=None,
        revision="0123abc",
        model_type="llama",
        layers=2,
        hidden=32,
        vocab=100,
        has_chat_template=True,
        hub_id="owner/name",
    )


@pytest.fixture
def script_text(model_info: ModelInfo) -> Callable[..., str]:
    """`script_text(spec, model=…, chat=…, eval_rows=…)`: the script, without data or a run folder."""

    def render(spec: RunSpec, *, model: ModelInfo = model_info, chat: bool = True, eval_rows: int = 10) -> str:
        context = script_context(spec, model, chat_rows=chat, rows=90, eval_rows=eval_rows)
        return environment().get_template("train_sft.py.j2").render(context)

    return render


@pytest.fixture
def conversations(ws: Workspace) -> Path:
    """100 short conversations; the answers are of different lengths."""
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Answer with the number in words."},
                {"role": "user", "content": f"What is {i}?"},
                {"role": "assistant", "content": f"It is {' '.join(['one'] * (i % 7 + 1))}."},
            ]
        }
        for i in range(100)
    ]
    path = ws.root / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def child_environment() -> dict[str, str]:
    """The environment of a machine without Tunesmith: nothing of this checkout on the path."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "TUNESMITH_WORKSPACE")}


def run_script(folder: Path, *arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """train.py as a person would run it, from another folder, without Tunesmith on the path."""
    return subprocess.run(
        [sys.executable, "-I", str(folder / "train.py"), *arguments],
        cwd="/",
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
