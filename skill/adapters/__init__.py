"""merge_adapter: put a trained adapter into its base, as a model folder that is proven to be what was trained."""

from __future__ import annotations

import json
import sys
from typing import Literal

from skill.adapters.report import MergeReport, MergeStarted, Route, Verification
from skill.errors import JobFailed, ModelUnsupported, NotFound, SpecError, StateError
from skill.inference import trained_output
from skill.runs import current, start_job
from skill.runs.store import error_file, read_object
from skill.spec import Dtype, RunSpec
from skill.workspace import RunDir, Workspace

BaseChoice = Literal["auto", "dequantised", "original"]


def merge_adapter(ws: Workspace, run_id: str, *, base: BaseChoice = "auto", dtype: Dtype | None = None) -> MergeStarted:
    """Start merging a run's adapter into its base; returns at once. The result appears whole in `merged/`.

    Args:
        base: weights the update is added to. QLoRA: `dequantised` (the 4-bit values it was trained on, the default)
            or `original`. LoRA: always `original`.
        dtype: of the merged weights; default: the dtype the base had in training.

    Raises:
        NotFound: no such run.
        StateError: not trained yet, or fully fine-tuned: there is nothing to merge.
        ModelUnsupported: prefix tuning has no merged form.
        ConflictError: a merge of this run is running with other arguments.
    """
    run = ws.existing_run(run_id)
    spec = run.spec()
    check_run(run, spec)
    route = choose_route(spec, base)
    argv = [sys.executable, "-m", "skill.adapters.worker", str(run.path)]
    record = start_job(ws, run, "merge", argv, {"base": base, "dtype": dtype})
    return MergeStarted(
        run_id=run_id,
        state=record.state,
        attempt=record.attempt,
        route=route,
        dtype=dtype or spec.dtype,
        out=str(run.merged),
        next_step=f"get_run(run_id={run_id!r}, wait_s=30) until the merge has completed.",
    )


def merge_result(ws: Workspace, run_id: str) -> MergeReport:
    """The report of the last merge of a run.

    Raises:
        NotFound: it was never merged.
        StateError: the merge is running.
        JobFailed: it failed or was cancelled; says why.
    """
    run = ws.existing_run(run_id)
    record = current(run, "merge")
    again = f"merge_adapter(run_id={run_id!r})"
    if record is not None and record.state in ("created", "queued", "running", "cancelling"):
        raise StateError(f"The merge of {run_id!r} is {record.state}.", hint=f"get_run(run_id={run_id!r}, wait_s=30)")
    if record is not None and record.state != "completed":
        told = read_object(error_file(run, "merge")) or {}
        why = told.get("message") or record.reason or "no reason was recorded"
        raise JobFailed(f"The merge of {run_id!r} {record.state}: {why}", hint=told.get("hint") or again)
    try:
        return MergeReport.model_validate(json.loads((run.merged / "merge_report.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        raise NotFound(f"Run {run_id!r} has no merge report.", hint=again) from None


def check_run(run: RunDir, spec: RunSpec) -> None:
    """Refuse runs that have nothing to merge, with what to do instead."""
    if spec.method.type == "full":
        raise StateError(
            f"Run {run.name!r} trained all weights: there is no adapter, the model is {run.model}.",
            hint=f"Use it as it is; to judge it: run_eval(run_id={run.name!r})",
        )
    if not spec.mergeable:
        raise ModelUnsupported(
            f"Method {spec.method.type!r} cannot be merged: it trains vectors in front of the prompt, not weights.",
            hint="Serve base and adapter together (PeftModel.from_pretrained), or train with method.type 'lora'.",
        )
    if trained_output(run) is None:
        raise StateError(
            f"Run {run.name!r} has no adapter yet.",
            hint=f"Train it: launch_training(run_id={run.name!r}, dry_run=false); then wait with get_run.",
        )


def choose_route(spec: RunSpec, base: str) -> Route:
    """The weights to merge onto.

    Raises:
        SpecError: a base that this method does not have.
    """
    if base not in ("auto", "dequantised", "original"):
        raise SpecError(f"base {base[:40]!r} is not known.", hint="Use 'auto', 'dequantised' or 'original'.")
    if spec.method.type != "qlora":
        if base == "dequantised":
            raise SpecError(
                "base 'dequantised' is for QLoRA runs; this base was not quantised.", hint="Use base='auto'."
            )
        return "original"
    return "original" if base == "original" else "dequantised"


__all__ = ["MergeReport", "MergeStarted", "Verification", "choose_route", "merge_adapter", "merge_result"]
