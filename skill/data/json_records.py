"""Records out of JSON: lines, arrays, and objects that hold the rows; a broken record is named and passed over."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `value`, or what is wrong with it. `line` is 1-based; None where files have no lines."""

    value: dict[str, Any] | None
    line: int | None = None
    fault: str = ""


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


def jsonl_records(stream: BinaryIO) -> Iterator[Record]:
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


def json_records(buffered: io.BufferedReader) -> Iterator[Record]:
    """A .json file: an array of objects, JSONL under the wrong name, or one object that holds the rows."""
    head = buffered.peek(CHUNK)[:CHUNK].lstrip()
    if head[:1] != b"[":
        first = head.split(b"\n", 1)[0]
        several = b"\n" in head.strip()
        if several and _decode(first.decode("utf-8", "replace"), 1).value is not None:
            yield from jsonl_records(buffered)
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
