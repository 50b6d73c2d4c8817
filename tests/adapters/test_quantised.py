"""The dequantised route: the values transformers and bitsandbytes compute with, and PEFT's update on top of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from skill.adapters.merge import merge_folder
from skill.adapters.quantised import quantised_names, round_trip
from skill.inference import load_trained_base, quantisation, with_adapter
from skill.spec import parse
from tests.adapters.merge_cases import save_adapter, tensors


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize(("kind", "double"), [("nf4", True), ("fp4", False)])
def test_the_merge_is_that_of_the_dequantised_model(tiny_model, tmp_path, kind, double):
    spec = parse(
        {
            "name": "q",
            "model": {"id": tiny_model.id},
            "data": {"train": "x.jsonl"},
            "method": {"type": "qlora", "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": double},
            "launch": {"device": "cpu"},
        }
    )
    base = Path(tiny_model.path)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = load_trained_base(spec, base, "cpu")
    names = quantised_names(base, quantisation(spec, "bfloat16"))
    assert len(names) == 14 and not any("lm_head" in name or "embed" in name for name in names)

    theirs = with_adapter(model, adapter).merge_and_unload().state_dict()
    merge_folder(base, adapter, tmp_path / "out", dtype="bfloat16", requantise=round_trip(base, spec, "cpu"))
    ours = tensors(tmp_path / "out")
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []

    merge_folder(base, adapter, tmp_path / "original", dtype="bfloat16")
    original = tensors(tmp_path / "original")
    assert any(not torch.equal(ours[name], original[name]) for name in names), "the route makes a difference"
