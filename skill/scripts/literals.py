"""The one door through which values enter a script: as Python literals, never as code.

`environment()` makes every `{{ expression }}` of a template pass through `literal`; only text that this package itself
marked as `Code` is written as it is. A forgotten filter can therefore not become an injection.
"""

from __future__ import annotations

import math
from typing import Any

import jinja2

from skill.assets import asset

LINE_LENGTH = 120


class Code(str):
    """Source text made by this package, not by a user."""

    __slots__ = ()


def literal(value: Any) -> Code:
    """The Python literal of a validated value: None, bool, int, finite float, str, or a list or tuple of these.

    Strings are written as `ruff format` would: double quotes unless single ones need fewer escapes, and everything
    that does not print (controls, direction marks, lone surrogates) as an escape.

    Raises:
        TypeError: any other type; an undefined name of a template ends here too.
        ValueError: infinity or NaN.
    """
    if isinstance(value, Code):
        return value
    if isinstance(value, str):
        return Code(_quoted(value))
    if value is None or isinstance(value, bool | int):
        return Code(repr(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no literal.")
        return Code(repr(value))
    if isinstance(value, list | tuple):
        return Code("[" + ", ".join(literal(item) for item in value) + "]")
    raise TypeError(f"{type(value).__name__} has no literal: {value!r}")


def assignment(name: str, value: Any) -> Code:
    """`NAME = literal`, wrapped as `ruff format` would: lists one item a line, a long string in parentheses."""
    if isinstance(value, list | tuple):
        items = "".join(f"    {literal(item)},\n" for item in value)
        return Code(f"{name} = [\n{items}]")
    text = literal(value)
    if len(f"{name} = {text}") > LINE_LENGTH >= len(f"    {text}"):
        return Code(f"{name} = (\n    {text}\n)")
    return Code(f"{name} = {text}")


def environment() -> jinja2.Environment:
    """Templates of this package, with `literal` on every value that is put in."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(asset("templates")),
        undefined=jinja2.StrictUndefined,
        finalize=literal,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters["code"] = Code
    env.filters["assigned_to"] = lambda value, name: assignment(name, value)
    return env


def _quoted(text: str) -> str:
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + "".join(_escaped(char, quote) for char in text) + quote


def _escaped(char: str, quote: str) -> str:
    if char in (quote, "\\"):
        return "\\" + char
    return char if char.isprintable() else repr(char)[1:-1]
