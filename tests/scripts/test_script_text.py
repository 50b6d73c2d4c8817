"""The rendered text over the whole matrix of choices: it parses, lints, is formatted, and carries no one's code."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys

import pytest

from skill.scripts.context import EVALUATIONS, eval_steps, pins, sampled_rows, total_steps
from skill.scripts.verify import RULES, syntax

METHODS = {
    "lora": {"type": "lora"},
    "lora-named": {
        "type": "lora",
        "target_modules": ["q_proj", "v_proj"],
        "use_dora": True,
        "use_rslora": True,
        "lora_dropout": 0.1,
    },
    "qlora": {"type": "qlora"},
    "full": {"type": "full"},
    "prefix": {"type": "prefix"},
}
CHOICES = {
    "plain": {},
    "patient": {"training": {"early_stopping_patience": 2, "eval_steps": 10}},
    "no-eval": {"data": {"eval_fraction": 0}, "training": {"load_best_model_at_end": False, "max_steps": 50}},
    "cpu": {"launch": {"device": "cpu", "num_threads": 2}, "training": {"precision": "fp32"}},
    "cuda": {"launch": {"device": "cuda"}, "data": {"packing": True}, "training": {"optim": "paged_adamw_8bit"}},
}
HOSTILE = [
    '"; import os; os.system("true") #',
    "'); __import__('os').system('true') #",
    '"""\nimport os\n"""',
    "{{ 7 * 7 }}{% raw %}",
    "a\\",
    "line\nbreak\r\u2028\u202e\x00",
    "# ///\n# dependencies = ['evil']",
]


CELLS = [
    pytest.param(method, parts, id=f"{name}-{choice}")
    for (name, method), (choice, parts) in itertools.product(METHODS.items(), CHOICES.items())
    if not (name == "prefix" and choice == "cuda")  # packing with prefix tuning is a contradiction
]


@pytest.mark.parametrize(("method", "parts"), CELLS)
@pytest.mark.parametrize("chat", [True, False])
def test_it_parses_and_keeps_only_what_was_chosen(make_spec, script_text, method, parts, chat):
    spec = make_spec(method=method, **parts)
    text = script_text(spec, chat=chat, eval_rows=0 if spec.data.eval_fraction == 0 else 10)
    assert syntax(text) == []
    assert ("BitsAndBytesConfig" in text) == (method["type"] == "qlora")
    assert ("PrefixTuningConfig" in text) == (method["type"] == "prefix")
    assert ("EarlyStoppingCallback" in text) == (spec.training.early_stopping_patience is not None)
    assert ("eval.jsonl" in text) == (spec.data.eval_fraction > 0)
    assert ("apply_chat_template" in text) == chat
    assert ("packing=True" in text) == spec.data.packing
    assert ("bitsandbytes==" in text) == (method["type"] == "qlora" or "8bit" in spec.training.optim)
    assert "{{" not in text and "{%" not in text


def test_all_of_them_lint_and_are_formatted(make_spec, script_text, tmp_path):
    for number, (cell, chat) in enumerate(itertools.product(CELLS, [True, False])):
        method, parts = cell.values
        spec = make_spec(method=method, **parts)
        text = script_text(spec, chat=chat, eval_rows=0 if spec.data.eval_fraction == 0 else 10)
        (tmp_path / f"{number}-{cell.id}.py").write_text(text, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    common = ["--isolated", "--no-cache", "--line-length=120", str(tmp_path)]
    rules = f"{RULES},E,W,UP,SIM,C4,RET,PIE,S"
    ignored = "--ignore=S101,S311"  # assert is meant; the sample of held-out rows needs no secrecy
    lint = subprocess.run([*ruff, "check", f"--select={rules}", ignored, *common], capture_output=True, text=True)
    assert lint.returncode == 0, lint.stdout
    layout = subprocess.run([*ruff, "format", "--diff", *common], capture_output=True, text=True)
    assert layout.returncode == 0, layout.stdout


def skeleton(text: str) -> str:
    """The syntax tree with every constant blanked: equal skeletons mean that only constants differ."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value = None
            node.kind = None
    return ast.dump(tree)


def constants(text: str) -> set[object]:
    return {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_strings_are_constants_and_nothing_else(make_spec, script_text, model_info, hostile):
    evil = make_spec(
        model={"id": hostile},
        data={"train": hostile, "eval": hostile, "columns": {hostile: "prompt"}, "system": hostile},
        method={"type": "lora", "target_modules": [hostile, hostile + "x"]},
    )
    tame = make_spec(data={"eval": "x"}, method={"type": "lora", "target_modules": ["q", "v"]})
    fields = {"id": hostile, "path": hostile, "hub_id": hostile, "revision": hostile}
    text = script_text(evil, model=model_info.model_copy(update=fields))
    same = script_text(tame, model=model_info.model_copy(update={"path": "p", "hub_id": "h", "revision": "r"}))
    assert skeleton(text) == skeleton(same)
    assert hostile in constants(text)
    comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    assert comments == [line for line in same.splitlines() if line.lstrip().startswith("#")]


def test_the_header_pins_what_is_installed(make_spec, script_text):
    import tomllib
    from importlib.metadata import version

    text = script_text(make_spec(method={"type": "qlora"}))
    header = text.partition("# /// script\n")[2].partition("# ///\n")[0]
    meta = tomllib.loads("".join(line.removeprefix("#") + "\n" for line in header.splitlines()))
    assert f"torch=={version('torch').partition('+')[0]}" in meta["dependencies"]
    assert meta["dependencies"] == pins(make_spec(method={"type": "qlora"}))
    assert not [pin for pin in meta["dependencies"] if "+" in pin]
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    named = {pin.partition("==")[0] for pin in meta["dependencies"]}
    assert imported - set(sys.stdlib_module_names) <= named
    assert not {"skill", "tunesmith"} & imported


@pytest.mark.parametrize(
    ("rows", "training", "steps"),
    [
        (545, {"per_device_train_batch_size": 8, "num_train_epochs": 1}, 69),
        (545, {"per_device_train_batch_size": 8, "num_train_epochs": 0.5}, 35),
        (10, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "num_train_epochs": 3}, 3),
        (10, {"max_steps": 7}, 7),
    ],
)
def test_steps_are_counted_as_transformers_does(make_spec, rows, training, steps):
    assert total_steps(make_spec(training=training), rows) == steps


def test_cadence(make_spec):
    spec = make_spec(training={"per_device_train_batch_size": 8})
    assert eval_steps(spec, 69, 60) == 14 and EVALUATIONS == 5
    assert eval_steps(spec, 69, 0) is None
    assert eval_steps(make_spec(data={"packing": True}), total_steps(make_spec(data={"packing": True}), 100), 9) is None
    assert eval_steps(make_spec(training={"eval_steps": 3}), 69, 60) == 3


@pytest.mark.parametrize(
    ("rows", "eval_rows", "training", "sampled"),
    [
        (545, 60, {"num_train_epochs": 1}, 32),
        (545, 60, {"num_train_epochs": 3}, 60),
        (5000, 500, {"num_train_epochs": 1}, 256),
        (2000, 200, {"num_train_epochs": 1}, 120),
        (2000, 200, {"num_train_epochs": 1, "eval_steps": 10}, 32),
        (50_000, 5000, {"max_steps": 100}, 48),
        (40, 4, {}, 4),
    ],
)
def test_evaluations_cost_about_a_tenth_of_the_training(make_spec, rows, eval_rows, training, sampled):
    assert sampled_rows(make_spec(training=training), rows, eval_rows) == sampled
