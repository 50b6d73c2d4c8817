"""Run one of this package's modules to completion in a process of its own: heavy imports do not stay in a server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_module(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -P -m module arguments…`, offline and quiet, output captured.

    -P keeps the current folder, which may hold a user's files, off the import path.
    """
    package_root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
    )
