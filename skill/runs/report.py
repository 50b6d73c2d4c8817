"""report.html of a run: one file, no network, no script, everything escaped. Written at the end of each of its jobs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skill.errors import TunesmithError
from skill.runs import metrics, verdict
from skill.runs.accuracy import recorded
from skill.runs.curves import chart
from skill.runs.page import flat, table, text
from skill.runs.preview import preview_file
from skill.runs.store import events, load, read_object
from skill.workspace import RunDir, write_atomic


def write_report(run: RunDir) -> Path:
    """Write `report.html` from what lies in the run folder, and return its path."""
    from skill.runs.status import summary

    status = summary(run)
    sections = [
        _head(run, status),
        verdict.section(run),
        _curves(run),
        table("Result", _result(run, status)),
        _memory(run, status),
        _data(run),
        table("Configuration", flat(_config(run))),
        _history(run),
    ]
    path = run.path / "report.html"
    write_atomic(path, _page(run.name, "".join(sections)))
    return path


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)} · Tunesmith run report</title><style>{STYLE}</style></head><body><main>
{body}<footer>Written by Tunesmith on {time.strftime("%Y-%m-%d %H:%M %Z")}.</footer></main></body></html>
"""


STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #667080; --line: #d8dde4; --back: #fff; --loss: #8aa4c8;
  --eval: #c2410c; --good: #15803d; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #98a2b0; --line: #343b46; --back: #14181d;
  --loss: #5f7fae; --eval: #fb923c; --good: #4ade80; --bad: #f87171; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 0; }
main { max-width: 780px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
th { font-weight: 500; color: var(--soft); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: 13px; }
footer { color: var(--soft); margin: 3rem 0; }
.completed { color: var(--good); }
.failed { color: var(--bad); }
svg { width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); }
.grid { stroke: var(--line); }
polyline { fill: none; stroke-width: 1.6; }
polyline.loss { stroke: var(--loss); }
polyline.eval { stroke: var(--eval); }
circle.loss, tspan.loss { fill: var(--loss); }
circle.eval, tspan.eval { fill: var(--eval); }
.words { font-size: 1.1rem; }
.better { color: var(--good); }
.worse { color: var(--bad); }
.interval line { stroke: var(--soft); }
.interval rect { fill: var(--loss); }
.interval circle { fill: var(--ink); }
td.number, th.number { text-align: right; white-space: nowrap; }
.sample { margin-bottom: 1.2rem; }
.sample th { width: 6rem; }
details { margin-top: .8rem; }
summary { color: var(--soft); cursor: pointer; }
""".strip()


def _head(run: RunDir, status: Mapping[str, Any]) -> str:
    state = str(status["state"])
    why = f"<p>{text(status['reason'])}</p>" if status.get("reason") else ""
    found = status.get("diagnosis")
    ill = f"<p>Diagnosis: <b>{text(found['cause'])}</b>. {text(found['fix'])}</p>" if found else ""
    return f"<h1>{text(run.name)}</h1><p>Training <b class='{text(state)}'>{text(state)}</b></p>{why}{ill}\n"


def _config(run: RunDir) -> dict[str, Any]:
    try:
        return run.spec().model_dump(mode="json")
    except (TunesmithError, OSError):
        return {}


def _curves(run: RunDir) -> str:
    drawn = chart(
        [("loss", "loss", metrics.loss_curve(run.metrics)), ("eval loss", "eval", metrics.eval_curve(run.metrics))],
        label="Training and evaluation loss over optimizer steps",
    )
    return f"<h2>Loss</h2>{drawn}\n" if drawn else ""


def _result(run: RunDir, status: Mapping[str, Any]) -> dict[str, object]:
    result = read_object(run.path / "result.json") or {}
    start = metrics.start_line(run.metrics)
    record = load(run, "train")
    return {
        "steps": f"{status['step']} of {status['total_steps']}" if status.get("total_steps") else None,
        "attempts": status["attempt"] if status["attempt"] > 1 else None,
        "loss": status["loss"],
        "best eval loss": _at_step(result.get("best_eval_loss", status["best_eval_loss"]), status["best_step"]),
        "tokens per second": status["tokens_per_s"],
        "wall time": _duration(result.get("wall_s") or status["elapsed_s"]),
        "device": start.get("device"),
        "slot": record.slot if record else None,
        "best checkpoint": result.get("best_checkpoint"),
    }


def _at_step(value: object, step: object) -> str | None:
    if not isinstance(value, int | float):
        return None
    return f"{value:.4f}" + (f" at step {step}" if step is not None else "")


def _duration(seconds: object) -> str | None:
    if not isinstance(seconds, int | float):
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _memory(run: RunDir, status: Mapping[str, Any]) -> str:
    planned = read_object(preview_file(run)) or {}
    memory, duration = planned.get("memory") or {}, planned.get("time") or {}
    result = read_object(run.path / "result.json") or {}
    compared = recorded(run)
    said = (
        {
            f"peak predicted, GiB ({compared.counter})": f"{compared.predicted_gib} "
            f"({compared.low_gib} to {compared.high_gib} in 9 of 10 runs)",
            f"peak measured, GiB ({compared.counter})": compared.measured_gib,
            "error of the prediction": f"{compared.error_pct:+g} %"
            + ("" if compared.inside else ", outside its interval"),
        }
        if compared
        else {}
    )
    return table(
        "Estimate and measurement",
        {
            **said,
            "memory estimated, GiB": memory.get("needed_gib"),
            "how": memory.get("of"),
            "peak GPU memory measured, GiB": result.get("peak_gpu_gib") or status.get("gpu_peak_gib"),
            "peak process memory measured, GiB": result.get("peak_rss_gib") or status.get("rss_gib"),
            "time expected": _duration(duration.get("expected_s")),
            "from": duration.get("source"),
        },
    )


def _data(run: RunDir) -> str:
    manifest = read_object(run.data / "manifest.json") or {}
    start = metrics.start_line(run.metrics)
    counted = {key: start.get(key) for key in ("rows", "trained_tokens", "context_tokens", "rows_too_long")}
    return table("Data", {**flat(manifest), **counted})


def _history(run: RunDir) -> str:
    rows = []
    for event in events(run)[-40:]:
        stamp = metrics.number(event, "t")
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp)) if stamp is not None else ""
        what = f"{event.get('job')} attempt {event.get('attempt')}: {event.get('to')}"
        rows.append(f"<tr><th>{text(when)}</th><td>{text(what)} {text(event.get('reason') or '')}</td></tr>")
    return f"<h2>History</h2><table>{''.join(rows)}</table>\n" if rows else ""
