"""A short, seeded run of the chaos program; `python tests/runs/chaos.py --kills 200 --runs 20` is the long one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("seed", [11, 12])
def test_random_kills_lose_nothing(seed: int):
    program = Path(__file__).with_name("chaos.py")
    argv = [sys.executable, str(program), "--kills", "25", "--runs", "6", "--seed", str(seed), "--limit-s", "120"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout, done.stderr[-2000:]
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["kills"] == 25
    assert [counted[key] for key in ("lost", "ghosts", "orphans", "unequal")] == [0, 0, 0, 0], done.stderr[-2000:]
