"""How often recommend_approach gives an expected answer: `python benchmarks/advice_cases.py [CASES.jsonl] [--misses]`.

Rows: id, description, facts {…, values may be null}, expected_approach[], expected_objective[], expected_method[], why.
An empty expected list is not scored; `null` or "none" in a list expects no objective or method. A row that cannot be
answered counts as a miss. Beside ours, on the same rows: the recommender of the community guides (re-implemented from
its published rules) and `soup advise` (PyPI soup-cli, if importable). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skill.advise import ApproachQuery, recommend_approach
from skill.errors import TunesmithError
from skill.workspace import Workspace

Answer = tuple[str | None, str | None, str | None]  # approach, objective, method
ALIASES = {"clm": "cpt", "continued_pretraining": "cpt", "pretraining": "cpt", "prompt": "prompt_tuning", "none": None}


def ours(case: dict[str, Any], ws: Workspace) -> Answer:
    facts = {key: value for key, value in case["facts"].items() if value is not None}
    advice = recommend_approach(ws, ApproachQuery.build(task=case["description"], **facts))
    plan = advice.tuning
    return advice.verdict, plan.objective if plan else None, plan.method if plan else None


def guides(case: dict[str, Any]) -> Answer:
    """Profile scoring, hybrid rule and GPU tiers of the community guides, faults included.

    Its profile has no unknowns, so a null fact takes the neutral value.
    """
    facts = case["facts"]
    rows = facts.get("examples") or 0
    cadence = {"never": "static", "yearly": "static", "hourly": "daily", None: "static"}
    update = cadence.get(facts.get("knowledge_update"), facts.get("knowledge_update"))
    level = {"low": "simple", "high": "complex"}.get(facts.get("complexity") or "", "moderate")
    tune = 0.3 if rows >= 10_000 else 0.2 if rows >= 1000 else 0.1 if rows >= 100 else 0.0
    tune += {"static": 0.2, "monthly": 0.1}.get(str(update), 0.0) + (0.2 if level == "complex" else 0.0)
    tune += 0.15 * bool(facts.get("needs_format")) + 0.15 * bool(facts.get("needs_tone"))
    rag = 0.3 * (update in ("daily", "weekly")) + 0.25 * bool(facts.get("needs_domain_knowledge"))
    rag += 0.2 * (rows < 1000) + 0.15 * (level == "moderate")
    prompt = 0.4 * (level == "simple") + 0.3 * (rows < 100) + 0.2 * ((facts.get("latency_ms") or 1000) > 5000)
    scores = {"fine_tuning": tune, "rag": rag, "prompting": prompt}
    approach = "hybrid" if tune > 0.5 and rag > 0.5 else max(scores, key=lambda name: scores[name])
    if approach not in ("fine_tuning", "hybrid"):
        return approach, None, None
    return approach, "sft", "lora" if (facts.get("gpu_gib") or 0) >= 40 else "qlora"


def soup(case: dict[str, Any]) -> Answer:
    """soup-cli's verdict, its dataset profile filled from the facts: the most favourable reading of a missing file."""
    from soup_cli.utils.advise import DatasetProfile, build_verdict, classify_task  # type: ignore[import-not-found]

    facts = case["facts"]
    profile = DatasetProfile(
        row_count=facts.get("examples") or 0,
        avg_input_chars=200.0,
        avg_output_chars=200.0,
        type_token_diversity=0.5,
        label_variance=1.0,
        has_chosen_rejected=bool(facts.get("has_preferences")),
        has_reasoning_traces=bool(facts.get("verifiable_reward")),
    )
    goal = case["description"]
    choice = build_verdict(profile, classify_task([], goal=goal), goal=goal).choice
    named: dict[str, Answer] = {
        "PROMPT_ENG": ("prompting", None, None),
        "RAG": ("rag", None, None),
        "SFT": ("fine_tuning", "sft", None),
        "DPO": ("preference_tuning", "dpo", None),
        "GRPO": ("fine_tuning", "grpo", None),
    }
    return named[choice]


def same(expected: list[Any], got: str | None) -> bool:
    def plain(value: Any) -> str | None:
        name = None if value is None else str(value).lower().replace("-", "_").replace(" ", "_")
        return ALIASES.get(name, name) if name else None

    return plain(got) in {plain(item) for item in expected}


def measure(
    cases: list[dict[str, Any]],
    answer: Callable[[dict[str, Any]], Answer],
    *,
    misses: bool = False,
    skip: tuple[str, ...] = (),
) -> dict[str, Any]:
    names = ("approach", "objective", "method")
    right, asked = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for case in cases:
        try:
            got = answer(case)
        except (TunesmithError, KeyError, ValueError, TypeError) as error:
            print(f"  {case.get('id')}: {type(error).__name__}: {error}", file=sys.stderr)
            got = ("error", "error", "error")
        for name, value in zip(names, got, strict=True):
            expected = case.get(f"expected_{name}") or []
            if not expected or name in skip:
                continue
            asked[name] += 1
            if same(expected, value):
                right[name] += 1
            elif misses:
                print(f"  {case['id']}: {name} {value}, expected {expected}")
    return {"n": len(cases)} | {
        f"{name}_acc": round(right[name] / asked[name], 4) if asked[name] else None for name in names
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="?", type=Path, default=Path(__file__).with_name("advice_cases.jsonl"))
    parser.add_argument("--misses", action="store_true", help="print each miss of ours")
    args = parser.parse_args()
    lines = args.cases.read_text(encoding="utf-8").splitlines()
    cases = [{**json.loads(line), "facts": json.loads(line).get("facts") or {}} for line in lines if line.strip()]
    ws = Workspace.open(Path(__file__).resolve().parent)
    start = time.perf_counter()
    mine = measure(cases, lambda case: ours(case, ws), misses=args.misses)
    wall_ms = 1000 * (time.perf_counter() - start) / max(1, len(cases))
    sample = cases[:: max(1, len(cases) // 20)][:20]
    peers: dict[str, Any] = {
        "ours": {"all": mine, "sample": measure(sample, lambda case: ours(case, ws)), "ms_per_case": round(wall_ms, 1)},
        "community_guides": {"all": measure(cases, guides), "sample": measure(sample, guides)},
    }
    if importlib.util.find_spec("soup_cli"):
        said = ("method",)  # it names no method
        peers["soup_advise"] = {"all": measure(cases, soup, skip=said), "sample": measure(sample, soup, skip=said)}
    else:
        print("soup advise: skipped, soup-cli is not installed (pip install --no-deps soup-cli in a venv of its own)")
    print(json.dumps({"side_by_side": peers}))
    print(json.dumps(mine))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
