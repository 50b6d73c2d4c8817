"""Measured against predicted peak memory: python benchmarks/vram_accuracy.py ROWS.jsonl [--oom OOM.jsonl] [--verbose]

Scores like the public scorer: the counter each row measured (allocated, reserved, process; not stated: the closest),
rows without an answer count as misses. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from vram_rows import capability, job_for  # noqa: E402

from skill.memory.peak import peak  # noqa: E402

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
    parser.add_argument("--only", default="", help="ids that start with this")
    args = parser.parse_args()
    rows = [json.loads(line) for line in Path(args.rows).read_text().splitlines() if line.strip()]
    rows = [row for row in rows if row["tier"] in "AB" and not row["replicate_of"] and row["id"].startswith(args.only)]
    predictions: dict[str, dict[str, float]] = {}
    intervals: list[bool] = []
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
        if args.verbose:
            e = error(row, predictions[row["id"]])
            a = row.get("alt_measures") or {}
            print(
                f"{row['id'][:56]:56s} {row['model'].split('/')[-1][:22]:22s} {row['method']:5s} g{row['gpus']} B{row['micro_batch_size']} "
                f"S{row['seq_len']} ck{int(bool(row['gradient_checkpointing']))} {str(row['attention_impl'])[:5]} {row['loss_impl'][:8]} "
                f"{counter(row)[:5]} meas {row['measured_peak_bytes'] / 1e9:8.4f} pred {result.allocated / 1e9:8.4f} {result.reserved / 1e9:8.4f} {result.process / 1e9:8.4f} "
                f"{100 * e:+7.3f}% {result.at}"
            )
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
    print(json.dumps(out))


if __name__ == "__main__":
    main()
