"""Verbs that start, watch and stop jobs on a run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from skill.cli.show import Progress, duration, emit

if TYPE_CHECKING:
    from skill.runs import RunStatus

STATES = ("created", "queued", "running", "cancelling", "completed", "failed", "cancelled")
KINDS = ("train", "merge", "eval")
POLL_S = 2.0


def add_parsers(verbs: Any, shared: argparse.ArgumentParser) -> None:
    def verb(name: str, run: Any, text: str, example: str, *, run_id: bool = True) -> argparse.ArgumentParser:
        parser = verbs.add_parser(name, parents=[shared], help=text, description=text[0].upper() + text[1:] + ".",
                                  epilog=f"example: tunesmith {name} {example}")  # fmt: skip
        if run_id:
            parser.add_argument("run_id", metavar="RUN", help="run name (tunesmith list)")
        parser.set_defaults(run=run)
        return parser

    parser = verb("launch", launch, "preview a run, or start it detached", "my-run --start")
    parser.add_argument("--start", action="store_true", help="start it; without this, only the preview is shown")
    parser.add_argument("--watch", action="store_true", help="after starting, stay until it ends")
    parser = verb("status", status, "state, progress and metrics of a run", "my-run --watch")
    parser.add_argument("--watch", action="store_true", help="stay until it ends")
    parser = verb("logs", logs, "last lines of a run's log", "my-run -n 100")
    parser.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="how many (default 50)")
    parser = verb("cancel", cancel, "stop the running job; training saves a checkpoint first", "my-run")
    parser.add_argument("--job", choices=KINDS, help="which job (default: the one that is running)")
    parser = verb("resume", resume, "go on from the last checkpoint", "my-run --watch")
    parser.add_argument("--watch", action="store_true", help="stay until it ends")
    parser = verb("list", list_runs, "runs of the workspace, newest first", "--state running", run_id=False)
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default 20)")
    parser.add_argument("--state", choices=STATES, help="only these")
    verb("calibration", calibration, "predicted against measured memory of completed runs", "--json", run_id=False)
    parser = verb("merge", merge, "merge the adapter into its base, and verify", "my-run")
    parser.add_argument("--base", choices=("auto", "dequantised", "original"), default="auto",
                        help="QLoRA: the base as trained on (dequantised, default) or the original one")  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"),
                        help="of the merged weights (default: the base's in training)")  # fmt: skip
    parser.add_argument("--detach", action="store_true", help="return at once")
    parser = verb("eval", evaluate, "compare the base with the tuned model on held-out rows", "my-run --max-rows 400")
    parser.add_argument("--metric", default="auto", help="auto, or one that references/evaluation.md names")
    parser.add_argument("--max-rows", type=int, default=200, metavar="N", help="held-out rows (default 200)")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: from the data)")
    parser.add_argument("--candidate", choices=("auto", "adapter", "merged", "model", "base"), default="auto",
                        help="which weights (default: what the run trained); base: only its few-shot prompt, "
                        "before training")  # fmt: skip
    parser.add_argument("--few-shot", type=int, default=0, metavar="N",
                        help="training rows in the prompt of the base, 0 to 16 (default 0)")  # fmt: skip
    parser.add_argument("--eval", dest="eval_path", metavar="FILE", help="other held-out rows than the run's")
    parser.add_argument("--detach", action="store_true", help="return at once")


def launch(args: argparse.Namespace) -> int:
    from skill.runs import launch as engine

    result = engine(_workspace(), args.run_id, dry_run=not args.start)
    if args.start and args.watch:
        return watch(args, "train")
    emit(result, as_json=args.json, hide=("argv",))
    return 0


def status(args: argparse.Namespace) -> int:
    from skill.runs import get_run

    if args.watch:
        return watch(args, None)
    emit(get_run(_workspace(), args.run_id, log_lines=5), as_json=args.json, hide=("cursor",))
    return 0


def logs(args: argparse.Namespace) -> int:
    from skill.runs import get_run

    found = get_run(_workspace(), args.run_id, log_lines=args.lines)
    if args.json:
        emit(found, as_json=True)
    else:
        print("\n".join(found.log))
    return 0


def cancel(args: argparse.Namespace) -> int:
    from skill.runs import cancel_run

    emit(cancel_run(_workspace(), args.run_id, job=args.job), as_json=args.json, hide=("log", "cursor"))
    return 0


def resume(args: argparse.Namespace) -> int:
    from skill.runs import resume_run

    result = resume_run(_workspace(), args.run_id)
    if args.watch:
        return watch(args, "train")
    emit(result, as_json=args.json)
    return 0


def list_runs(args: argparse.Namespace) -> int:
    from skill.runs import list_runs as engine

    emit(engine(_workspace(), limit=args.limit, state=args.state), as_json=args.json)
    return 0


def calibration(args: argparse.Namespace) -> int:
    from skill.runs import calibration as engine

    emit(engine(_workspace()), as_json=args.json)
    return 0


def merge(args: argparse.Namespace) -> int:
    """0 when the merge is verified, 1 when it is not."""
    from skill.adapters import merge_adapter, merge_result

    started = merge_adapter(_workspace(), args.run_id, base=args.base, dtype=args.dtype)
    return _to_the_end(args, started, "merge", merge_result, good="verified")


def evaluate(args: argparse.Namespace) -> int:
    """0 when there is a verdict, whatever it says."""
    from skill.evaluation import eval_result, run_eval

    started = run_eval(
        _workspace(),
        args.run_id,
        metric=args.metric,
        max_rows=args.max_rows,
        max_new_tokens=args.max_new_tokens,
        candidate=args.candidate,
        few_shot=args.few_shot,
        eval_path=args.eval_path,
    )
    return _to_the_end(args, started, "eval", eval_result)


def _to_the_end(args: argparse.Namespace, started: Any, job: str, result: Any, *, good: str | None = None) -> int:
    """Follow a job that was started and show what it found; with --detach, what was started."""
    if args.detach:
        emit(started, as_json=args.json)
        return 0
    follow(args.run_id, job)
    found = result(_workspace(), args.run_id)  # raises JobFailed with the reason when there is none
    emit(found, as_json=args.json)
    return 0 if good is None or found.verdict == good else 1


def watch(args: argparse.Namespace, job: str | None) -> int:
    """Follow a job of a run (None: whichever runs) to its end. 0 when it completed, 3 when it did not."""
    found, kind = follow(args.run_id, job)
    state = found.jobs[kind].state if kind in found.jobs else "created"
    emit(found, as_json=args.json, hide=("cursor",) if state == "failed" else ("cursor", "log"))
    return 0 if state in ("completed", "created") else 3


def follow(run_id: str, job: str | None) -> tuple[RunStatus, str]:
    """The status at the end of a job, drawn on stderr meanwhile, and which job it was."""
    from skill.runs import get_run
    from skill.runs.states import ENDED

    ws = _workspace()
    progress = Progress(run_id)
    found = get_run(ws, run_id, log_lines=10)
    kind = job or next((kind for kind, view in found.jobs.items() if view.state not in ENDED), "train")
    while kind in found.jobs and found.jobs[kind].state not in ENDED:
        progress.update(*_progress(found, kind))
        found = get_run(ws, run_id, wait_s=POLL_S, since=found.cursor, log_lines=10)
    progress.update(*_progress(found, kind))
    progress.close()
    return found, kind


def _progress(found: RunStatus, job: str) -> tuple[int | None, int | None, str]:
    """(step, total, note) of a job."""
    view = found.jobs.get(job)
    if view is not None and job != "train":
        return view.step, view.total, f"{job} {view.state}  {view.phase or ''}".rstrip()
    parts = [found.state]
    for name, value in (("loss", found.loss), ("eval", found.eval_loss)):
        if value is not None:
            parts.append(f"{name} {value:.3f}")
    if found.eta_s is not None:
        parts.append(f"{duration(found.eta_s)} left")
    return found.step, found.total_steps, "  ".join(parts)


def _workspace() -> Any:
    from skill.workspace import Workspace

    return Workspace.open()
