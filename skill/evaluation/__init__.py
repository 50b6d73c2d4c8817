"""run_eval: is the tuned model better than the base, at what, by how much; proven on held-out rows."""

from __future__ import annotations

import json
import sys
from typing import Literal

from skill.errors import JobFailed, NotFound, SpecError, StateError, did_you_mean
from skill.evaluation.metrics import METRICS
from skill.evaluation.report import REPORTS, Candidate, EvalReport, EvalStarted
from skill.inference import trained_output
from skill.runs import current, start_job
from skill.runs.store import args_file, error_file, read_object
from skill.workspace import RunDir, Workspace

MOST_EXAMPLES = 16
MetricName = Literal[
    "auto",
    "exact_match",
    "normalised_match",
    "json_match",
    "json_valid",
    "json_fields",
    "number_match",
    "token_f1",
    "rouge_l",
    "chrf",
]


def run_eval(
    ws: Workspace,
    run_id: str,
    *,
    metric: MetricName = "auto",
    max_rows: int = 200,
    max_new_tokens: int | None = None,
    candidate: Candidate | Literal["auto"] = "auto",
    few_shot: int = 0,
    eval_path: str | None = None,
) -> EvalStarted:
    """Start comparing a run's trained model with its base on held-out rows; returns at once.

    With candidate "base" nothing needs to be trained: the base without examples is compared with the base that has
    `few_shot` examples in its prompt (is prompting alone enough?), and the report is eval/base_report.json.

    Args:
        metric: `auto` chooses by looking at the references and says why.
        max_rows: more rows give a narrower interval and take longer.
        max_new_tokens: default: room for an answer a quarter longer than the longest reference.
        candidate: adapter, merged or model (full fine-tuning); auto: what the run trained; base: see above.
        few_shot: 0 to 16 rows of data/train.jsonl, drawn with the run's seed, in the prompt of the base (never of the
            tuned model, which answers as it was trained).
        eval_path: a file of held-out rows in the workspace, in any format that training data may have; default: the
            rows that the run held out.

    Raises:
        NotFound: no such run or file.
        StateError: not trained yet, or not merged yet.
        SpecError: an unknown metric or candidate, or a number out of range.
        ConflictError: an evaluation of this run is running with other arguments.
    """
    run = ws.existing_run(run_id)
    problems = []
    if metric != "auto" and metric not in METRICS:
        problems.append(f"metric {metric[:40]!r} is not known. {did_you_mean(metric, ['auto', *METRICS])}")
    if not 1 <= max_rows <= 100_000:
        problems.append(f"max_rows must be from 1 to 100000; got {max_rows}.")
    if max_new_tokens is not None and not 1 <= max_new_tokens <= 8192:
        problems.append(f"max_new_tokens must be from 1 to 8192; got {max_new_tokens}.")
    if candidate not in ("auto", "adapter", "merged", "model", "base"):
        problems.append(f"candidate {candidate[:40]!r} is not known. Use auto, adapter, merged, model or base.")
    if not 0 <= few_shot <= MOST_EXAMPLES:
        problems.append(f"few_shot must be from 0 to {MOST_EXAMPLES}; got {few_shot}.")
    if problems:
        raise SpecError("run_eval: " + " ".join(problems), hint="Correct the arguments and call run_eval again.")
    if candidate == "base" and not few_shot:
        raise SpecError(
            "run_eval: candidate 'base' with few_shot=0 would compare the base with itself.",
            hint=f"Is a prompt enough? run_eval(run_id={run_id!r}, candidate='base', few_shot=4) compares the base "
            f"with and without 4 examples. Did training help? run_eval(run_id={run_id!r}) after it.",
        )
    chosen = choose_candidate(run, candidate)
    if few_shot and not ((run.data / "train.jsonl").is_file() and (run.data / "train.jsonl").stat().st_size):
        raise StateError(
            f"Run {run_id!r} has no data/train.jsonl to draw examples from.",
            hint="Render the run again with render_training_script, or use few_shot=0.",
        )
    if eval_path is not None:
        ws.read_path(eval_path, what="evaluation file")
    elif not (run.data / "eval.jsonl").is_file() or not (run.data / "eval.jsonl").stat().st_size:
        raise StateError(
            f"Run {run_id!r} held no rows out.", hint=f"run_eval(run_id={run_id!r}, eval_path='your-rows.jsonl')"
        )
    args = {
        "metric": metric,
        "max_rows": max_rows,
        "max_new_tokens": max_new_tokens,
        "candidate": chosen,
        "few_shot": few_shot,
        "eval_path": eval_path,
    }
    record = start_job(ws, run, "eval", [sys.executable, "-m", "skill.evaluation.worker", str(run.path)], args)
    return EvalStarted(
        run_id=run_id,
        state=record.state,
        attempt=record.attempt,
        candidate=chosen,
        report=str(run.evaluation / REPORTS[chosen == "base"][0]),
        next_step=f"get_run(run_id={run_id!r}, wait_s=30) until the evaluation has completed.",
    )


def eval_result(ws: Workspace, run_id: str) -> EvalReport:
    """The report of the last evaluation of a run, of its tuned model or of a prompt (candidate "base").

    Raises:
        NotFound: it was never evaluated.
        StateError: the evaluation is running.
        JobFailed: it failed or was cancelled; says why.
    """
    run = ws.existing_run(run_id)
    record = current(run, "eval")
    again = f"run_eval(run_id={run_id!r})"
    if record is not None and record.state in ("created", "queued", "running", "cancelling"):
        raise StateError(
            f"The evaluation of {run_id!r} is {record.state}.", hint=f"get_run(run_id={run_id!r}, wait_s=30)"
        )
    if record is not None and record.state != "completed":
        told = read_object(error_file(run, "eval")) or {}
        why = told.get("message") or record.reason or "no reason was recorded"
        raise JobFailed(f"The evaluation of {run_id!r} {record.state}: {why}", hint=told.get("hint") or again)
    only_base = (read_object(args_file(run, "eval")) or {}).get("candidate") == "base"
    file = run.evaluation / REPORTS[only_base][0]
    try:
        return EvalReport.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise NotFound(f"Run {run_id!r} has no evaluation report.", hint=again) from None


def choose_candidate(run: RunDir, candidate: str) -> Candidate:
    """Which weights to judge.

    Raises:
        StateError: they are not there.
    """
    if candidate == "base":
        return "base"
    if candidate == "merged":
        if not (run.merged / "config.json").is_file():
            raise StateError(f"Run {run.name!r} is not merged.", hint=f"merge_adapter(run_id={run.name!r})")
        return "merged"
    trained = trained_output(run)
    if trained is None:
        raise StateError(
            f"Run {run.name!r} has no trained model yet.",
            hint=f"Train it: launch_training(run_id={run.name!r}, dry_run=false); then wait with get_run. "
            f"Before that: run_eval(run_id={run.name!r}, candidate='base', few_shot=4) tries a prompt.",
        )
    found: Candidate = "adapter" if trained == run.adapter else "model"
    if candidate not in ("auto", found):
        raise StateError(f"Run {run.name!r} trained {found}, not {candidate}.", hint=f"Use candidate={found!r}.")
    return found


__all__ = ["Candidate", "EvalReport", "EvalStarted", "MetricName", "choose_candidate", "eval_result", "run_eval"]
