"""The generated cases of benchmarks/dataset_detection.py, scored as the benchmark scores them."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("loaded_" + path.rpartition("/")[2].removesuffix(".py"), ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load("benchmarks/dataset_detection.py")


def test_generated_cases_meet_the_targets(benchmark, tmp_path, capsys) -> None:
    benchmark.generate(tmp_path / "cases")
    result = benchmark.score(tmp_path / "cases", None)
    assert result["cases"] >= 120 and result["format_accuracy"] == 1
    assert result["recall"] >= 0.98 and result["precision"] >= 0.97, capsys.readouterr().out
    near = result["per_code"]["near_duplicate"]
    assert near["planted"] >= 10 and min(near["precision"], near["recall"]) >= 0.95


def test_misses_false_alarms_and_ignored_rows_are_counted(benchmark, tmp_path) -> None:
    case = tmp_path / "case"
    case.mkdir()
    rows = [{"prompt": f"question {i} of many", "completion": f"answer {i}"} for i in range(12)]
    rows[3]["completion"] = "mail joe@example.org"
    rows[4]["completion"] = "N/A"
    rows[5]["completion"] = "As an AI language model, I cannot."
    (case / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = {
        "codes": {"pii_email": [3], "secret": [7], "too_few_rows": []},
        "format": "text",
        "ignore": {"refusal_boilerplate": [5]},
    }
    (case / "expected.json").write_text(json.dumps(expected))
    result = benchmark.score(tmp_path, None)
    assert (result["precision"], result["recall"], result["format_accuracy"]) == (0.5, 0.3333, 0)
    assert result["per_code"]["degenerate_output"] == {"planted": 0, "precision": 0.0, "recall": None}
