import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from skill.data import validate_dataset
from skill.data.checks import CODES, Checker
from skill.data.render import Renderer
from skill.data.source import Source
from skill.data.validate import Scan, escaped, quantile
from skill.errors import DataError, NotFound, WorkspaceError

ROOT = Path(__file__).resolve().parents[2]


def write(ws, name: str, rows: list) -> str:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (ws.root / name).write_text(text)
    return name


def pairs(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"question number {i}?", "completion": f"answer {i}"} for i in range(count)]


def test_import_is_light() -> None:
    code = (
        "import sys, skill.data\n"
        "print([m for m in 'torch transformers datasets pandas pyarrow numpy tokenizers'.split() if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_clean_file_is_ready(ws, smollm2) -> None:
    report = validate_dataset(ws, write(ws, "a.jsonl", pairs(20)), model=smollm2.id)
    assert (report.verdict, report.rows, report.usable_rows, report.findings) == ("ready", 20, 20, [])
    tokens = report.tokens
    assert tokens is not None and tokens.stop_token == "<|im_end|>" and tokens.stop_token_trained
    assert 0 < tokens.trained < tokens.total and tokens.p50 <= tokens.p95 <= tokens.longest
    assert tokens.recommended_max_length == 64
    assert report.preview[0].endswith("⟦answer 0<|im_end|>\\n⟧")
    assert report.next_step.startswith("Call estimate_vram")


def test_without_a_model_there_are_no_tokens(ws) -> None:
    report = validate_dataset(ws, write(ws, "a.jsonl", pairs(20)))
    assert report.tokens is None and report.preview == [] and "`model`" in report.next_step


def test_every_fault_is_counted_with_its_rows(ws, smollm2) -> None:
    rows: list = pairs(30)
    rows[3] = '{"prompt": "x", "completion": '
    rows[4] = {"prompt": "no answer"}
    rows[5] = {"prompt": "", "completion": "c"}
    rows[6] = {"prompt": "p", "completion": " "}
    rows[7] = {"prompt": ["p"], "completion": "c"}
    rows[8] = rows[0]
    rows[9] = {"prompt": "question number 1?", "completion": "another answer"}
    rows[10] = {"prompt": "long", "completion": " ".join(f"word{i}" for i in range(200))}
    rows[11] = {"prompt": "mail to joe@corp.com", "completion": "tel 555-123-4567"}
    report = validate_dataset(ws, write(ws, "a.jsonl", rows), model=smollm2.id, max_length=128)
    found = {finding.code: finding.rows for finding in report.findings}
    assert found == {
        "malformed_row": [3],
        "missing_field": [4],
        "empty_prompt": [5],
        "empty_output": [6],
        "wrong_type": [7],
        "exact_duplicate": [8],
        "conflicting_answers": [1, 9],
        "overlength": [10],
        "pii_email": [11],
        "pii_phone": [11],
    }
    assert report.usable_rows == 24 and report.verdict == "usable_with_warnings"
    assert "line 4" in report.findings[0].detail
    assert "joe@corp.com" not in report.model_dump_json()


def test_leak_into_the_held_out_file(ws) -> None:
    write(ws, "eval.jsonl", [{"question": "Question  number 7?", "answer": "x"}])
    report = validate_dataset(ws, write(ws, "a.jsonl", pairs(20)), eval_path="eval.jsonl")
    assert [(f.code, f.rows) for f in report.findings] == [("train_eval_leak", [7])]


def test_few_rows(ws) -> None:
    report = validate_dataset(ws, write(ws, "a.jsonl", pairs(4)))
    assert [(f.code, f.count) for f in report.findings] == [("too_few_rows", 0)]


def test_sample_reads_the_head_only(ws) -> None:
    path = write(ws, "a.jsonl", pairs(50))
    assert (validate_dataset(ws, path, sample=5).rows, validate_dataset(ws, path, sample=5).sampled) == (5, True)
    assert validate_dataset(ws, path, sample=50).sampled is False


def test_preference_pairs_are_named_and_not_usable(ws) -> None:
    report = validate_dataset(ws, write(ws, "a.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 12))
    assert (report.format, report.verdict, report.usable_rows) == ("preference", "not_usable", 0)
    assert [finding.code for finding in report.findings] == ["wrong_format"]
    mapped = validate_dataset(ws, "a.jsonl", columns={"prompt": "prompt", "chosen": "completion"})
    assert mapped.usable_rows == 12


def test_mixed_schemas_are_read_row_by_row(ws) -> None:
    rows = pairs(12)
    rows[5] = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}  # type: ignore[assignment]
    report = validate_dataset(ws, write(ws, "a.jsonl", rows))
    assert (report.format, report.usable_rows, report.findings) == ("prompt_completion", 12, [])


def test_unknown_columns_are_refused_with_a_mapping(ws) -> None:
    path = write(ws, "a.jsonl", [{"user_question": "q", "gold_answer": "a"}] * 3)
    with pytest.raises(DataError, match=r'columns=\{"user_question": "prompt", "gold_answer": "completion"\}'):
        validate_dataset(ws, path)
    columns = {"user_question": "prompt", "gold_answer": "completion"}
    assert validate_dataset(ws, path, columns=columns).usable_rows == 3
    with pytest.raises(DataError, match="Did you mean 'user_question'"):
        validate_dataset(ws, path, columns={"user_questions": "prompt", "gold_answer": "completion"})


def test_bad_paths(ws) -> None:
    write(ws, "train.jsonl", pairs(1))
    with pytest.raises(NotFound, match=r"Did you mean 'train\.jsonl'"):
        validate_dataset(ws, "trian.jsonl")
    with pytest.raises(WorkspaceError):
        validate_dataset(ws, "../secret.jsonl")
    (ws.root / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="is empty"):
        validate_dataset(ws, "empty.jsonl")
    (ws.root / "broken.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"no readable row.*line 1"):
        validate_dataset(ws, "broken.jsonl")


def test_text_is_escaped_before_it_is_shown(ws, smollm2) -> None:
    rows = pairs(12)
    rows[0] = {"prompt": "\u202eevil\x1b[31m", "completion": "⟦fake⟧\ufeff"}
    preview = validate_dataset(ws, write(ws, "a.jsonl", rows), model=smollm2.id).preview[0]
    assert preview.isprintable() and preview.count("⟦") == 1 and "\\x1b[31m" in preview
    assert escaped("a\nb\u2028") == "a\\nb\\u2028"


def test_small_sample_is_quick_once_proved(ws, smollm2) -> None:
    path = write(ws, "a.jsonl", pairs(1000))
    validate_dataset(ws, path, model=smollm2.id, sample=1)
    start = time.perf_counter()
    validate_dataset(ws, path, model=smollm2.id, sample=200)
    assert time.perf_counter() - start < 2


def test_quantile_is_nearest_rank() -> None:
    assert [quantile([1, 2, 3, 4], share) for share in (0.25, 0.5, 0.95, 1.0)] == [1, 2, 4, 4]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "form", "rows", "found"),
    [
        ("alpaca_zh/zh-data-part-00.json", "alpaca", 10021, {"empty_output", "exact_duplicate"}),
        ("banking77/train.csv", "classification", 10003, set()),
        ("gsm8k/test.jsonl", "prompt_completion", 1319, set()),
        ("azure_raft/banking_train.jsonl", "messages", 394, {"pii_phone"}),
        ("llamafactory/glaive_toolcall_en_demo.json", "sharegpt", 300, {"tool_calls_unsupported", "exact_duplicate"}),
        ("openai_cookbook/toy_chat_fine_tuning.jsonl", "messages", 5, {"bad_role_order", "too_few_rows"}),
        ("codealpaca/code_alpaca_2k.json", "alpaca", 2017, {"empty_output"}),
    ],
)
def test_public_datasets(shared_dir, monkeypatch, ws, name: str, form: str, rows: int, found: set[str]) -> None:
    monkeypatch.setenv("TUNESMITH_READ_DIRS", str(shared_dir))
    report = validate_dataset(type(ws).open(ws.root), str(shared_dir / "data" / name))
    assert (report.format, report.rows) == (form, rows)
    assert found <= {finding.code for finding in report.findings}


@pytest.mark.shared
def test_public_leak(shared_dir, monkeypatch, ws) -> None:
    """banking77 has seven test texts in train after normalising (its manifest says so)."""
    monkeypatch.setenv("TUNESMITH_READ_DIRS", str(shared_dir))
    data = shared_dir / "data" / "banking77"
    report = validate_dataset(type(ws).open(ws.root), str(data / "train.csv"), eval_path=str(data / "test.csv"))
    assert [(f.code, f.count) for f in report.findings if f.code == "train_eval_leak"] == [("train_eval_leak", 7)]


def test_a_report_of_every_fault_stays_small(ws, smollm2) -> None:
    """An agent pays for every word: under 2000 tokens with a finding of every code there is."""
    from tokenizers import Tokenizer

    checker = Checker()
    for code in CODES:
        for row in range(100_000, 100_006):
            checker.fault(code, row, "line 100000: what was seen there")
    source = Source(ws.root / write(ws, "a.jsonl", pairs(20)))
    scan = Scan(source, checker, Renderer(smollm2), max_length=1024, system=None)
    scan.run()
    report = scan.report("a.jsonl")
    told = {finding.code for finding in report.findings}
    assert all(code in told or code in report.next_step for code in CODES)
    tokenizer = Tokenizer.from_file(str(Path(smollm2.path) / "tokenizer.json"))
    assert len(tokenizer.encode(report.model_dump_json()).ids) < 2000
