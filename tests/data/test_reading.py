import gzip
import json
from pathlib import Path

import pytest

from skill.data.json_records import Record
from skill.data.reading import read_records
from skill.errors import DataError


def read(tmp_path: Path, name: str, content: str | bytes) -> list[Record]:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_records(file))


def faults(records: list[Record]) -> list[tuple[int, int | None]]:
    return [(row, record.line) for row, record in enumerate(records) if record.value is None]


def test_jsonl_faults_have_a_place_and_the_rest_is_read(tmp_path) -> None:
    lines = [
        '{"a": 1}',
        '{"a": 2,}',
        "",
        '{"a": NaN}',
        "[1]",
        '"text"',
        "null",
        '{"a": "\\ud83d"}',
        '{"a": 3}',
        '{"a": "half',
    ]
    records = read(tmp_path, "a.jsonl", "\n".join(lines))
    assert faults(records) == [(1, 2), (2, 4), (3, 5), (4, 6), (5, 7), (6, 8), (8, 10)]
    assert [r.value for r in records if r.value] == [{"a": 1}, {"a": 3}]
    assert "NaN" in records[2].fault and "an array" in records[3].fault and "surrogate" in records[6].fault


def test_invalid_utf8_spoils_one_line_only(tmp_path) -> None:
    records = read(tmp_path, "a.jsonl", b'{"a": 1}\n{"a": "\xed"}\n{"a": 2}\n')
    assert faults(records) == [(1, 2)] and "not UTF-8" in records[1].fault


def test_line_separators_inside_strings_do_not_cut(tmp_path) -> None:
    value = {"a": "one\u2028two\u2029three\x85four"}
    assert read(tmp_path, "a.jsonl", json.dumps(value, ensure_ascii=False) + "\r\n")[0].value == value


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path, encoding: str) -> None:
    text = '{"a": "ü"}\n{"a": "東"}\n'
    assert [r.value for r in read(tmp_path, "a.jsonl", text.encode(encoding))] == [{"a": "ü"}, {"a": "東"}]


def test_json_array_recovers_after_each_broken_element(tmp_path) -> None:
    text = '[\n {"a": 1},\n {"a": 2,},\n {"a": {"b": [NaN]}},\n {"a": "no end},\n {"a": 5},\n 7,\n {"a": 6}\n]\n'
    records = read(tmp_path, "a.json", text)
    assert faults(records) == [(1, 3), (2, 4), (3, 5), (5, 7)]
    assert [r.value for r in records if r.value] == [{"a": 1}, {"a": 5}, {"a": 6}]


def test_json_array_cut_off(tmp_path) -> None:
    records = read(tmp_path, "a.json", '[{"a": 1}, {"a": 2}, {"a": "thr')
    assert [r.value for r in records[:2]] == [{"a": 1}, {"a": 2}] and records[-1].fault
    assert read(tmp_path, "b.json", '[{"a": 1}')[-1].fault == "the file ends before the array does"


@pytest.mark.parametrize("size", [10, 5000])
def test_json_array_over_chunk_borders(tmp_path, monkeypatch, size: int) -> None:
    monkeypatch.setattr("skill.data.json_records.CHUNK", 37)
    rows = [{"i": i, "text": 'é"\\[{' * (i % 7), "n": [i, {"k": None}]} for i in range(size // 10)]
    rows.insert(3, {"long": "x" * size})
    for indent in (None, 2):
        assert [r.value for r in read(tmp_path, "a.json", json.dumps(rows, indent=indent, ensure_ascii=False))] == rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),  # JSONL under the wrong name
        ('{"a": 1}', [{"a": 1}]),
        ('{"version": 1, "data": [{"a": 1}, {"a": 2}]}', [{"a": 1}, {"a": 2}]),
        ('{"x": {"a": 1}, "y": {"a": 2}}', [{"id": "x", "a": 1}, {"id": "y", "a": 2}]),
        ('{"p": ["1", "2"], "c": ["3", "4"]}', [{"p": "1", "c": "3"}, {"p": "2", "c": "4"}]),
        ('{"messages": [{"role": "user"}], "id": 1}', [{"messages": [{"role": "user"}], "id": 1}]),
        ("[]", []),
    ],
)
def test_json_that_is_no_array(tmp_path, text: str, rows: list) -> None:
    assert [r.value for r in read(tmp_path, "a.json", text)] == rows


def test_csv_quoting_newlines_and_wrong_field_counts(tmp_path) -> None:
    text = 'prompt,completion\n"two\nlines","a, ""b"""\nonly one\na,b,c\n\nlast,ok\n'
    records = read(tmp_path, "a.csv", text)
    assert records[0].value == {"prompt": "two\nlines", "completion": 'a, "b"'}
    assert faults(records) == [(1, 4), (2, 5)]
    assert records[3].value == {"prompt": "last", "completion": "ok"}


def test_csv_dialects(tmp_path) -> None:
    assert read(tmp_path, "a.csv", "a;b\n1,5;2\n")[0].value == {"a": "1,5", "b": "2"}
    assert read(tmp_path, "a.tsv", "a\tb\n1\t2\n")[0].value == {"a": "1", "b": "2"}
    assert read(tmp_path, "b.csv", b"a,b\nx,\xff\n")[0].fault == "not UTF-8"
    with pytest.raises(DataError, match="no header"):
        read(tmp_path, "c.csv", "a,a\n1,2\n")


def test_gzip_and_its_damage(tmp_path) -> None:
    packed = gzip.compress(b"".join(json.dumps({"a": i, "b": str(hash(i))}).encode() + b"\n" for i in range(2000)))
    assert len(read(tmp_path, "a.jsonl.gz", packed)) == 2000
    cut = read(tmp_path, "b.jsonl.gz", packed[: len(packed) // 2])
    assert "cut off" in cut[-1].fault and len(cut) > 100


def test_parquet_and_arrow(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": "a", "messages": [{"role": "user", "content": "x"}]}, {"prompt": None, "messages": []}]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(tmp_path / "c.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "b.arrow", "c.arrow"):
        assert [r.value for r in read_records(tmp_path / name)] == rows
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read(tmp_path, "d.parquet", b"PAR1nonsense")


def test_folder_is_read_in_name_order(tmp_path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "b.jsonl").write_text('{"a": 2}\n')
    (folder / "a.jsonl").write_text('{"a": 1}\n')
    (folder / "README.md").write_text("not data")
    assert [r.value for r in read_records(folder)] == [{"a": 1}, {"a": 2}]


def test_unknown_kind_and_empty_file(tmp_path) -> None:
    with pytest.raises(DataError, match="no known kind"):
        read(tmp_path, "a.docx", "x")
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path, "a.jsonl", "")
