"""Loss curves as inline SVG: no library, no script, nothing fetched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from skill.runs.metrics import Point

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 36


def chart(series: Sequence[tuple[str, str, Sequence[Point]]], *, label: str) -> str:
    """An SVG of `(name, css class, points)` series over steps; points that are not finite leave a gap.

    Empty when there is nothing to draw.
    """
    points = [p for _, _, line in series for p in line if math.isfinite(p.value)]
    if not points:
        return ""
    x0, x1 = min(p.step for p in points), max(p.step for p in points)
    y0, y1 = min(p.value for p in points), max(p.value for p in points)
    y_ticks = ticks(y0, y1)
    y0, y1 = min(y0, y_ticks[0]), max(y1, y_ticks[-1])

    def x(step: float) -> float:
        return LEFT + (step - x0) / ((x1 - x0) or 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y0) / ((y1 - y0) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for value in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in [t for t in ticks(x0, x1) if x0 <= t <= x1]:
        parts.append(f'<text x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">optimizer step</text>')
    for _, css, line in series:
        for piece in pieces(line):
            path = " ".join(f"{x(p.step):.1f},{y(p.value):.1f}" for p in piece)
            if len(piece) > 1:
                parts.append(f'<polyline class="{escape(css)}" points="{path}"/>')
            if len(line) <= 40:
                parts += [
                    f'<circle class="{escape(css)}" cx="{x(p.step):.1f}" cy="{y(p.value):.1f}" r="3"/>' for p in piece
                ]
    legend = "".join(
        f'<tspan class="{escape(css)}" dx="{18 if index else 0}">{escape(name)}</tspan>'
        for index, (name, css, line) in enumerate(series)
        if line
    )
    parts.append(f'<text class="legend" x="{LEFT + 8}" y="{HEIGHT - 4}">{legend}</text></svg>')
    return "".join(parts)


def pieces(points: Sequence[Point]) -> list[list[Point]]:
    """The runs of finite points between those that are not."""
    out: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point.value):
            out[-1].append(point)
        elif out[-1]:
            out.append([])
    return [piece for piece in out if piece]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover low to high: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]
