"""render_run: the folder appears whole and checked, or not at all, and a started run is never touched."""

from __future__ import annotations

import errno
import hashlib
import json

import pytest

from skill.errors import ConflictError, DataError, ResourceError, ScriptError, SpecError
from skill.scripts import render_run
from skill.workspace import RunDir, read_spec


@pytest.fixture
def spec(make_spec, tiny_model, conversations):
    return make_spec(model={"id": tiny_model.id}, training={"per_device_train_batch_size": 4})


def test_the_folder_and_the_answer(ws, spec):
    report = render_run(ws, spec)
    run = RunDir(ws.root / "runs" / "run")
    assert report.files == [
        "data/eval.jsonl",
        "data/manifest.json",
        "data/train.jsonl",
        "provenance.json",
        "run.yaml",
        "train.py",
    ]
    assert (report.rows_train, report.rows_eval, report.rows_dropped) == (90, 10, 0)
    assert (report.total_steps, report.eval_steps) == (23, 5)
    assert report.trainable_params and report.trainable_percent and 0 < report.trainable_percent < 10
    assert {"q_proj", "down_proj"} <= set(report.adapted_modules)
    assert read_spec(run.spec_file) == spec
    facts = json.loads((run.path / "provenance.json").read_text())
    assert facts["fingerprint"] == spec.fingerprint
    assert facts["script_sha256"] == hashlib.sha256(run.script.read_bytes()).hexdigest()
    assert facts["versions"]["trl"] and facts["total_steps"] == 23
    assert "launch_training" in report.next_step
    assert [path.name for path in ws.runs_dir.iterdir()] == ["run"], "nothing of the staging is left"


def test_the_same_run_again_changes_nothing_not_even_an_edited_script(ws, spec):
    first = render_run(ws, spec)
    run = ws.run("run")
    run.script.write_text(run.script.read_text().replace("SEED = 42", "SEED = 43"))
    again = render_run(ws, spec)
    assert again.already_there and not first.already_there
    assert "SEED = 43" in run.script.read_text()
    assert any("edited" in check for check in again.checks)
    assert render_run(ws, spec, overwrite=True).already_there is False
    assert "SEED = 42" in run.script.read_text()


def test_another_spec_needs_overwrite_and_never_replaces_a_started_run(ws, spec, make_spec):
    render_run(ws, spec)
    other = spec.model_copy(update={"training": spec.training.model_copy(update={"seed": 7})})
    with pytest.raises(ConflictError, match="different spec") as caught:
        render_run(ws, other)
    assert "overwrite=true" in caught.value.hint
    render_run(ws, other, overwrite=True)
    run = ws.run("run")
    assert "SEED = 7" in run.script.read_text()
    run.metrics.write_text("{}\n")
    with pytest.raises(ConflictError, match="started") as caught:
        render_run(ws, spec, overwrite=True)
    assert "'run-2'" in caught.value.hint
    assert render_run(ws, other).already_there


def test_bad_data_leaves_nothing_behind(ws, spec):
    (ws.root / "train.jsonl").write_text("")
    with pytest.raises(DataError):
        render_run(ws, spec)
    assert list(ws.runs_dir.iterdir()) == []


def test_dead_target_names_are_refused_with_the_real_ones(ws, make_spec, tiny_model, conversations):
    method = {"type": "lora", "target_modules": ["q_proj", "w_proj"]}
    with pytest.raises(ScriptError) as caught:
        render_run(ws, make_spec(model={"id": tiny_model.id}, method=method))
    assert "'w_proj'" in str(caught.value) and "Did you mean" in str(caught.value)
    method = {"type": "lora", "target_modules": ["query_key_value"]}
    with pytest.raises(ScriptError, match="q_proj"):
        render_run(ws, make_spec(model={"id": tiny_model.id}, method=method))
    assert list(ws.runs_dir.iterdir()) == []


def test_a_full_disk_is_a_named_error(ws, spec, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("skill.scripts.render.write_spec", full)
    with pytest.raises(ResourceError, match="No space left"):
        render_run(ws, spec)
    assert list(ws.runs_dir.iterdir()) == []


def test_a_name_that_is_no_name(ws, spec):
    with pytest.raises(SpecError):
        render_run(ws, spec.model_copy(update={"name": "../x"}))
