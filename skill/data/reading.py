"""Records out of files: JSON, JSONL, CSV, TSV, Parquet, Arrow, text; gzip; a folder of them.

Everything streams. A broken record becomes a Record with a `fault` that names its place; the rest is still read.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from skill.data.json_records import CHUNK, Record, json_records, jsonl_records
from skill.errors import DataError, MissingDependency

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


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
    ".jsonl": jsonl_records,
    ".ndjson": jsonl_records,
    ".json": json_records,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".txt": _text,
}
