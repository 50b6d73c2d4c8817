"""A dataset as a stream of examples: reading, format and conversion together, faults located."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skill.data.conversation import Example, RowFault
from skill.data.formats import Format, detect, from_columns, suggestion
from skill.data.json_records import Record
from skill.data.reading import read_records
from skill.errors import DataError

HEAD = 200  # rows looked at to find the format


@dataclass(frozen=True, slots=True)
class Row:
    """One record: its example, or the code and detail of its fault."""

    number: int
    line: int | None
    example: Example | None
    code: str = ""
    detail: str = ""
    value: Mapping[str, Any] | None = None  # the record itself, when it is data for another objective


class Source:
    """Rows of a dataset file. Iterating reads the file anew each time.

    Raises (when made):
        DataError: unreadable, empty, of no known format, or not data for supervised fine-tuning.
    """

    def __init__(self, path: Path, *, columns: Mapping[str, str] | None = None) -> None:
        self.path = path
        with contextlib.closing(read_records(path)) as records:
            head = list(itertools.islice(records, HEAD))
        good = [record.value for record in head if record.value is not None]
        if not good:
            fault = f" First fault: {_place(head[0])}{head[0].fault}." if head else ""
            raise DataError(f"{path.name!r} holds no readable row.{fault}", hint="Write one JSON object a line.")
        keys = list(dict.fromkeys(key for row in good for key in row))
        self.format = from_columns(columns, keys) if columns else self._detect(good, keys)

    def _detect(self, rows: list[dict[str, Any]], keys: list[str]) -> Format:
        found = [form for form in map(detect, rows) if form]
        if not found:
            raise DataError(f"{self.path.name!r} is in no known format.", hint=suggestion(keys))
        (name, rule), _ = Counter((form.name, form.rule) for form in found).most_common(1)[0]
        return next(form for form in found if (form.name, form.rule) == (name, rule))

    def __iter__(self) -> Iterator[Row]:
        for number, record in enumerate(read_records(self.path)):
            yield self._row(number, record)

    def _row(self, number: int, record: Record) -> Row:
        if record.value is None:
            return Row(number, record.line, None, "malformed_row", _place(record) + record.fault)
        try:
            example = self._convert(record.value)
        except RowFault as fault:
            other = record.value if fault.code == "wrong_format" else None
            return Row(number, record.line, None, fault.code, _place(record) + fault.detail, other)
        return Row(number, record.line, example)

    def _convert(self, value: dict[str, Any]) -> Example:
        try:
            return self.format.convert(value)
        except RowFault as fault:
            other = detect(value) if fault.code == "missing_field" else None
            # A file of mixed schemas: a row of another format that says unmistakably what it is.
            if other and other.name in ("messages", "sharegpt", "alpaca") and other.name != self.format.name:
                return other.convert(value)
            raise


def _place(record: Record) -> str:
    return f"line {record.line}: " if record.line else ""


def require_trainable(source: Source) -> None:
    """Refuse formats that supervised fine-tuning cannot use."""
    if not source.format.trainable:
        raise DataError(
            f"{source.path.name!r} holds {source.format.rule} ({source.format.name}), not data for objective 'sft'.",
            hint="To train on one of its columns, name them: columns={'prompt': 'prompt', 'chosen': 'completion'}.",
        )
