"""Run folders as training leaves them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from skill.spec import parse
from skill.workspace import RunDir, Workspace, write_spec
from tests.adapters.merge_cases import save_adapter


@pytest.fixture
def trained_run(ws: Workspace, tiny_model: Any):
    """Makes a run folder as training leaves it: spec, rows, adapter with tokenizer."""

    def make(name: str, method: str = "lora", rows: int = 12) -> RunDir:
        from transformers import AutoTokenizer

        run = ws.run(name)
        run.data.mkdir(parents=True)
        spec = {
            "name": name,
            "model": {"id": tiny_model.id},
            "data": {"train": "train.jsonl"},
            "method": {"type": method},
            "launch": {"device": "cpu", "num_threads": 1},
        }
        write_spec(parse(spec), run.spec_file)
        for file, first in (("eval", 0), ("train", 100)):
            lines = [
                {
                    "prompt": [{"role": "user", "content": f"Say {first + i}"}],
                    "completion": [{"role": "assistant", "content": f"number {first + i}"}],
                }
                for i in range(rows)
            ]
            (run.data / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        base = Path(str(tiny_model.path))
        tokenizer = AutoTokenizer.from_pretrained(base)
        if method == "full":
            torch.manual_seed(3)
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            for parameter in model.parameters():
                parameter.data += torch.randn_like(parameter) * 0.01
            model.save_pretrained(run.model)
            tokenizer.save_pretrained(run.model)
        elif method == "prefix":
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
            config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                get_peft_model(model, config).save_pretrained(run.adapter)
            tokenizer.save_pretrained(run.adapter)
        else:
            save_adapter(base, run.adapter, target_modules="all-linear", task_type="CAUSAL_LM")
            tokenizer.save_pretrained(run.adapter)
        return run

    return make
