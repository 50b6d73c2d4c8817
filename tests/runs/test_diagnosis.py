"""Each cause is provoked in a real process, or in metrics as a sick training writes them."""

from __future__ import annotations

import math

import pytest

from skill.errors import TunesmithError
from skill.recipes import apply_overrides
from skill.runs import get_run
from skill.runs.diagnosis import RULES, less_memory, steadier
from skill.spec import RunSpec, parse
from tests.runs.conftest import MakeRun, until
from tests.runs.test_engine import ended, start


@pytest.mark.parametrize(
    ("how", "cause", "says"),
    [
        ("disk_full", "disk_full", "No space left on device"),
        ("sigkill", "killed", "killed (signal 9)"),
        ("segfault", "crashed", "killed (signal 11): a crash in compiled code"),
        ("host_oom", "host_oom", "ran out of memory"),
        ("stale_argument", "stale_argument", "max_seq_length"),
        ("missing_package", "missing_package", "no_such_package_of_that_name"),
        ("silent", "script_error", "exit code 3 and no message"),
        ("no_result", "no_result", "left no result"),
        ("something else", "script_error", "RuntimeError: something else"),
    ],
)
def test_a_failure_has_a_named_cause(ws, make_run: MakeRun, how, cause, says):
    run = make_run(fail_at=3, how=how)
    start(ws, run)
    status = ended(ws, run)
    assert status.state == "failed"
    assert status.diagnosis is not None
    assert (status.diagnosis.cause, says in (status.reason or "")) == (cause, True), status.reason
    assert status.diagnosis.fix
    assert "resume_run" in status.next_step


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "cuda_oom"),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory", "host_oom"),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error.", "gated_model"),
        ("OSError: no/such is not a local folder and is not a valid model identifier", "missing_model"),
        ("RuntimeError: DataLoader worker (pid 123) is killed by signal: Bus error.", "dataloader"),
        ("jinja2.exceptions.TemplateError: Conversation roles must alternate", "tokenizer"),
        ("Watchdog caught collective operation timeout: WorkNCCL", "timeout"),
        ("FloatingPointError: the loss is nan at step 3", "nan_loss"),
    ],
)
def test_lines_of_a_log_that_speak_for_a_cause(line, cause):
    hits = [rule.cause for rule in RULES if rule.pattern.search(line)]
    assert hits[:1] == [cause]


@pytest.mark.parametrize(
    "line", ["loss is 2.31, gradients are fine", "loading the tokenizer", "epoch 1 of 3", "info: inf"]
)
def test_lines_that_speak_for_none(line):
    assert not [rule.cause for rule in RULES if rule.pattern.search(line)]


N = 40


@pytest.mark.parametrize(
    ("cause", "plan"),
    [
        ("nan_loss", {"steps": 4, "losses": [3.0, 2.0, float("nan"), float("nan")]}),
        ("divergence", {"steps": 20, "losses": [2.0] * 5 + [1.5] * 5 + [4.0] * 10}),
        ("no_learning", {"steps": N, "losses": [2.0, 2.01] * (N // 2)}),
        (
            "overfitting",
            {
                "steps": 20,
                "losses": [3 - 0.1 * i for i in range(20)],
                "evals": [2.0] * 10 + [2.0 + 0.1 * i for i in range(10)],
            },
        ),
        ("empty_loss_mask", {"steps": 6, "losses": [0.0] * 6, "trained_tokens": 0}),
        (None, {"steps": N, "losses": [3 - 0.05 * i for i in range(N)]}),
    ],
)
def test_a_sick_training_is_named(ws, make_run: MakeRun, cause, plan):
    run = make_run(**plan, spec={"training": {"num_train_epochs": 3}})
    start(ws, run)
    status = ended(ws, run)
    found = status.diagnosis
    assert (found.cause if found else None) == cause
    assert status.loss is None or math.isfinite(status.loss)
    if found:
        assert found.evidence
        assert found.fix


def test_a_plateau_is_told_while_it_can_be_stopped(ws, make_run: MakeRun):
    run = make_run(steps=20, hold_at=8, losses=[3 - 0.1 * i for i in range(20)], evals=[1.0] * 20)
    start(ws, run)
    status = until(lambda: (s := get_run(ws, run.name)).diagnosis and s)
    assert status.diagnosis.cause == "plateau"
    assert "plateau" in status.next_step


def spec(**training) -> RunSpec:
    values = {
        "name": "x",
        "model": {"id": "m"},
        "data": {"train": "t"},
        "method": {"type": "full"},
        "training": training,
    }
    return parse(values)


def test_the_memory_ladder_keeps_the_effective_batch_and_ends():
    now = spec(per_device_train_batch_size=6, gradient_accumulation_steps=2)
    seen = []
    while patch := less_memory(now):
        seen.append(patch)
        values = apply_overrides(now.model_dump(mode="json", exclude_none=True), [])
        for key, value in patch.items():
            part, name = key.split(".")
            values[part] = {"type": value} if key == "method.type" else values[part] | {name: value}
        now = parse(values)
        assert len(seen) < 12
        training = now.training
        assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 12
    assert seen[0] == {"training.per_device_train_batch_size": 3, "training.gradient_accumulation_steps": 4}
    assert {"training.activation_checkpointing": True} in seen
    assert (now.method.type, now.training.per_device_train_batch_size) == ("qlora", 1)


@pytest.mark.parametrize("training", [{"precision": "fp16"}, {"max_grad_norm": 0}, {"warmup_steps": 0.0}, {}])
def test_the_patch_against_nan_is_a_valid_spec(training):
    before = spec(**training)
    patch = steadier(before)
    values = before.model_dump(mode="json", exclude_none=True)
    values["training"] |= {key.split(".")[1]: value for key, value in patch.items()}
    after = parse(values).training
    assert after.learning_rate < before.training.learning_rate
    assert after.warmup_steps >= 0.1
    assert after.max_grad_norm == 1.0
    assert after.precision != "fp16"


def test_a_patch_comes_with_the_diagnosis(ws, make_run: MakeRun):
    run = make_run(fail_at=3, how="host_oom")
    start(ws, run)
    found = ended(ws, run).diagnosis
    assert found is not None
    assert found.patch == {"training.per_device_train_batch_size": 4, "training.gradient_accumulation_steps": 2}
    run.spec_file.write_text("broken: [")
    with pytest.raises(TunesmithError):
        run.spec()
    found = get_run(ws, run.name).diagnosis
    assert found is not None
    assert found.patch == {}
