"""Merge and evaluation as jobs of a run: real processes, the tiny model."""

from __future__ import annotations

import json
import time

import pytest

from skill.adapters import merge_adapter, merge_result
from skill.errors import JobFailed, ModelUnsupported, NotFound, SpecError, StateError
from skill.evaluation import eval_result, run_eval
from skill.runs import get_run


def finish(ws, run, kind: str) -> str:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        state = get_run(ws, run.name, wait_s=10).jobs[kind].state
        if state in ("completed", "failed", "cancelled"):
            return state
    raise AssertionError(f"{kind} did not end")


def test_merge_then_evaluate(ws, trained_run):
    run = trained_run("small")
    started = merge_adapter(ws, "small")
    assert (started.route, started.dtype) == ("original", "bfloat16")
    assert finish(ws, run, "merge") == "completed", (run.jobs / "merge.log").read_text()
    report = merge_result(ws, "small")
    assert report.verification.compute_dtype == "float32" and report.verification.positions > 50
    assert (report.tensors_changed == 14 and "run_eval" in report.next_step) or report.verdict == "not_verified"
    assert (run.merged / "UNVERIFIED").exists() == (report.verdict == "not_verified")
    assert (run.merged / "tokenizer.json").is_file() and (run.merged / "chat_template.jinja").is_file()

    assert run_eval(ws, "small", max_rows=6, max_new_tokens=4).candidate == "adapter"
    assert finish(ws, run, "eval") == "completed", (run.jobs / "eval.log").read_text()
    found = eval_result(ws, "small")
    assert (found.n, found.rows_in_file, found.metric) == (6, 12, "normalised_match")
    assert found.verdict == "not_distinguishable" and found.ci95[0] <= 0 <= found.ci95[1]
    lines = [json.loads(line) for line in (run.evaluation / "predictions.jsonl").read_text().splitlines()]
    mean = sum(line["tuned_loss"] for line in lines) / len(lines)  # all references have as many tokens
    assert mean == pytest.approx(found.loss.tuned, abs=0.05)
    assert len(found.samples) == 3 and found.samples[0].prompt.startswith("Say ")

    assert run_eval(ws, "small", max_rows=6, max_new_tokens=4).state == "created"
    assert finish(ws, run, "eval") == "completed"
    again = eval_result(ws, "small")
    assert again.base_answers.tokens_per_s is None, "nothing changed: no row is asked again"
    assert again.ci95 == found.ci95 and again.loss == found.loss


@pytest.mark.parametrize("method", ["full", "prefix"])
def test_methods_without_a_merge(ws, trained_run, method):
    run = trained_run("other", method)
    error = StateError if method == "full" else ModelUnsupported
    with pytest.raises(error) as caught:
        merge_adapter(ws, "other")
    assert caught.value.hint
    run_eval(ws, "other", max_rows=4, max_new_tokens=4)
    assert finish(ws, run, "eval") == "completed", (run.jobs / "eval.log").read_text()
    found = eval_result(ws, "other")
    assert found.candidate == ("model" if method == "full" else "adapter")
    assert found.loss.tuned != found.loss.base, "the tuned weights were in use"


def test_a_run_without_rows_or_weights(ws, trained_run):
    run = trained_run("bare")
    with pytest.raises(SpecError, match="not quantised"):
        merge_adapter(ws, "bare", base="dequantised")
    with pytest.raises(SpecError, match=r"json_match.*max_rows"):
        run_eval(ws, "bare", metric="json_mach", max_rows=0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(StateError, match="not merged"):
        run_eval(ws, "bare", candidate="merged")
    with pytest.raises(NotFound):
        merge_result(ws, "bare")
    with pytest.raises(NotFound):
        eval_result(ws, "bare")
    (run.data / "eval.jsonl").write_text("")
    with pytest.raises(StateError, match="held no rows out"):
        run_eval(ws, "bare")
    (run.adapter / "adapter_config.json").unlink()
    with pytest.raises(StateError, match="no adapter yet"):
        merge_adapter(ws, "bare")


def test_all_rows_leaked_is_a_named_failure(ws, trained_run):
    run = trained_run("leaky")
    (run.data / "train.jsonl").write_text((run.data / "eval.jsonl").read_text())
    run_eval(ws, "leaky")
    assert finish(ws, run, "eval") == "failed"
    with pytest.raises(JobFailed, match="also in the training data"):
        eval_result(ws, "leaky")
