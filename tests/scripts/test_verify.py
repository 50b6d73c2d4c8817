"""What the checks catch, before anything is run."""

from __future__ import annotations

import pytest

from skill.scripts import verify as room
from skill.scripts.verify import verify


@pytest.fixture
def script(tmp_path, make_spec, script_text):
    path = tmp_path / "train.py"
    path.write_text(script_text(make_spec()), encoding="utf-8")
    return path


def change(script, old, new):
    text = script.read_text()
    assert old in text
    script.write_text(text.replace(old, new))


def test_syntax_and_names_cost_no_import(script, monkeypatch):
    monkeypatch.setattr(room, "run_check", lambda module, script: pytest.fail("imported the libraries"))
    change(script, "SEED = 42", "SEED = = 42")
    assert "line" in verify(script).problems[0]
    change(script, "SEED = = 42", "SEED = forty_two")
    assert any("forty_two" in problem for problem in verify(script).problems)


def test_all_stale_arguments_are_named_together_with_their_successors(script):
    change(script, "max_length=None", "max_seq_length=None")
    change(script, "eval_strategy=", "evaluation_strategy=")
    change(script, "lora_alpha=", "lora_alfa=")
    change(script, "processing_class=tokenizer", "tokenizer=tokenizer")
    text = "\n".join(verify(script).problems)
    assert "max_seq_length" in text and "It is max_length now" in text
    assert "It is eval_strategy now" in text
    assert "Did you mean 'lora_alpha'?" in text
    assert "It is processing_class now" in text


def test_what_the_config_objects_refuse(script):
    change(script, 'save_strategy="steps"', 'save_strategy="often"')
    change(script, 'task_type="CAUSAL_LM"', 'task_type="POEMS"')
    problems = verify(script).problems
    assert len(problems) == 2
    assert problems[0].startswith("training_arguments()") and problems[1].startswith("peft_config()")


def test_the_costly_part_is_done_once(script, monkeypatch):
    first = verify(script)
    assert first.problems == []
    monkeypatch.setattr(room, "run_check", lambda module, script: pytest.fail("checked again"))
    assert verify(script) == first
