"""Records out of files: JSON, JSONL, CSV, TSV, Parquet, Arrow, text; gzip; a folder of them.

Everything streams. A broken record becomes a Record with a `fault` that names its place; the rest is still read.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from skill.errors import DataError, MissingDependency

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
CHUNK = 1 << 20
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `value`, or what is wrong with it. `line` is 1-based; None where files have no lines."""

    value: dict[str, Any] | None
    line: int | None = None
    fault: str = ""


def data_files(path: Path) -> list[Path]:
    """The file itself, or the data files of a folder in name order."""
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file() and kind_of(p, strict=False))
    if not files:
        raise DataError(f"The folder {path.name!r} holds no data file.", hint=f"Known endings: {', '.join(SUFFIXES)}.")
    return files


def kind_of(path: Path, *, strict: bool = True) -> str:
    """The ending that decides how a file is read, `.gz` and `.zst` taken off."""
    name = re.sub(r"\.(gz|zst)$", "", path.name.lower())
    kind = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    if not kind and strict:
        raise DataError(
            f"{path.name!r} is of no known kind.", hint=f"Known endings: {', '.join(SUFFIXES)}, also with .gz or .zst."
        )
    return kind


def read_records(path: Path) -> Iterator[Record]:
    """All records of a file or folder, in order.

    Raises:
        DataError: of no known kind, empty, or not what its ending says.
    """
    for file in data_files(path):
        kind = kind_of(file)
        if file.stat().st_size == 0:
            raise DataError(f"{file.name!r} is empty.", hint="Give a file with one example a row.")
        if kind in (".parquet", ".arrow"):
            yield from _columnar(file, kind)
            continue
        with _open(file) as stream:
            yield from _guard(_READERS[kind](stream), file)


def _guard(records: Iterator[Record], file: Path) -> Iterator[Record]:
    """A compressed file that is cut off or damaged: what could be read, then one fault."""
    try:
        yield from records
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield Record(None, None, f"{file.name} is damaged or cut off here ({error})")


def _open(file: Path) -> BinaryIO:
    """A binary stream of UTF-8 (UTF-16 with a BOM is recoded, the BOM taken off)."""
    suffix = file.suffix.lower()
    if suffix == ".gz":
        raw: Any = gzip.open(file, "rb")  # noqa: SIM115  the caller closes it
    elif suffix == ".zst":
        try:
            import zstandard  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingDependency("Reading .zst needs zstandard.", hint="pip install zstandard") from error
        raw = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file.open("rb"), closefd=True))
    else:
        raw = file.open("rb")
    stream = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, CHUNK)
    head = stream.peek(4)[:4]
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            stream.read(len(bom))
            if encoding != "utf-8":
                return io.BufferedReader(_Recoded(stream, encoding), CHUNK)
    return stream


class _Recoded(io.RawIOBase):
    """UTF-16 read as UTF-8 bytes."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._text = io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="")
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            text = self._text.read(CHUNK // 4)
            if not text:
                return 0
            self._rest = text.encode("utf-8")
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        self._text.close()
        super().close()


# --- JSON -----------------------------------------------------------------------------------------------------------


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)
_LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _decode(text: str, line: int | None) -> Record:
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        at = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} of the record"
        return Record(None, line, f"{error.msg} at {at}")
    except (ValueError, RecursionError) as error:
        return Record(None, line, str(error)[:100] or "nested too deeply")
    return _record(value, line, text)


def _record(value: Any, line: int | None, text: str = "") -> Record:
    if not isinstance(value, dict):
        return Record(None, line, f"{_json_name(value)} instead of an object")
    if _LONE_SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return Record(None, line, "half of a surrogate pair (\\ud8xx) in a string")
    return Record(value, line)


def _json_name(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _jsonl(stream: BinaryIO) -> Iterator[Record]:
    """Lines end at \\n only: str.splitlines would also cut at U+2028, which is legal inside JSON strings."""
    for number, raw in enumerate(stream, 1):
        line = raw.strip(b" \t\r\n")
        if not line:
            continue
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield Record(None, number, f"byte {error.start} is not UTF-8")
            continue
        yield _decode(text, number)


def _json(stream: BinaryIO) -> Iterator[Record]:
    """A .json file: an array of objects, JSONL under the wrong name, or one object that holds the rows."""
    buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)  # type: ignore[arg-type]
    head = buffered.peek(CHUNK)[:CHUNK].lstrip()
    if head[:1] != b"[":
        first = head.split(b"\n", 1)[0]
        several = b"\n" in head.strip()
        if several and _decode(first.decode("utf-8", "replace"), 1).value is not None:
            yield from _jsonl(buffered)
            return
        yield from _whole_object(buffered.read())
        return
    yield from _JsonArray(io.TextIOWrapper(buffered, encoding="utf-8", errors="surrogateescape", newline="")).records()


def _whole_object(raw: bytes) -> Iterator[Record]:
    """One JSON object: rows in a list under one key ({"data": [...]}), columns, a dict id -> row, or a single row."""
    try:
        value = _decoder.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        yield Record(None, getattr(error, "lineno", None), str(error)[:100])
        return
    if not isinstance(value, dict):
        yield _record(value, 1)
        return
    values = list(value.values())
    lists = [item for item in values if isinstance(item, list)]
    if len(values) > 1 and len(lists) == len(values) and len({len(item) for item in lists}) == 1:
        columns = {key: item for key, item in value.items() if not any(isinstance(cell, dict) for cell in item)}
        if len(columns) == len(value):
            yield from (Record(dict(zip(value, row, strict=True))) for row in zip(*lists, strict=True))
            return
    tables = [item for item in lists if item and all(isinstance(row, dict) for row in item)]
    if len(tables) == 1 and not any(key in value for key in ("messages", "conversations")):
        yield from (Record(row) for row in tables[0])
    elif len(values) > 1 and all(isinstance(item, dict) for item in values):
        yield from (Record({"id": key, **item}) for key, item in value.items())
    else:
        yield Record(value, 1)


class _JsonArray:
    """Elements of a JSON array, one at a time; after a broken one, reading goes on at the next."""

    # Strings end at a newline at the latest (JSON allows none inside), so one missing quote does not swallow the rest.
    _TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"?|[\[\]{}\n]')

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text
        self._buffer = ""
        self._position = 0
        self._line = 1
        self._ended = False

    def _more(self) -> bool:
        """Append a chunk; drop what was read. False at the end of the file."""
        chunk = "" if self._ended else self._text.read(CHUNK)
        self._ended = not chunk
        self._line += self._buffer.count("\n", 0, self._position)
        self._buffer = self._buffer[self._position :] + chunk
        self._position = 0
        return bool(chunk)

    def _skip(self, characters: str) -> str:
        """Skip these characters; the next one, or "" at the end."""
        while True:
            while self._position < len(self._buffer) and self._buffer[self._position] in characters:
                self._position += 1
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._more():
                return ""

    def records(self) -> Iterator[Record]:
        self._skip(" \t\r\n")
        self._position += 1  # the opening bracket
        while (following := self._skip(" \t\r\n,")) != "]":
            if not following:
                yield Record(None, self._here(), "the file ends before the array does")
                return
            yield self._element()

    def _here(self) -> int:
        return self._line + self._buffer.count("\n", 0, self._position)

    def _element(self) -> Record:
        while True:
            try:
                value, end = _decoder.raw_decode(self._buffer, self._position)
                if end < len(self._buffer) or not self._more():
                    break
                continue
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._buffer) - 16
                if cut and self._more():
                    continue
                line, fault = self._here(), error.msg
            except (ValueError, RecursionError) as error:
                line, fault = self._here(), str(error)[:100] or "nested too deeply"
            self._skip_element()
            return Record(None, line, fault)
        line = self._here()
        text, self._position = self._buffer[self._position : end], end
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return Record(None, line, "not UTF-8")
        return _record(value, line, text)

    def _skip_element(self) -> None:
        """Move past a broken element: to where its brackets close, else to the next line that opens one."""
        depth, at = 0, self._position
        while True:
            match = self._TOKEN.search(self._buffer, at)
            if match is None or (match.end() == len(self._buffer) and not self._ended):
                offset = at - self._position
                if self._more():
                    at = self._position + offset
                    continue
                if match is None:
                    self._position = len(self._buffer)
                    return
            token, at = match[0], match.end()
            if token in "{[":
                depth += 1
            elif token in "}]":
                depth -= 1
                if depth <= 0:
                    self._position = at if depth == 0 else at - 1
                    return


# --- tables ---------------------------------------------------------------------------------------------------------


def _table(delimiter: str) -> Any:
    def read(stream: BinaryIO) -> Iterator[Record]:
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
        first = text.readline()
        chosen = delimiter
        if delimiter == "," and "," not in first:  # exports of some locales
            chosen = max(";\t|", key=first.count) if any(mark in first for mark in ";\t|") else ","
        lines = iter([first]) if first else iter(())
        reader = csv.reader(_chain(lines, text), delimiter=chosen, strict=True)
        header = [name.strip() for name in next(reader, [])]
        if not any(header) or len(set(header)) != len(header):
            raise DataError(
                f"The first line is no header with distinct names: {first.strip()[:100]!r}.",
                hint="Put the column names into the first line.",
            )
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield Record(None, start, str(error))
                continue
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                yield Record(None, start, f"{len(cells)} fields where the header has {len(header)}")
            elif any("\udc80" <= max(cell, default="") <= "\udcff" for cell in cells):
                yield Record(None, start, "not UTF-8")
            else:
                yield Record(dict(zip(header, cells, strict=True)), start)

    return read


def _chain(first: Iterator[str], rest: Iterator[str]) -> Iterator[str]:
    yield from first
    yield from rest


def _text(stream: BinaryIO) -> Iterator[Record]:
    """One text a line."""
    for number, raw in enumerate(stream, 1):
        if raw.strip():
            try:
                yield Record({"text": raw.decode("utf-8").rstrip("\r\n")}, number)
            except UnicodeDecodeError as error:
                yield Record(None, number, f"byte {error.start} is not UTF-8")


def _columnar(file: Path, kind: str) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.ipc
    import pyarrow.parquet

    try:
        if kind == ".parquet":
            batches: Any = pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1024)
        else:
            source = pa.memory_map(str(file))
            try:
                reader = pyarrow.ipc.open_file(source)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            except pa.ArrowInvalid:  # what `datasets` writes
                batches = pyarrow.ipc.open_stream(pa.memory_map(str(file)))
        for batch in batches:
            for row in batch.to_pylist():
                yield Record(row)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{file.name!r} is not a readable {kind[1:].capitalize()} file: {str(error)[:120]}", hint="Write it again."
        ) from error


_READERS: dict[str, Any] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".txt": _text,
}
