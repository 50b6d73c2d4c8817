"""The evaluation job: `python -m skill.evaluation.worker RUN_DIR`. Ask both sides, compare, write the report.

The first side is the base; the second the tuned model, or with candidate "base" the base with examples in its prompt.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from skill.errors import DataError, StateError
from skill.evaluation.compare import Comparison
from skill.evaluation.report import REPORTS, EvalReport
from skill.inference import UNVERIFIED, base_folder, encode, pick_device, read_rows, trained_output, use_threads
from skill.runs.jobs import workspace_of
from skill.runs.worker import Progress, run_worker
from skill.spec import DataSpec, RunSpec
from skill.workspace import RunDir, Workspace, write_atomic, write_json


def main(run: RunDir, args: dict[str, Any], progress: Progress) -> EvalReport:
    """Evaluate as `args` say (skill.evaluation.run_eval writes them) and write report and predictions."""
    from skill.evaluation import evaluate as judging
    from skill.evaluation import few_shot
    from skill.evaluation.generate import new_token_limit
    from skill.evaluation.leakage import split_leaked
    from skill.evaluation.systems import Pair, ask

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other on a busy machine
    started = time.perf_counter()
    spec, ws = run.spec(), workspace_of(run)
    use_threads(spec)
    progress(0, 1, "reading rows")
    base = base_folder(ws, spec)
    candidate, wanted = args["candidate"], args.get("few_shot", 0)
    trained = {"merged": run.merged, "base": base}.get(candidate) or trained_output(run)
    if trained is None:
        raise StateError(f"Run {run.name!r} has no trained model.", hint=f"launch_training(run_id={run.name!r})")
    seed = spec.training.seed
    everything = _rows(ws, run, spec, args.get("eval_path"))
    kept, leaked, near = split_leaked(everything, run.data / "train.jsonl")
    rows = judging.choose_rows(kept, args["max_rows"], seed)
    if not rows:
        raise DataError(
            f"All {len(everything)} held-out rows are also in the training data.",
            hint="Name other rows with eval_path, or render the run again with data.eval_fraction.",
        )
    metric, reason = judging.pick_metric(args.get("metric", "auto"), [judging.reference_of(row) for _, row in rows])
    pair = Pair(spec, base, trained, candidate, pick_device(spec))
    tokenizer = pair.tokenizer("tuned")
    limit = args.get("max_new_tokens") or new_token_limit([encode(tokenizer, row, index) for index, row in rows])
    examples, notes = few_shot.Examples((), ()), []
    if wanted:
        questions = [row for _, row in rows]
        drawn, notes = few_shot.draw(run.data / "train.jsonl", wanted, seed, questions)
        examples, dropped = few_shot.fit(drawn, pair.tokenizer("base"), questions, limit, positions(base))
        notes += dropped
    shots = len(examples.rows)
    if candidate == "base" and not shots:
        raise DataError(
            f"No training example fits the prompt: {' '.join(notes)}",
            hint="Shorten the rows, or lower max_new_tokens.",
        )
    if candidate == "merged" and (run.merged / UNVERIFIED).is_file():
        notes.append(
            "merged/ is marked UNVERIFIED: it may not answer as base + adapter does. "
            f"merge_adapter(run_id={run.name!r}) merges and verifies it again."
        )

    prompted = [(index, examples.before(row)) for index, row in rows] if shots else rows
    prompted_side = "tuned" if candidate == "base" else "base"
    count, found = len(rows), {}
    for turn, which in enumerate(("base", "tuned")):
        with_examples = bool(shots) and which == prompted_side
        phase = "few-shot answers" if with_examples else f"{'base' if candidate == 'base' else which} answers"
        progress(turn * count, 2 * count, phase)
        found[which] = ask(
            pair, which, prompted if with_examples else rows, limit, run.evaluation / "answers",
            lambda done, turn=turn, phase=phase: progress(turn * count + done, 2 * count, phase),
            name="base_few_shot" if with_examples else which,
        )  # fmt: skip
        if with_examples and isinstance(rows[0][1]["prompt"], str):
            found[which] = few_shot.cut(found[which], examples.separator, pair.tokenizer("base"))
    base_found, tuned_found = found["base"], found["tuned"]
    names = side_names(candidate, shots)
    comparison, samples = judging.judge(metric, base_found, tuned_found, rows, seed, names)
    loss = judging.losses([base_found.by_row[i] for i, _ in rows], [tuned_found.by_row[i] for i, _ in rows], seed)
    base_side, tuned_side = (judging.side(metric, answers, rows) for answers in (base_found, tuned_found))
    if not math.isfinite(loss.tuned):
        raise DataError(f"The loss of {names[1]} is not finite.", hint="Train again with a lower learning_rate.")
    report_file, predictions_file = REPORTS[candidate == "base"]
    untuned = f"{spec.model.id} as it was before training"
    primed = f"{untuned}, with {few_shot.counted(shots, 'training example')} in its prompt"
    report = EvalReport(
        run_id=run.name,
        **comparison.model_dump(),
        metric=metric.name,
        metric_reason=reason,
        loss=loss,
        also=judging.contrasts(metric, base_found, tuned_found, rows, seed),
        base_answers=base_side,
        tuned_answers=tuned_side,
        candidate=candidate,
        judged=f"{primed if candidate == 'base' else f'{candidate} of run {run.name}, zero-shot'}, {pair.dtype}",
        compared_with=f"{primed if shots and candidate != 'base' else f'{untuned}, zero-shot'}, {pair.dtype}",
        few_shot=shots,
        few_shot_rows=list(examples.indices),
        compute_dtype=pair.dtype,
        device=pair.device,
        max_new_tokens=limit,
        rows_in_file=len(everything),
        rows_leaked=len(leaked),
        rows_near_duplicate=len(near),
        predictions=str(run.evaluation / predictions_file),
        wall_s=round(time.perf_counter() - started, 1),
        warnings=notes
        + judging.warnings(
            comparison, tuned_side, base_side, loss, len(leaked), len(near), limit, trained=candidate != "base"
        ),
        samples=samples,
        next_step=after_prompting(run, comparison, wanted)
        if candidate == "base"
        else next_step(run.name, comparison.verdict, candidate, spec, shots),
    )
    _write_predictions(run.evaluation / predictions_file, rows, found, metric)
    write_json(run.evaluation / report_file, report.model_dump(mode="json"))
    return report


def positions(folder: Path) -> int | None:
    """How many tokens a model takes, prompt and answer together; None when its config names no limit."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False).get_text_config()
    return getattr(config, "max_position_embeddings", None)


def side_names(candidate: str, shots: int) -> tuple[str, str]:
    """What the verdict calls the two sides."""
    from skill.evaluation.few_shot import counted

    prompt = f"few-shot prompt ({counted(shots, 'example')})"
    if candidate == "base":
        return "the base without examples", f"the {prompt}"
    return f"the base with a {prompt}" if shots else "the base", "the tuned model"


def _rows(ws: Workspace, run: RunDir, spec: RunSpec, eval_path: str | None) -> list[dict[str, Any]]:
    """Canonical rows: the run's held-out ones, or a file of the user's, converted as training data is."""
    if eval_path is None:
        return read_rows(run.data / "eval.jsonl")
    from skill.data import convert_dataset

    sample = read_rows(run.data / "train.jsonl", limit=1)[0]
    data = DataSpec(
        train=eval_path,
        eval_fraction=0,
        columns=spec.data.columns,
        system=spec.data.system,
        max_length=spec.data.max_length,
    )
    out = run.evaluation / "data"
    convert_dataset(ws, data, out, chat=not isinstance(sample["prompt"], str), seed=spec.training.seed)
    return read_rows(out / "train.jsonl")


def _write_predictions(path: Path, rows: list[tuple[int, dict[str, Any]]], found: dict[str, Any], metric: Any) -> None:
    from skill.evaluation.evaluate import reference_of

    lines = []
    for index, row in rows:
        line: dict[str, Any] = {"row": index, "prompt": row["prompt"], "reference": reference_of(row)}
        for which, answers in found.items():
            answer = answers.by_row[index]
            line[which] = answers.texts[index]
            line[f"{which}_score"] = round(metric.score(answers.texts[index], line["reference"]), 6)
            line[f"{which}_loss"] = round(answer.nll / max(answer.tokens, 1), 6)
            line[f"{which}_stopped"] = answer.stopped
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomic(path, "".join(lines))


def after_prompting(run: RunDir, found: Comparison, wanted: int) -> str:
    """The tool call that follows a base comparison; `wanted`: the number of examples that was asked for."""
    target = f"run_eval(run_id={run.name!r}, few_shot={wanted})"
    train = "" if trained_output(run) else f"launch_training(run_id={run.name!r}) previews the training; after it "
    if found.verdict == "better":
        return f"If {found.tuned:g} meets the target, stop: the prompt is enough. Else {train}{target} must beat it."
    return f"Examples in the prompt do not settle it: {train}{target} compares the tuned model with the same prompt."


def next_step(run_id: str, verdict: str, candidate: str, spec: RunSpec, shots: int = 0) -> str:
    """The tool call that follows the verdict on a tuned model; `shots`: examples in the base's prompt."""
    if shots and verdict != "better":
        return (
            "The tuned model does not beat a few-shot prompt of its base: use the prompt, unless its length costs too "
            "much; or train longer or on more rows: render_training_script, launch_training."
        )
    if verdict == "better":
        if candidate == "adapter" and spec.mergeable:
            return f"merge_adapter(run_id={run_id!r}) to get one model folder to serve."
        return f"The model in {'merged' if candidate == 'merged' else candidate}/ of the run can be served."
    if verdict == "worse":
        return (
            "Read samples and warnings; then render_training_script with a lower training.learning_rate or fewer "
            "training.num_train_epochs, and launch_training."
        )
    return (
        f"run_eval(run_id={run_id!r}, eval_path=<more held-out rows>), or train longer or on more rows: "
        "render_training_script, launch_training."
    )


if __name__ == "__main__":
    run_worker(main, "eval")
