"""The dataset that `make demo` trains on."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from skill.assets import asset
from skill.data import validate_dataset


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    path = asset("examples/support-intents/generate.py")
    spec = importlib.util.spec_from_file_location("generate_support_intents", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(path: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_files_are_what_the_generator_writes(generate, tmp_path) -> None:
    generate.main(tmp_path)
    for name in ("train.jsonl", "eval.jsonl"):
        assert (tmp_path / name).read_bytes() == asset(f"examples/support-intents/{name}").read_bytes()


def test_answers_follow_the_schema(generate) -> None:
    for name in ("train.jsonl", "eval.jsonl"):
        for system, message, answer in rows(asset(f"examples/support-intents/{name}")):
            assert system["content"] == generate.SYSTEM
            parsed = json.loads(answer["content"])
            assert list(parsed) == ["intent", "product", "urgent", "order_id"]
            assert parsed["intent"] in generate.TEMPLATES and isinstance(parsed["urgent"], bool)
            assert parsed["product"] is None or parsed["product"] in message["content"].lower()
            assert parsed["order_id"] is None or parsed["order_id"] in message["content"]


def test_evaluation_wording_is_held_out(generate) -> None:
    for sides in [*generate.TEMPLATES.values(), *generate.PRODUCTS.values(), generate.URGENT]:
        assert not set(sides[0]) & set(sides[1])
    numbers = [
        {json.loads(row[2]["content"])["order_id"] for row in rows(asset(f"examples/support-intents/{name}.jsonl"))}
        for name in ("train", "eval")
    ]
    assert numbers[0] & numbers[1] <= {None}


def test_it_is_ready_to_train_on(ws, smollm2) -> None:
    for name in ("train.jsonl", "eval.jsonl"):
        shutil.copy(asset(f"examples/support-intents/{name}"), ws.root / name)
    report = validate_dataset(ws, "train.jsonl", model=smollm2.id, eval_path="eval.jsonl", max_length=192)
    assert report.verdict == "ready" and report.format == "messages"
    assert report.tokens is not None and report.tokens.total < 45_000 and report.tokens.over_max_length == 0
