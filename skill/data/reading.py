"""Records out of files: JSON, JSONL, CSV, TSV, Parquet, Arrow, text; gzip; a folder of them.

Everything streams. A broken record becomes a Record with a `fault` that names its place; the rest is still read.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import sys
import zlib
from collections.abc import Generator, Iterator
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


def read_records(path: Path) -> Generator[Record]:
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
        yield from _stream(file, kind)


def _stream(file: Path, kind: str) -> Iterator[Record]:
    """Records of a text file; a compressed one that is cut off or damaged yields what can be read, then a fault."""
    with file.open("rb") as raw:
        unpacked = _unpack(raw, file.suffix.lower())
        for record in _READERS[kind](_plain_utf8(unpacked)):
            if record.fault and _damage(unpacked):  # the record that the damage cut in two
                yield Record(None, record.line, _damage(unpacked))
                return
            yield record
        if _damage(unpacked):
            yield Record(None, None, _damage(unpacked))


def _damage(unpacked: Any) -> str:
    return unpacked.damage if isinstance(unpacked, _Gunzip) else ""


def _unpack(raw: Any, suffix: str) -> Any:
    if suffix == ".gz":
        return _Gunzip(raw)
    if suffix == ".zst":
        try:
            import zstandard  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingDependency("Reading .zst needs zstandard.", hint="pip install zstandard") from error
        return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    return raw


def _plain_utf8(raw: Any) -> io.BufferedReader:
    """UTF-8 without a byte order mark (UTF-16 with one is recoded)."""
    stream = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, CHUNK)
    head = stream.peek(4)[:4]
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            stream.read(len(bom))
            if encoding != "utf-8":
                return io.BufferedReader(_Recoded(stream, encoding), CHUNK)
    return stream


class _Gunzip(io.RawIOBase):
    """gzip that ends at damage instead of raising, so that what came before it is read. `damage` says what it met."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._inflate = zlib.decompressobj(wbits=31)
        self._rest = b""
        self._started = False
        self.damage = ""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and not self.damage:
            packed = self._inflate.unused_data or self._raw.read(1 << 16)
            if self._inflate.eof:
                self._inflate, self._started = zlib.decompressobj(wbits=31), False
            if not packed:
                if self._started:
                    self.damage = "the compressed file is cut off here"
                break
            self._started = True
            try:
                self._rest = self._inflate.decompress(packed)
            except zlib.error as error:
                self.damage = f"the compressed file is damaged here ({error})"
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


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


def _json(buffered: io.BufferedReader) -> Iterator[Record]:
    """A .json file: an array of objects, JSONL under the wrong name, or one object that holds the rows."""
    head = buffered.peek(CHUNK)[:CHUNK].lstrip()
    if head[:1] != b"[":
        first = head.split(b"\n", 1)[0]
        several = b"\n" in head.strip()
        if several and _decode(first.decode("utf-8", "replace"), 1).value is not None:
            yield from _jsonl(buffered)
            return
        yield from _whole_object(buffered.read())
        return
    with io.TextIOWrapper(buffered, encoding="utf-8", errors="surrogateescape", newline="") as text:
        yield from _JsonArray(text).records()


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

    # JSON strings hold no newline, so one that reaches the end of its line lacks its closing quote.
    _TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*(?P<open>\n)?|[\[\]{}]')

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text
        self._buffer = ""
        self._position = 0
        self._line, self._counted = 1, 0  # line of buffer[_counted]
        self._ended = False

    def records(self) -> Iterator[Record]:
        self._skip(" \t\r\n")
        self._position += 1  # the opening bracket
        while (following := self._skip(" \t\r\n,")) != "]":
            if not following:
                yield Record(None, self._here(), "the file ends before the array does")
                return
            yield self._element()

    def _more(self) -> bool:
        """Append a chunk and drop what was read. False at the end of the file."""
        chunk = "" if self._ended else self._text.read(CHUNK)
        self._ended = not chunk
        self._here()
        self._buffer = self._buffer[self._position :] + chunk
        self._position = self._counted = 0
        return bool(chunk)

    def _here(self) -> int:
        """Line of the position, counted on from the last time."""
        self._line += self._buffer.count("\n", self._counted, self._position)
        self._counted = self._position
        return self._line

    def _skip(self, characters: str) -> str:
        """Skip these characters; the next one, or "" at the end."""
        while True:
            while self._position < len(self._buffer) and self._buffer[self._position] in characters:
                self._position += 1
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._more():
                return ""

    def _element(self) -> Record:
        line = self._here()
        indent = self._position - 1 - self._buffer.rfind("\n", 0, self._position)
        while True:
            try:
                value, end = _decoder.raw_decode(self._buffer, self._position)
                if end < len(self._buffer) or not self._more():
                    break
                continue  # a number may go on in the next chunk
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._buffer) - 16
                if cut and self._more():
                    continue
                fault = error.msg
            except (ValueError, RecursionError) as error:
                fault = str(error)[:100] or "nested too deeply"
            self._skip_element(indent)
            return Record(None, line, fault)
        text, self._position = self._buffer[self._position : end], end
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return Record(None, line, "not UTF-8")
        return _record(value, line, text)

    def _skip_element(self, indent: int) -> None:
        """Move past a broken element: to where its brackets close, or, when a quote is missing, to the next line that
        opens an object no deeper than this one."""
        depth, at, pattern = 0, 0, self._TOKEN
        while True:
            match = pattern.search(self._buffer, self._position + at)
            if match is None or match.end() == len(self._buffer):
                if self._more():
                    continue
                if match is None:
                    self._position = len(self._buffer)
                    return
            at = match.end() - self._position
            if pattern is not self._TOKEN:
                self._position = match.end()
                return
            if match["open"]:
                pattern, at = re.compile(rf"\n[ \t]{{0,{min(indent, 1000)}}}(?=[{{\]])"), at - 1
            depth += (match[0] in "{[") - (match[0] in "}]")
            if match[0] in "}]" and depth <= 0:
                self._position = match.end() - (depth < 0)  # below 0 it is the array that closes
                return


# --- tables ---------------------------------------------------------------------------------------------------------


def _table(delimiter: str) -> Any:
    def read(stream: BinaryIO) -> Iterator[Record]:
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        with io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="") as text:
            yield from _rows_of_table(text, delimiter)

    return read


def _rows_of_table(text: io.TextIOBase, delimiter: str) -> Iterator[Record]:
    first = text.readline()
    if delimiter == "," and "," not in first and any(mark in first for mark in ";\t|"):
        delimiter = max(";\t|", key=first.count)  # exports of some locales
    reader = csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True)
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
