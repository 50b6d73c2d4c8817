"""`tunesmith …`: the verbs of the tools, for people and shells.

Start-up stays under 0.3 s: this module and its parsers import argparse and nothing of the engine; commands import
what they call.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback

from skill import __version__
from skill.errors import TunesmithError

EXIT_CODES = """\
exit codes:
  0  done
  1  an expected failure that none of the codes below names (data, script, model)
  2  wrong usage, or a spec that is not valid
  3  the job failed
  4  not found: run, recipe, file, model
  5  conflict: the name is taken, the machine is busy, or the run's state does not allow it
  6  not enough disk or memory, or a package is missing
  70 a bug: please report it with the traceback (TUNESMITH_DEBUG=1)
  130 interrupted; a detached job goes on"""

_CODES = {
    "spec_invalid": 2,
    "outside_workspace": 2,
    "job_failed": 3,
    "not_found": 4,
    "model_not_found": 4,
    "conflict": 5,
    "wrong_state": 5,
    "not_enough_resources": 6,
    "missing_dependency": 6,
}


def build_parser() -> argparse.ArgumentParser:
    from skill.cli import faces, jobs, plan

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one line of JSON on stdout")
    shared.add_argument("-C", "--workspace", metavar="DIR", default=argparse.SUPPRESS,
                        help="the one folder used (default: TUNESMITH_WORKSPACE, else this folder)")  # fmt: skip
    parser = argparse.ArgumentParser(
        prog="tunesmith",
        description="Plan, run and prove LLM fine-tunes.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
    )
    parser.add_argument("--version", action="version", version=f"tunesmith {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    plan.add_parsers(verbs, shared)
    jobs.add_parsers(verbs, shared)
    faces.add_parsers(verbs, shared)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script. Returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(words)
    args.json = getattr(args, "json", False)
    if folder := getattr(args, "workspace", None):
        os.environ["TUNESMITH_WORKSPACE"] = os.path.abspath(os.path.expanduser(folder))
    try:
        return args.run(args)
    except TunesmithError as error:
        return _fail(error.code, error.message, error.hint, _CODES.get(error.code, 1), as_json=args.json)
    except KeyboardInterrupt:
        print("\nInterrupted. Detached jobs go on: tunesmith list", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `tunesmith list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("TUNESMITH_DEBUG"):
            traceback.print_exc()
        return _fail("internal_error", f"{type(error).__name__}: {error}",
                     "This is a bug. Run again with TUNESMITH_DEBUG=1 and report the traceback.", 70,
                     as_json=args.json)  # fmt: skip


def _fail(code: str, message: str, hint: str, exit_code: int, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": {"code": code, "message": message, "hint": hint}}, ensure_ascii=False))
    else:
        print(f"error: {message}", file=sys.stderr)
        if hint:
            print(f"hint:  {hint}", file=sys.stderr)
    return exit_code
