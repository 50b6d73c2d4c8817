"""Pieces of an HTML page. Whatever goes in is data: escaped, without control characters, tokens redacted, cut."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from skill.runs.logs import clean, redact

BLOCK_CHARACTERS = 1200


def text(value: object) -> str:
    """One line of escaped text."""
    return html.escape(clean(str(value), limit=4000), quote=True)


def block(value: object) -> str:
    """Text of a dataset or a model, line breaks kept."""
    lines = redact(str(value)[:BLOCK_CHARACTERS]).splitlines()
    return "<pre>" + html.escape("\n".join(clean(line, limit=BLOCK_CHARACTERS) for line in lines)) + "</pre>"


def table(title: str, rows: Mapping[str, object]) -> str:
    """A heading and a row for each value that says something."""
    shown = {key: value for key, value in rows.items() if value not in (None, "", [], {})}
    if not shown:
        return ""
    body = "".join(f"<tr><th>{text(key)}</th><td>{text(value)}</td></tr>" for key, value in shown.items())
    heading = f"<h2>{text(title)}</h2>" if title else ""
    return f"{heading}<table>{body}</table>\n"


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested mappings as dotted keys."""
    out: dict[str, object] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            out |= flat(item, f"{prefix}{key}.")
        elif item is not None:
            out[f"{prefix}{key}"] = item if isinstance(item, str | int | float) else json.dumps(item, default=str)
    return out
