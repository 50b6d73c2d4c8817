"""The ledger against the installed libraries' own code, traced on meta tensors in a process of its own."""

import dataclasses

import pytest

from skill.memory.job import Job
from skill.memory.ledger import run
from skill.memory.shapes import from_catalogue
from skill.memory.trace import traced_bytes

CASES = [
    ("Qwen/Qwen3-0.6B", {"method": "lora", "checkpointing": True}),
    ("Qwen/Qwen2.5-0.5B", {"method": "full", "dtype": "float32"}),
    ("Qwen/Qwen2.5-0.5B", {"method": "lora", "quant": "nf4-dq", "adapter_dtype": "bfloat16"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "keys"), CASES)
def test_ledger_equals_trace(model, keys):
    shape = dataclasses.replace(from_catalogue(model), layers=5, official_params=None)
    job = Job(shape, batch=4, length=1024, **keys)
    assert run(job).allocated == pytest.approx(traced_bytes(job)["allocated"], rel=0.003)
