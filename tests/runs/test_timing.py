"""The expected time comes from what earlier runs of this machine took, start-up apart."""

import json

import pytest

from skill.runs import timing
from skill.runs.store import JobRecord


def record_run(run, *, stepping_s: float, steps: int = 8) -> None:
    """A training that started at 1000, reached its first step at 1030 and stepped for so long."""
    lines = [{"t": 1030.0, "event": "start", "step": 0, "total": steps}]
    lines += [{"t": 1030.0 + i, "step": i, "total": steps, "loss": 1.0} for i in range(1, steps + 1)]
    run.metrics.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    ended = 1030.0 + stepping_s
    timing.remember(run, JobRecord(kind="train", run_id=run.name, started_at=1000.0, ended_at=ended, state="completed"))


def test_a_longer_run_pays_for_its_steps_and_once_for_the_start(make_run):
    run = make_run()
    record_run(run, stepping_s=80)
    same = timing.expected(run, run.spec(), 8, device="cpu", params=None)
    longer = timing.expected(run, run.spec(), 80, device="cpu", params=None)
    assert same is not None and longer is not None
    assert same.expected_s == pytest.approx(30 + 80, rel=0.05)
    assert longer.expected_s == pytest.approx(30 + 800, rel=0.05)
    assert same.low_s < same.expected_s < same.high_s and "one" in same.source


def test_a_run_of_a_few_seconds_tells_nothing(make_run):
    run = make_run()
    record_run(run, stepping_s=2)
    assert timing.expected(run, run.spec(), 8, device="cpu", params=None) is None


def test_without_earlier_runs_the_flops_decide(make_run):
    run = make_run()
    small = timing.expected(run, run.spec(), 10, device="cpu", params=10**8)
    large = timing.expected(run, run.spec(), 10, device="cpu", params=10**10)
    assert small is not None and large is not None and "FLOPs" in small.source
    assert large.expected_s > 20 * small.expected_s
