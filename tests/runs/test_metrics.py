from __future__ import annotations

import json
import math

import pytest

from skill.runs import metrics


def write(path, *events, end="\n"):
    path.write_text("\n".join(json.dumps(event) for event in events) + end)


def steps(first, last, **more):
    return [{"t": 100.0 + 2 * i, "step": i, "total": 100, "loss": 1 / i, **more} for i in range(first, last + 1)]


def test_nothing_there(tmp_path):
    assert metrics.latest(tmp_path / "none.jsonl") == metrics.Latest()
    assert metrics.loss_curve(tmp_path / "none.jsonl") == []
    assert metrics.start_line(tmp_path / "none.jsonl") == {}


def test_latest_speed_and_time_left(tmp_path):
    path = tmp_path / "m.jsonl"
    start = {"t": 99.0, "event": "start", "step": 0, "total": 100}
    rows = [row | {"tokens": 1000 * row["step"]} for row in steps(1, 20)]
    write(path, start, *rows, {"t": 140.0, "step": 20, "total": 100, "eval_loss": 0.7, "epoch": 0.2})
    seen = metrics.latest(path)
    assert (seen.step, seen.total, seen.loss, seen.eval_loss, seen.best_step) == (20, 100, 0.05, 0.7, 20)
    assert seen.seconds_per_step == pytest.approx(2.0, rel=0.06)
    assert seen.tokens_per_s == pytest.approx(500.0)
    assert metrics.eta_s(seen) == pytest.approx(160, rel=0.06)


def test_half_a_line_and_rubbish_are_passed_over(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, *steps(1, 3), end='\n[1, 2]\nnot json\n{"t": 1, "step": "x"}\n{"t": 108.0, "step": 4, "lo')
    seen = metrics.latest(path)
    assert (seen.step, seen.loss) == (3, pytest.approx(1 / 3))
    assert [point.step for point in metrics.loss_curve(path)] == [1, 2, 3]


def test_steps_done_again_after_a_resume_count_once(tmp_path):
    path = tmp_path / "m.jsonl"
    evals = [{"t": 1, "step": s, "total": 9, "eval_loss": v} for s, v in ((2, 3.0), (4, 1.0))]
    restart = {"t": 300.0, "event": "start", "step": 2, "total": 9}
    write(path, *steps(1, 4), *evals, restart, *[r | {"loss": 9.0, "t": 400.0 + r["step"]} for r in steps(3, 5)])
    curve = metrics.loss_curve(path)
    assert [point.step for point in curve] == [1, 2, 3, 4, 5]
    assert [point.value for point in curve[2:]] == [9.0, 9.0, 9.0]
    assert metrics.eval_curve(path) == [metrics.Point(2, 3.0)]  # the eval of step 4 was undone
    assert metrics.latest(path).seconds_per_step == pytest.approx(1.0)  # not the pause between the attempts


def test_numbers_that_are_none(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(
        '{"t": 1, "step": 1, "total": 4, "loss": NaN}\n{"t": 1, "step": 2, "total": 4, "eval_loss": Infinity}\n'
    )
    seen = metrics.latest(path)
    assert seen.loss is not None and math.isnan(seen.loss)
    assert seen.best_eval_loss is None
    assert seen.seconds_per_step is None  # no time passed
    assert metrics.eta_s(seen) is None


def test_a_clock_set_back_does_not_break_the_speed(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, *[{"t": t, "step": s, "total": 9} for s, t in ((1, 100.0), (2, 102.0), (3, 40.0), (4, 42.0))])
    assert metrics.latest(path).seconds_per_step == pytest.approx(4 / 3)


def test_a_long_run_is_read_fast_and_drawn_small(tmp_path):
    path = tmp_path / "m.jsonl"
    with path.open("w") as file:
        for i in range(1, 50_001):
            file.write(json.dumps({"t": i, "step": i, "total": 50_000, "loss": 1.0}) + "\n")
    assert metrics.latest(path).step == 50_000
    curve = metrics.loss_curve(path)
    assert len(curve) <= metrics.CURVE_POINTS
    assert curve[-1] == metrics.Point(50_000, 1.0)
