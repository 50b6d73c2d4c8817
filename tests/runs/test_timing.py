"""The expected time comes from what earlier runs of this machine took, start-up apart."""

import json

import pytest

from skill.memory.gpus import LiveGpu
from skill.memory.shapes import from_catalogue
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
    same = timing.expected(run, run.spec(), 8, device="cpu", shape=None)
    longer = timing.expected(run, run.spec(), 80, device="cpu", shape=None)
    assert same is not None and longer is not None
    assert same.expected_s == pytest.approx(30 + 80, rel=0.05)
    assert longer.expected_s == pytest.approx(30 + 800, rel=0.05)
    assert same.low_s < same.expected_s < same.high_s and "one" in same.source


def test_a_run_of_a_few_seconds_tells_nothing(make_run):
    run = make_run()
    record_run(run, stepping_s=2)
    assert timing.expected(run, run.spec(), 8, device="cpu", shape=None) is None


def test_without_earlier_runs_the_flops_decide(make_run):
    run = make_run()
    names = ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-32B")
    small, large = (timing.expected(run, run.spec(), 10, device="cpu", shape=from_catalogue(name)) for name in names)
    assert small is not None and large is not None and "FLOPs" in small.source
    assert large.expected_s > 20 * small.expected_s


def test_a_known_gpu_is_told_by_its_class(make_run, monkeypatch):
    monkeypatch.setattr(timing, "live_gpus", lambda: [LiveGpu("NVIDIA A100-SXM4-80GB", 80.0, 79.0)])
    run = make_run()
    shape = from_catalogue("Qwen/Qwen2.5-7B")
    time = timing.expected(run, run.spec(), 100_000, device="cuda", shape=shape)
    assert time is not None and time.low_s < time.expected_s < time.high_s and "A100" in time.source
    monkeypatch.setattr(timing, "live_gpus", lambda: [LiveGpu("NVIDIA Unheard 9000", 80.0, 79.0)])
    assert timing.expected(run, run.spec(), 100_000, device="cuda", shape=shape) is None
