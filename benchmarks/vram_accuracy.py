"""Measured against predicted peak memory: python benchmarks/vram_accuracy.py ROWS.jsonl [--oom OOM.jsonl] [--verbose]

Scores like the public scorer: the counter each row measured (allocated, reserved, process; not stated: the closest),
rows without an answer count as misses. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from vram_rows import capability, job_for

from skill.errors import TunesmithError
from skill.memory.certainty import Certainty, certainty, chance_to_fit, verdict
from skill.memory.gpus import find_gpu
from skill.memory.peak import peak

Row = dict[str, Any]


def counter(row: Row) -> str:
    measure = row["measure"]
    if measure.startswith("max_memory_allocated") or "tracemalloc" in measure or "active" in measure:
        return "allocated"
    if "reserved" in measure:
        return "reserved"
    return "process" if "smi" in measure else "any"


def error(row: Row, prediction: dict[str, float] | None) -> float | None:
    if not prediction:
        return None
    kind = counter(row)
    figures = [prediction[kind]] if kind in prediction else list(prediction.values())
    return min((figure / row["measured_peak_bytes"] - 1 for figure in figures), key=abs)


def score(rows: list[Row], predictions: dict[str, dict[str, float]]) -> dict[str, float]:
    errors = [error(row, predictions.get(row["id"])) for row in rows]
    answered = [abs(e) for e in errors if e is not None]
    n = max(1, len(rows))
    return {
        "n": len(rows),
        "answered_pct": round(100 * len(answered) / n, 1),
        "median_pct": round(100 * statistics.median(answered), 3) if answered else 100.0,
        "in10_pct": round(100 * sum(e <= 0.10 for e in answered) / n, 1),
        "in25_pct": round(100 * sum(e <= 0.25 for e in answered) / n, 1),
    }


def macro(rows: list[Row], predictions: dict[str, dict[str, float]]) -> dict[str, float]:
    """Mean over sources (first part of the id) of each source's figures."""
    sources = collections.defaultdict(list)
    for row in rows:
        sources[row["id"].split("-")[0]].append(row)
    scores = [score(group, predictions) for group in sources.values()]
    out = {key: round(statistics.mean(s[key] for s in scores), 3) for key in scores[0]} if scores else {}
    return {**out, "n": len(sources)}


def single(row: Row) -> bool:
    return (row["gpus"] or 1) == 1 and row["sharding"] in ("none", None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows")
    parser.add_argument("--oom")
    parser.add_argument("--verbose", action="store_true", help="one line a row")
    parser.add_argument("--save", help="also write the result object to this file")
    parser.add_argument("--only", default="", help="ids that start with this")
    args = parser.parse_args()
    rows = [json.loads(line) for line in Path(args.rows).read_text().splitlines() if line.strip()]
    rows = [row for row in rows if row["tier"] in "AB" and not row["replicate_of"] and row["id"].startswith(args.only)]
    predictions: dict[str, dict[str, float]] = {}
    inside: list[bool] = []
    called_oom: list[bool] = []
    for row in rows:
        job = job_for(row)
        if job is None:
            continue
        result = peak(job, compute_capability=capability(row))
        predictions[row["id"]] = {
            "allocated": result.allocated,
            "reserved": result.reserved,
            "process": result.process,
        }
        sure = certainty(job, result.allocated, result.cached, result.context, context_measured=result.context_measured)
        inside.append(covered(row, sure))
        usable = usable_bytes(row)
        if usable:
            chance = chance_to_fit(job, result.allocated, result.cached, result.context, usable)
            called_oom.append(verdict(chance) == "does_not_fit")
        if args.verbose:
            e = error(row, predictions[row["id"]])
            what = f"{row['id'][:56]:56s} {row['model'].split('/')[-1][:22]:22s} {row['method']:5s} g{row['gpus']}"
            how = (
                f"B{row['micro_batch_size']} S{row['seq_len']} {str(row['attention_impl'])[:5]} {row['loss_impl'][:8]}"
            )
            figures = " ".join(f"{x / 1e9:8.4f}" for x in (result.allocated, result.reserved, result.process))
            measured = f"{counter(row)[:5]} meas {row['measured_peak_bytes'] / 1e9:8.4f} pred {figures}"
            print(f"{what} {how} {measured} {100 * (e or 0):+7.3f}% {result.at}")
    groups = {
        "tier_a_single": [r for r in rows if r["tier"] == "A" and single(r)],
        "tier_b_single": [r for r in rows if r["tier"] == "B" and single(r)],
        "tier_a_multi": [r for r in rows if r["tier"] == "A" and not single(r)],
    }
    for name, group in groups.items():
        sources = collections.defaultdict(list)
        for row in group:
            sources[row["id"].split("-")[0]].append(row)
        for source, part in sorted(sources.items()):
            print(f"{name:14s} {source:10s} {score(part, predictions)}")
    out: dict[str, Any] = {name: score(group, predictions) for name, group in groups.items()}
    out["tier_a_macro"] = macro(groups["tier_a_single"], predictions)
    out["in_interval_pct"] = percent(inside)
    out["fit_called_oom_pct"] = percent(called_oom)
    out["oom_called_fit_pct"] = percent(oom_verdicts(Path(args.oom))) if args.oom else None
    if args.save:
        Path(args.save).write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps(out))


def covered(row: Row, sure: Certainty) -> bool:
    """Is the measurement inside the 90 % interval of its counter (not stated: of any of the three)?"""
    kind = counter(row)
    bounds = [getattr(sure, kind)] if kind != "any" else [sure.allocated, sure.reserved, sure.process]
    return any(b.low <= row["measured_peak_bytes"] <= b.high for b in bounds)


def usable_bytes(row: Row) -> float | None:
    """What the row's GPU gives a process; None when the GPU is not in the table."""
    try:
        return find_gpu(re.sub(r"^\d+x\s*", "", str(row["gpu_type"]))).usable_gib * (1 << 30)
    except TunesmithError:
        return None


def oom_verdicts(path: Path) -> list[bool]:
    """For each published out-of-memory run that can be read: was it called "fits"?"""
    out = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        job = job_for(row) if row.get("micro_batch_size") and row.get("seq_len") else None
        usable = usable_bytes(row) if row.get("gpu_type") else (row.get("capacity_gb") or 0) * 1e9
        if job is None or not usable:
            continue
        result = peak(job, compute_capability=capability(row))
        chance = chance_to_fit(job, result.allocated, result.cached, result.context, usable)
        out.append(verdict(chance) == "fits")
    return out


def percent(values: list[bool]) -> float:
    return round(100 * sum(values) / max(1, len(values)), 1)


if __name__ == "__main__":
    main()
