"""Bad input of every kind to every tool: the answer names what was seen, what is allowed, and an action."""

from __future__ import annotations

import json

import pytest
from mcp import Client

from mcp_server.server import build_server
from mcp_server.tools import all_tools
from tests.runs.conftest import make_run  # noqa: F401 (a fixture)

pytestmark = pytest.mark.anyio
MODEL = "smollm2-135m-instruct"
LISTS = ("invalid_arguments", "spec_invalid")  # one line a problem, each with its own fix
INJECTION = '"; import os; os.system("touch /tmp/owned") #'

# tool, arguments, code, what the answer names
RENDER = {"run_name": "a", "model": MODEL, "train_path": "rows.jsonl"}
CHECK = {"dataset_path": "rows.jsonl"}
CASES = [
    ("recommend_approach", {"task": ""}, "spec_invalid", ["task"]),
    ("recommend_approach", {"task": "x", "gpu_gib": -1}, "invalid_arguments", ["gpu_gib", "-1", "equal to 0"]),
    ("recommend_approach", {"task": "x", "needs": ["speed"]}, "invalid_arguments", ["needs", '"speed"', "'format'"]),
    ("recommend_approach", {"task": "x", "dataset_path": "rows.jsnl"}, "not_found", ["rows.jsnl", "rows.jsonl"]),
    ("validate_dataset", {}, "invalid_arguments", ["dataset_path: missing"]),
    ("validate_dataset", {"path": "rows.jsonl"}, "invalid_arguments", ["path: unknown argument", "dataset_path"]),
    ("validate_dataset", {"dataset_path": "rows.jsnl"}, "not_found", ["rows.jsnl", "Did you mean 'rows.jsonl'?"]),
    ("validate_dataset", {"dataset_path": "/etc/passwd"}, "outside_workspace", ["/etc/passwd", "TUNESMITH_READ_DIRS"]),
    ("validate_dataset", {"dataset_path": "../x.jsonl"}, "outside_workspace", ["../x.jsonl"]),
    ("validate_dataset", {**CHECK, "max_length": 3}, "invalid_arguments", ["max_length", "16", "got 3"]),
    ("validate_dataset", {**CHECK, "columns": {"questoin": "prompt"}}, "data_invalid",
     ["questoin", "question"]),
    ("estimate_vram", {"model": "owner/absent"}, "model_not_found", ["owner/absent", MODEL]),
    ("estimate_vram", {"model": MODEL, "gpu": "H900"}, "not_found", ["H900", "H200"]),
    ("estimate_vram", {"model": MODEL, "method": "dora"}, "invalid_arguments", ['"dora"', "'lora'"]),
    ("estimate_vram", {"model": MODEL, "max_length": 0, "num_gpus": 0}, "spec_invalid", ["max_length", "num_gpus"]),
    ("estimate_vram", {"model": MODEL, "max_seq_length": 9}, "invalid_arguments", ["it is max_length here"]),
    ("render_training_script", {**RENDER, "run_name": "A b"}, "spec_invalid", ["A b", "a-z"]),
    ("render_training_script", {**RENDER, "model": "owner/absent"}, "model_not_found",
     ["owner/absent", MODEL]),
    ("render_training_script", {**RENDER, "train_path": "none.jsonl"}, "not_found", ["none.jsonl"]),
    ("render_training_script", {**RENDER, "train_path": "empty.jsonl"}, "data_invalid", ["empty.jsonl"]),
    ("render_training_script", {**RENDER, "recipe": "sft-lorra"},
     "not_found", ["sft-lorra", "sft-lora"]),
    ("render_training_script", {**RENDER, "recipe": "sft-full",
                                "lora_rank": 8}, "spec_invalid", ["method.r", "full"]),
    ("render_training_script", {"run_name": "a", "model": MODEL, "train_path": "rows.jsonl",
                                "overrides": ["training.lr=1", "data.packng=true", "launch.merge_after=3"]},
     "spec_invalid", ["training.learning_rate", "'packing'", "merge_after"]),
    ("render_training_script", {**RENDER, "overrides": ["seed"]},
     "spec_invalid", ["'seed'", "KEY=VALUE"]),
    ("launch_training", {"run_id": "absent"}, "not_found", ["absent", "one"]),
    ("launch_training", {"run_id": "../one"}, "spec_invalid", ["../one", "a-z"]),
    ("get_run", {"run_id": "on"}, "not_found", ["'on'", "'one'"]),
    ("get_run", {"run_id": "one", "wait_s": 600}, "invalid_arguments", ["wait_s", "30", "600"]),
    ("list_runs", {"state": "done"}, "invalid_arguments", ['"done"', "'completed'"]),
    ("cancel_run", {"run_id": "one"}, "wrong_state", ["one"]),
    ("resume_run", {"run_id": "one"}, "wrong_state", ["one", "launch_training"]),
    ("merge_adapter", {"run_id": "one"}, "wrong_state", ["one", "launch_training"]),
    ("merge_adapter", {"run_id": "one", "base": "fp8"}, "invalid_arguments", ['"fp8"', "'original'"]),
    ("run_eval", {"run_id": "one"}, "wrong_state", ["one", "launch_training"]),
    ("run_eval", {"run_id": "one", "metric": "bleu"}, "invalid_arguments", ['"bleu"', "'exact_match'"]),
    ("run_eval", {"run_id": "one", "candidate": "base"}, "spec_invalid", ["few_shot=0", "few_shot=4"]),
    ("run_eval", {"run_id": "one", "few_shot": 40}, "invalid_arguments", ["few_shot", "16", "40"]),
    ("inspect_environment", {"verbose": True}, "invalid_arguments", ["verbose"]),
]  # fmt: skip


@pytest.fixture
def workspace(ws, make_run):  # noqa: F811
    """A run that was never started, a usable file and an empty one."""
    make_run("one")
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(20)]
    (ws.root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (ws.root / "empty.jsonl").write_text("", encoding="utf-8")
    return ws


@pytest.mark.parametrize(
    ("tool", "arguments", "code", "named"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
async def test_an_error_says_what_it_saw_and_what_helps(workspace, tool, arguments, code, named):
    async with Client(build_server(), read_timeout_seconds=120) as client:
        result = await client.call_tool(tool, arguments)
    text = result.content[0].text
    assert result.is_error, text
    assert f"{code}:" in text
    assert [word for word in named if word not in text] == [], text
    assert code in LISTS or "Hint: " in text, text
    assert "Traceback" not in text and "pydantic" not in text and len(text) < 3000


def string_arguments() -> list[tuple[str, str]]:
    found = []
    for tool in all_tools():
        for name, schema in tool.parameters["properties"].items():
            options = [schema, *schema.get("anyOf", [])]
            if any(o.get("type") == "string" or (o.get("items") or {}).get("type") == "string" for o in options):
                found.append((tool.name, name))
    return found


@pytest.mark.parametrize(("tool", "argument"), string_arguments())
async def test_code_in_a_string_stays_a_string(workspace, tool, argument, tmp_path):
    valid = {
        "run_id": "one",
        "run_name": "a",
        "model": MODEL,
        "train_path": "rows.jsonl",
        "dataset_path": "rows.jsonl",
        "task": "x",
    }
    (declared,) = [t for t in all_tools() if t.name == tool]
    arguments = {name: valid[name] for name in declared.parameters.get("required", [])}
    mark = tmp_path / "owned"
    text = INJECTION.replace("/tmp/owned", str(mark))
    schema = declared.parameters["properties"][argument]
    kinds = {option.get("type") for option in [schema, *schema.get("anyOf", [])]}
    arguments[argument] = [text] if "array" in kinds else text
    async with Client(build_server(), read_timeout_seconds=120) as client:
        result = await client.call_tool(tool, arguments)
    assert "internal_error" not in result.content[0].text, result.content[0].text
    assert result.is_error or (tool, argument) in {("recommend_approach", "task"), ("recommend_approach", "model"),
                                                   ("validate_dataset", "system")}  # fmt: skip
    assert not mark.exists()
