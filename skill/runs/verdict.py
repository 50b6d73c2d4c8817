"""The evaluation in a run's report: the verdict in words, its interval drawn, the figures, answers before and after."""

from __future__ import annotations

from typing import Any

from skill.runs.metrics import number
from skill.runs.page import block, flat, table, text
from skill.runs.store import read_object
from skill.workspace import RunDir

SAMPLES = 4
WIDTH = 760
SHOWN_ABOVE = ("words", "metric", "metric_reason", "verdict", "base", "tuned", "difference", "ci95", "n", "run_id")


def section(run: RunDir) -> str:
    """HTML of eval/report.json; empty when the run was not evaluated."""
    report = read_object(run.evaluation / "report.json")
    if report is None:
        return ""
    samples = report.get("samples")
    details = {key: value for key, value in report.items() if key not in (*SHOWN_ABOVE, "samples", "also", "next_step")}
    return (
        f"<h2>Verdict on held-out rows</h2><p class='words'><b class='{text(report.get('verdict'))}'>"
        f"{text(report.get('words') or report.get('verdict'))}</b></p>{interval(report)}{scores(report)}"
        f"<p>Scored by {text(report.get('metric'))}: {text(report.get('metric_reason'))}.</p>"
        f"{answers(samples if isinstance(samples, list) else [])}"
        f"<details><summary>All figures of the evaluation</summary>{table('', flat(details))}</details>\n"
    )


def interval(report: dict[str, Any]) -> str:
    """The difference and its 95 % interval on a line with zero marked."""
    bounds, middle = report.get("ci95"), number(report, "difference")
    if middle is None or not isinstance(bounds, list) or len(bounds) != 2:
        return ""
    low, high = float(bounds[0]), float(bounds[1])
    left, right = min(0.0, low), max(0.0, high)
    span = (right - left) or 1.0

    def x(value: float) -> float:
        return round(40 + (value - left) / span * (WIDTH - 80), 1)

    return (
        f"<svg class='interval' viewBox='0 0 {WIDTH} 48' role='img' "
        f"aria-label='Difference {middle:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}'>"
        f"<line x1='{x(left)}' x2='{x(right)}' y1='18' y2='18'/><line x1='{x(0)}' x2='{x(0)}' y1='8' y2='28'/>"
        f"<rect x='{x(low)}' y='14' width='{max(1.0, x(high) - x(low)):.1f}' height='8' rx='4'/>"
        f"<circle cx='{x(middle)}' cy='18' r='5'/><text x='{x(0)}' y='42' text-anchor='middle'>no difference</text>"
        f"<text x='{x(middle)}' y='42' text-anchor='middle'>tuned − base {middle:+.3f}</text></svg>"
    )


def scores(report: dict[str, Any]) -> str:
    """One row a score: the deciding metric first, then the others and the loss."""
    named = {str(report.get("metric")): report}
    also, loss = report.get("also"), report.get("loss")
    named |= {str(key): value for key, value in also.items()} if isinstance(also, dict) else {}
    named |= {"loss": loss} if isinstance(loss, dict) else {}
    rows = [_score(name, figures) for name, figures in named.items() if isinstance(figures, dict)]
    names = ("base", "tuned", "tuned − base", "95 % interval")
    head = "<th>score</th>" + "".join(f"<th class='number'>{name}</th>" for name in names)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _score(name: str, figures: dict[str, Any]) -> str:
    cells = [f"{value:.3f}" if (value := number(figures, key)) is not None else "" for key in ("base", "tuned")]
    difference, bounds = number(figures, "difference"), figures.get("ci95")
    cells.append(f"{difference:+.3f}" if difference is not None else "")
    cells.append(f"{bounds[0]:+.3f} to {bounds[1]:+.3f}" if isinstance(bounds, list) and len(bounds) == 2 else "")
    row = "".join(f"<td class='number'>{cell}</td>" for cell in cells)
    return f"<tr><th>{text(name)}</th>{row}</tr>"


def answers(samples: list[Any]) -> str:
    """What both models answered to the same held-out row."""
    parts = []
    for sample in [sample for sample in samples if isinstance(sample, dict)][:SAMPLES]:
        shown = {key: sample[key] for key in ("prompt", "reference", "base", "tuned") if key in sample}
        rows = "".join(f"<tr><th>{text(key)}</th><td>{block(value)}</td></tr>" for key, value in shown.items())
        parts.append(f"<table class='sample'>{rows}</table>")
    return f"<h2>Answers before and after</h2>{''.join(parts)}" if parts else ""
