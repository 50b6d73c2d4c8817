"""Checks of a script before it is offered: it parses, lints, binds to the installed libraries and constructs."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from skill.scripts.child import run_check
from skill.scripts.context import DISTRIBUTIONS, installed
from skill.workspace import cache_dir, write_json

RULES = "E4,E7,E9,F,I,B"  # of ruff's: syntax, names, imports and bugs; not taste


class Verified(BaseModel):
    """What the checks found; `problems` is empty when the script may be offered."""

    model_config = ConfigDict(frozen=True)

    problems: list[str] = []
    trainable_params: int | None = None
    total_params: int | None = None
    adapted_modules: list[str] = []


def verify(script: Path, model: str | None = None) -> Verified:
    """Check a rendered script. The costly part (importing the libraries, seconds) is cached.

    Args:
        model: folder of its model, whose config.json counts as part of the script.
    """
    text = script.read_text(encoding="utf-8")
    problems = syntax(text) or lint(script)
    if problems:
        return Verified(problems=problems)
    record = cache_dir() / "verified" / f"{_key(text, model)}.json"
    try:
        return Verified.model_validate_json(record.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        pass
    found = Verified.model_validate(run_check("skill.scripts.probe", script))
    if not found.problems:
        write_json(record, found.model_dump())
    return found


def syntax(text: str) -> list[str]:
    """Why a text is no Python; empty when it is."""
    try:
        compile(ast.parse(text), "train.py", "exec")
    except (SyntaxError, ValueError) as error:
        return [f"line {getattr(error, 'lineno', None) or '?'}: {error.args[0] if error.args else error}"]
    return []


def lint(script: Path) -> list[str]:
    """What ruff finds; nothing where ruff is not installed (it is no dependency of a running Tunesmith)."""
    if importlib.util.find_spec("ruff") is None:
        return []
    argv = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--quiet", "--output-format=json"]
    done = subprocess.run(
        [*argv, "--select", RULES, "--line-length=120", "--", str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = json.loads(done.stdout or "[]")
    return [f"line {item['location']['row']}: {item['message']} ({item['code']})" for item in found]


def _key(text: str, model: str | None) -> str:
    """Script, model, the checks themselves, interpreter and libraries: any of them changed, and it is checked anew."""
    digest = hashlib.sha256(text.encode())
    config = Path(model) / "config.json" if model else None
    if config and config.is_file():
        digest.update(config.read_bytes())
    for own in ("probe.py", "binding.py", "compat.py"):
        digest.update(Path(__file__).with_name(own).read_bytes())
    digest.update(sys.version.encode())
    digest.update(json.dumps(installed([*DISTRIBUTIONS, "bitsandbytes"]), sort_keys=True).encode())
    return digest.hexdigest()
