"""A glance at a dataset: rows and the kind of data, in one pass. validate_dataset does the real check."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from skill.errors import DataError

_HEAD = 50  # rows whose columns are looked at
_TEXT = {"text", "content", "document", "body"}


def look(path: Path) -> dict[str, Any]:
    """Facts a file gives: examples, and preferences or raw_mtokens where its columns say so.

    Raises:
        DataError: not JSONL, JSON, CSV, TSV, Parquet or text, or not readable as such.
    """
    kind = path.suffix.lower().lstrip(".")
    try:
        if kind in ("jsonl", "ndjson"):
            rows, head = _jsonl(path)
        elif kind == "json":
            data = json.loads(path.read_text(encoding="utf-8-sig"))
            items = data if isinstance(data, list) else next((v for v in data.values() if isinstance(v, list)), [])
            rows, head = len(items), [item for item in items[:_HEAD] if isinstance(item, dict)]
        elif kind in ("csv", "tsv"):
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, delimiter="\t" if kind == "tsv" else ",")
                head = [row for row, _ in zip(reader, range(_HEAD), strict=False)]
                rows = len(head) + sum(1 for _ in reader)
        elif kind == "parquet":
            import pyarrow.parquet

            meta = pyarrow.parquet.ParquetFile(path)
            rows, head = meta.metadata.num_rows, [dict.fromkeys(meta.schema_arrow.names, "")]
        elif kind in ("txt", "md"):
            return {"raw_mtokens": path.stat().st_size / 4e6, "raw_text": True}
        else:
            raise DataError(
                f"{path.name}: no dataset format known by {path.suffix!r}.",
                hint="Give a .jsonl, .json, .csv, .tsv, .parquet or .txt file.",
            )
    except (ValueError, csv.Error, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path.name} cannot be read as {kind}: {error}", hint="Call validate_dataset on it."
        ) from error
    columns = {str(key).lower() for row in head for key in row}
    if {"chosen", "rejected"} <= columns:
        return {"examples": rows, "preferences": "paired"}
    if columns & {"label", "thumbs", "feedback"} and columns & {"completion", "response", "answer", "output"}:
        marks = {str(row.get(key)).lower() for row in head for key in ("label", "thumbs", "feedback") if key in row}
        if marks and marks <= {"true", "false", "0", "1", "up", "down", "good", "bad", "like", "dislike"}:
            return {"examples": rows, "preferences": "unpaired"}
    if columns and columns <= _TEXT | {"id", "url", "source", "title", "date", "meta", "metadata"} and columns & _TEXT:
        return {"raw_mtokens": path.stat().st_size / 4e6, "raw_text": True}
    mtokens = {} if kind == "parquet" else {"mtokens": path.stat().st_size / 4e6}  # about 4 bytes of text a token
    return {"examples": rows, "labelled": True} | mtokens


def _jsonl(path: Path) -> tuple[int, list[dict[str, Any]]]:
    rows, head = 0, []
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            rows += 1
            if len(head) < _HEAD:
                item = json.loads(line)
                if isinstance(item, dict):
                    head.append(item)
    return rows, head
