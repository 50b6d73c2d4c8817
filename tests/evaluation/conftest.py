"""Runs as render_training_script leaves them, and with a model as full fine-tuning leaves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from skill.spec import parse
from skill.workspace import RunDir, Workspace, write_spec


@pytest.fixture
def rendered(ws: Workspace, tiny_model: Any):
    """Makes a run folder with spec and rows; `trained` adds model/."""

    def make(name: str, *, chat: bool = True, trained: bool = False, rows: int = 12) -> RunDir:
        run = ws.run(name)
        run.data.mkdir(parents=True)
        spec = {
            "name": name,
            "model": {"id": tiny_model.id},
            "data": {"train": "train.jsonl"},
            "method": {"type": "full" if trained else "lora"},
            "launch": {"device": "cpu", "num_threads": 1},
        }
        write_spec(parse(spec), run.spec_file)
        for file, first in (("eval", 0), ("train", 100)):
            lines = [json.dumps(row(first + i, chat)) + "\n" for i in range(rows)]
            (run.data / f"{file}.jsonl").write_text("".join(lines))
        if trained:
            torch.manual_seed(3)
            base = Path(str(tiny_model.path))
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            for parameter in model.parameters():
                parameter.data += torch.randn_like(parameter) * 0.01
            model.save_pretrained(run.model)
            AutoTokenizer.from_pretrained(base).save_pretrained(run.model)
        return run

    return make


def row(number: int, chat: bool = True) -> dict[str, Any]:
    if not chat:
        return {"prompt": f"Say {number}:", "completion": f" number {number}"}
    return {
        "prompt": [{"role": "system", "content": "You count."}, {"role": "user", "content": f"Say {number}"}],
        "completion": [{"role": "assistant", "content": f"number {number}"}],
    }
