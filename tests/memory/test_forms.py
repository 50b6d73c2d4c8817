"""Closed forms against the ledger they were compiled from (which test_trace.py holds against the installed
libraries)."""

import time

import pytest

from skill.memory.forms import beyond_static
from skill.memory.job import Job
from skill.memory.ledger import run
from skill.memory.peak import peak
from skill.memory.shapes import from_catalogue

MODELS = (
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-2-7b-hf",
    "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen3-8B",
    "google/gemma-2-9b",
)
METHODS = (
    {"method": "lora"},
    {"method": "lora", "quant": "nf4-dq", "adapter_dtype": "bfloat16"},
    {"method": "full", "dtype": "float32"},
)


@pytest.mark.parametrize("model", MODELS)
def test_form_equals_ledger(model):
    for method in METHODS:
        for checkpointing in (True, False):
            for batch, length in ((1, 512), (4, 2048)):
                job = Job(from_catalogue(model), batch=batch, length=length, checkpointing=checkpointing, **method)
                form = peak(job, quick=True)
                assert form.method_used == "closed_form", (model, method)
                assert form.allocated == pytest.approx(run(job).allocated, rel=0.004), (method, checkpointing, batch)


def test_no_form_for_what_it_was_not_compiled_for():
    shape = from_catalogue("meta-llama/Llama-3.2-1B")
    for keys in ({"loss": "hf"}, {"attention": "eager"}, {"targets": ("q_proj",)}, {"num_gpus": 2, "sharding": "fsdp"}):
        assert beyond_static(Job(shape, **keys)) is None
    assert beyond_static(Job(from_catalogue("Qwen/Qwen3-30B-A3B"))) is None


def test_a_form_takes_less_than_a_millisecond():
    shape = from_catalogue("meta-llama/Llama-3.1-8B")
    beyond_static(Job(shape))
    start = time.process_time()
    for length in range(1000, 1200):
        beyond_static(Job(shape, length=length))
    assert (time.process_time() - start) / 200 < 0.001
