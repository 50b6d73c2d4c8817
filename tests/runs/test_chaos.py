"""A short, seeded run of the chaos program; `python -m tests.runs.chaos --kills 200 --runs 20` is the long one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("seed", [11, 12])
def test_random_kills_lose_nothing(seed: int):
    root = Path(__file__).resolve().parents[2]
    argv = [sys.executable, "-m", "tests.runs.chaos", "--kills", "25", "--runs", "6", "--seed", str(seed)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False, cwd=root)
    assert done.stdout, done.stderr[-2000:]
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["kills"] == 25
    assert [counted[key] for key in ("lost", "ghosts", "orphans", "unequal")] == [0, 0, 0, 0], done.stderr[-2000:]
