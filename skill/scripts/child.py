"""Checks that import the training libraries run in a process of their own: it takes seconds and half a GiB."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skill.child import run_module
from skill.errors import ScriptError


def run_check(module: str, script: Path) -> Any:
    """What `module` prints about a script as its last line, as JSON.

    Raises:
        ScriptError: the libraries do not import here.
    """
    done = run_module(module, str(script))
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError) as error:
        tail = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise ScriptError(
            f"The check against the installed libraries failed: {tail[:600]}",
            hint='Install the stack this was made for: pip install --force-reinstall "tunesmith"',
        ) from error
