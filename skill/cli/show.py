"""What people see: results as aligned text and tables, progress as one line that redraws itself."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from pydantic import BaseModel

INDENT = "  "
MAX_CELL = 48
MAX_WORD = 24


def emit(result: BaseModel, *, as_json: bool, hide: Sequence[str] = ()) -> None:
    """Print a result: one line of JSON for machines, else text. `hide` names fields that the text leaves out."""
    if as_json:
        print(result.model_dump_json(exclude_none=True))
        return
    body = {key: value for key, value in result.model_dump(mode="json").items() if key not in hide}
    next_step = body.pop("next_step", None)
    print("\n".join(lines_of(body)))
    if next_step:
        print(f"\nNext: {next_step}")


def lines_of(body: Mapping[str, Any], depth: int = 0) -> list[str]:
    """A mapping as lines: scalars aligned, lists of mappings as tables, deeper ones indented, nulls left out."""
    items = {label(key): _shown(key, value) for key, value in body.items() if value not in (None, [], {})}
    plain = [key for key, value in items.items() if is_scalar(value)]
    width = max((len(key) for key in plain), default=0)
    pad = INDENT * depth
    out: list[str] = []
    for key, value in items.items():
        if is_scalar(value):
            first, *rest = scalar(value).splitlines() or [""]
            out.append(f"{pad}{key:<{width}}  {first}".rstrip())
            out += [f"{pad}{'':<{width}}  {line}".rstrip() for line in rest]
            continue
        out.append(f"{pad}{key}")
        if isinstance(value, Mapping):
            parts = [_shown(name, part) for name, part in value.items()]
            if len(parts) > 1 and all(isinstance(p, Mapping) and p.keys() == parts[0].keys() for p in parts):
                named = [{"name": label(name), **part} for name, part in value.items()]
                out += [pad + INDENT + line for line in table(named)]
            else:
                out += lines_of(value, depth + 1)
        elif all(isinstance(item, Mapping) for item in value):
            out += [pad + INDENT + line for line in table(value)]
        else:
            out += [f"{pad}{INDENT}- {scalar(item)}" for item in value]
    return out


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows as a table, numbers to the right. A cell too long for its column goes below its row, in full."""
    rows = [{key: _shown(key, value) for key, value in row.items()} for row in rows]
    keys = [
        key for key in dict.fromkeys(k for row in rows for k in row) if any(row.get(key) is not None for row in rows)
    ]
    cells = [
        [scalar(row.get(key)) if is_scalar(row.get(key)) else _inline(row.get(key)) for key in keys] for row in rows
    ]
    wide = [any(len(row[i]) > MAX_CELL or "\n" in row[i] for row in cells) for i in range(len(keys))]
    columns = [i for i in range(len(keys)) if not wide[i]]
    widths = {i: max(len(label(keys[i])), *(len(row[i]) for row in cells)) for i in columns}
    right = {i for i in columns if all(isinstance(row.get(keys[i]), int | float | None) for row in rows)}

    def join(texts: Sequence[str]) -> str:
        return "  ".join(
            texts[i].rjust(widths[i]) if i in right else texts[i].ljust(widths[i]) for i in columns
        ).rstrip()

    out: list[str] = []
    if len(columns) > 1:
        out = [join([label(key) for key in keys]), join(["-" * widths.get(i, 0) for i in range(len(keys))])]
    for row in cells:
        below: list[str] = []
        for i in range(len(keys)):
            if wide[i] and row[i]:
                first, *rest = row[i].splitlines()
                below += [f"{INDENT}{label(keys[i])}: {first}", *(f"{INDENT * 2}{line}" for line in rest)]
        if len(columns) > 1:
            out += [join(row), *below]
        else:  # nothing to align: a list
            head = join(row)
            out += [f"- {head}", *below] if head else [f"- {below[0].strip()}", *below[1:]]
    return out


def _shown(key: str, value: Any) -> Any:
    """What reads better in another form: intervals, points in time, lists of a few short words."""
    if isinstance(value, Mapping) and set(value) == {"value", "low", "high"}:
        return f"{scalar(value['value'])} ({scalar(value['low'])} to {scalar(value['high'])})"
    if key.endswith("_at") and isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if isinstance(value, list) and value and all(isinstance(item, str) and len(item) <= MAX_WORD for item in value):
        return ", ".join(value)
    if isinstance(value, list) and value and all(isinstance(item, int | float) for item in value):
        return ", ".join(scalar(item) for item in value)
    return value


def label(key: str) -> str:
    return key.replace("_", " ")


def is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def scalar(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{label(key)} {scalar(item)}" for key, item in value.items() if item is not None)
    return ", ".join(scalar(item) if is_scalar(item) else json.dumps(item, default=str) for item in value)


def duration(seconds: float) -> str:
    """42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Progress:
    """One line on stderr: a bar that redraws itself on a terminal, a new line now and then in a log."""

    def __init__(self, title: str, *, stream: TextIO | None = None, every_s: float = 15.0) -> None:
        self.title = title
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.every_s = every_s
        self._last = (0.0, "")

    def update(self, step: int | None, total: int | None, note: str = "") -> None:
        share = min(1.0, step / total) if step is not None and total else 0.0
        filled = round(20 * share)
        count = f"{step:,}/{total:,}" if step is not None and total else "…"
        line = f"{self.title} [{'#' * filled}{'.' * (20 - filled)}] {count} {note}".rstrip()
        if self.live:
            room = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:room]:<{room}}", end="", file=self.stream, flush=True)
        elif line != self._last[1] and time.monotonic() - self._last[0] >= self.every_s:
            print(line, file=self.stream, flush=True)
            self._last = (time.monotonic(), line)

    def close(self) -> None:
        if self.live:
            print(file=self.stream, flush=True)


@contextmanager
def working(title: str, *, stream: TextIO | None = None) -> Iterator[None]:
    """Seconds counted on stderr while a call of unknown length runs; on a terminal only."""
    out = stream or sys.stderr
    if not out.isatty():
        yield
        return
    done = threading.Event()

    def count() -> None:
        begun = time.monotonic()
        while not done.wait(1.0):
            print(f"\r{title} … {duration(time.monotonic() - begun)}", end="", file=out, flush=True)

    clock = threading.Thread(target=count, daemon=True)
    clock.start()
    try:
        yield
    finally:
        done.set()
        clock.join()
        print("\r" + " " * (len(title) + 20) + "\r", end="", file=out, flush=True)
