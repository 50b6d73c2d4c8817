"""Use cases with the answer an expert would give, and why (benchmarks/advice_cases.jsonl)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skill.advise import ApproachQuery, recommend_approach
from skill.workspace import Workspace

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "advice_cases.jsonl"
CASES = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def test_there_are_enough_cases_and_each_says_why():
    assert len(CASES) >= 60
    assert len({case["id"] for case in CASES}) == len(CASES)
    assert all(case["why"] and case["expected_approach"] for case in CASES)
    seen = {name for case in CASES for name in case["expected_approach"]}
    assert len(seen) == 7, "every approach is somebody's right answer"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_expected_answer(case, tmp_path):
    facts = {key: value for key, value in case["facts"].items() if value is not None}
    advice = recommend_approach(Workspace.open(tmp_path), ApproachQuery.build(task=case["description"], **facts))
    assert advice.verdict in case["expected_approach"], case["why"]
    plan = advice.tuning
    if case["expected_objective"]:
        assert plan or advice.verdict in ("prompting", "rag")
        assert not plan or plan.objective in case["expected_objective"], case["why"]
    if case["expected_method"] and plan:
        assert plan.method in case["expected_method"], plan.method_why
