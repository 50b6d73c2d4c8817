"""The tables a domain expert edits: tables/*.yaml, read once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent / "tables"


@cache
def table(name: str) -> dict[str, Any]:
    """The mapping in tables/<name>.yaml. Shared and cached: never change what it returns."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C is ten times faster; both are safe loaders
    return yaml.load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), Loader=loader)


def source(key: str) -> str:
    """The citation behind a source key of the tables."""
    return {**table("methods")["sources"], **table("rules")["sources"]}[key]


def holds(condition: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Whether every entry of a table's condition holds.

    Values: a list (any of), {min: a, max: b} (numbers, inclusive), null (must be unknown), or an exact value.
    An unknown fact fulfils nothing but null.
    """
    return all(_holds_one(wanted, facts.get(key)) for key, wanted in condition.items())


def _holds_one(wanted: Any, value: Any) -> bool:
    if wanted is None:
        return value is None
    if value is None:
        return False
    if isinstance(wanted, list):
        return value in wanted
    if isinstance(wanted, dict):
        return wanted.get("min", float("-inf")) <= value <= wanted.get("max", float("inf"))
    return value == wanted


def step(knots: dict[float, Any], x: float) -> Any:
    """Value of the largest knot not above x (the first one below all knots)."""
    keys = sorted(knots)
    return knots[max((key for key in keys if key <= x), default=keys[0])]
