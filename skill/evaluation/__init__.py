"""run_eval: is the tuned model better than the base, at what, by how much; proven on held-out rows."""

from __future__ import annotations

import json
import sys
from typing import Literal

from skill.errors import JobFailed, NotFound, SpecError, StateError, did_you_mean
from skill.evaluation.metrics import METRICS
from skill.evaluation.report import Candidate, EvalReport, EvalStarted
from skill.inference import trained_output
from skill.runs import current, start_job
from skill.runs.store import error_file, read_object
from skill.workspace import RunDir, Workspace

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
    eval_path: str | None = None,
) -> EvalStarted:
    """Start comparing a run's trained model with its base on held-out rows; returns at once.

    Args:
        metric: `auto` chooses by looking at the references and says why.
        max_rows: more rows give a narrower interval and take longer.
        max_new_tokens: default: room for an answer a quarter longer than the longest reference.
        candidate: adapter, merged or model (full fine-tuning); auto: what the run trained.
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
    if candidate not in ("auto", "adapter", "merged", "model"):
        problems.append(f"candidate {candidate[:40]!r} is not known. Use auto, adapter, merged or model.")
    if problems:
        raise SpecError("run_eval: " + " ".join(problems), hint="Correct the arguments and call run_eval again.")
    chosen = choose_candidate(run, candidate)
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
        "eval_path": eval_path,
    }
    record = start_job(ws, run, "eval", [sys.executable, "-m", "skill.evaluation.worker", str(run.path)], args)
    return EvalStarted(
        run_id=run_id,
        state=record.state,
        attempt=record.attempt,
        candidate=chosen,
        report=str(run.evaluation / "report.json"),
        next_step=f"get_run(run_id={run_id!r}, wait_s=30) until the evaluation has completed.",
    )


def eval_result(ws: Workspace, run_id: str) -> EvalReport:
    """The report of the last evaluation of a run.

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
    try:
        return EvalReport.model_validate(json.loads((run.evaluation / "report.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise NotFound(f"Run {run_id!r} has no evaluation report.", hint=again) from None


def choose_candidate(run: RunDir, candidate: str) -> Candidate:
    """Which trained weights to ask.

    Raises:
        StateError: they are not there.
    """
    if candidate == "merged":
        if not (run.merged / "config.json").is_file():
            raise StateError(f"Run {run.name!r} is not merged.", hint=f"merge_adapter(run_id={run.name!r})")
        return "merged"
    trained = trained_output(run)
    if trained is None:
        raise StateError(
            f"Run {run.name!r} has no trained model yet.",
            hint=f"Train it: launch_training(run_id={run.name!r}, dry_run=false); then wait with get_run.",
        )
    found: Candidate = "adapter" if trained == run.adapter else "model"
    if candidate not in ("auto", found):
        raise StateError(f"Run {run.name!r} trained {found}, not {candidate}.", hint=f"Use candidate={found!r}.")
    return found


__all__ = ["Candidate", "EvalReport", "EvalStarted", "MetricName", "choose_candidate", "eval_result", "run_eval"]
