import hashlib
import json

import pytest

from skill.data import convert_dataset
from skill.errors import DataError
from skill.spec import DataSpec


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write(ws, name: str, content: list) -> str:
    (ws.root / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), "utf-8")
    return name


def pairs(count: int, tag: str = "q") -> list[dict[str, str]]:
    return [{"prompt": f"{tag} {i}", "completion": f"a\u2028{i}"} for i in range(count)]


def test_split_is_deterministic_complete_and_leak_free(ws, tmp_path) -> None:
    content = pairs(100) + pairs(20)  # the last twenty repeat the first twenty questions
    data = DataSpec(train=write(ws, "a.jsonl", content), eval_fraction=0.2)
    first = convert_dataset(ws, data, tmp_path / "one", chat=True, seed=1)
    again = convert_dataset(ws, data, tmp_path / "two", chat=True, seed=1)
    other = convert_dataset(ws, data, tmp_path / "three", chat=True, seed=2)
    assert first == again and first.files != other.files
    train, held_out = rows(tmp_path / "one" / "train.jsonl"), rows(tmp_path / "one" / "eval.jsonl")
    assert (len(train), len(held_out)) == (first.train_rows, first.eval_rows)
    assert len(train) + len(held_out) == 120 and 20 <= len(held_out) <= 28
    asked = [{row["prompt"][0]["content"] for row in side} for side in (train, held_out)]
    assert not asked[0] & asked[1]
    assert first.eval_source == "split" and first.rows_kept == 120
    assert train[0]["completion"][0]["content"].startswith("a\u2028")


def test_manifest_accounts_for_every_row(ws, tmp_path) -> None:
    content: list = pairs(20)
    content[2] = {"prompt": "", "completion": "c"}
    content[5] = {"prompt": "p", "completion": ""}
    content[6] = {"prompt": "p"}
    held_out = write(ws, "e.jsonl", [{"prompt": "Q  7", "completion": "x"}, {"prompt": "new", "completion": "y"}])
    data = DataSpec(train=write(ws, "a.jsonl", content), eval=held_out)
    manifest = convert_dataset(ws, data, tmp_path / "out", chat=True, seed=0)
    assert manifest.rows_read == 20 and manifest.rows_kept == manifest.train_rows == 16
    assert manifest.rows_dropped == {"empty_prompt": 1, "empty_output": 1, "missing_field": 1, "train_eval_leak": 1}
    assert manifest.first_dropped["train_eval_leak"] == [7]
    assert (manifest.eval_rows, manifest.eval_source) == (2, "file")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest.model_dump()
    assert [source.path for source in manifest.sources] == ["a.jsonl", "e.jsonl"]
    for name, digest in manifest.files.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest


def test_turns_of_a_conversation_stay_on_one_side(ws, tmp_path) -> None:
    talk = [
        {"messages": [{"role": r, "content": f"{t} {i}"} for t in ("x", "y") for r in ("user", "assistant")]}
        for i in range(40)
    ]
    data = DataSpec(train=write(ws, "a.jsonl", talk), eval_fraction=0.25, system="Be brief.")
    manifest = convert_dataset(ws, data, tmp_path / "out", chat=True, seed=3)
    assert manifest.train_rows + manifest.eval_rows == 80
    train, held_out = (rows(tmp_path / "out" / f"{side}.jsonl") for side in ("train", "eval"))
    sides = [{row["prompt"][1]["content"] for row in side} for side in (train, held_out)]
    assert not sides[0] & sides[1] and train[0]["prompt"][0] == {"role": "system", "content": "Be brief."}


def test_strings_without_a_template(ws, tmp_path) -> None:
    data = DataSpec(train=write(ws, "a.jsonl", pairs(10)), eval_fraction=0)
    manifest = convert_dataset(ws, data, tmp_path / "out", chat=False, seed=0)
    assert rows(tmp_path / "out" / "train.jsonl")[0] == {"prompt": "q 0", "completion": "a\u20280"}
    assert manifest.eval_source == "none" and not (tmp_path / "out" / "eval.jsonl").exists()


def test_rewriting_removes_an_old_held_out_file(ws, tmp_path) -> None:
    path = write(ws, "a.jsonl", pairs(10))
    convert_dataset(ws, DataSpec(train=path, eval_fraction=0.5), tmp_path / "out", chat=True, seed=0)
    convert_dataset(ws, DataSpec(train=path, eval_fraction=0), tmp_path / "out", chat=True, seed=0)
    assert not (tmp_path / "out" / "eval.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"prompt": "p", "completion": ""}] * 3, "nothing to train on.*empty_output 3"),
        ([{"prompt": "p", "chosen": "a", "rejected": "b"}], "not data for objective 'sft'"),
        ([{"prompt": "p", "completion": "c"}] * 5, "none can be held out"),
        ([{"a": 1}], "no known format"),
    ],
)
def test_what_cannot_be_converted(ws, tmp_path, content: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert_dataset(ws, DataSpec(train=write(ws, "a.jsonl", content)), tmp_path / "out", chat=True, seed=0)


def test_useless_held_out_file(ws, tmp_path) -> None:
    held_out = write(ws, "e.jsonl", [{"prompt": "p", "completion": ""}])
    data = DataSpec(train=write(ws, "a.jsonl", pairs(3)), eval=held_out)
    with pytest.raises(DataError, match="holds no usable row"):
        convert_dataset(ws, data, tmp_path / "out", chat=True, seed=0)
