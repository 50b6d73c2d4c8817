"""What was predicted is held against what was measured, once, at the end of the training."""

from __future__ import annotations

import json

import pytest

from skill.cli import main
from skill.runs import calibration, launch, write_report
from skill.runs.preview import preview_file
from skill.runs.store import JobRecord, read_object, save
from skill.workspace import write_json

from .conftest import MakeRun, until
from .test_engine import ended, start

SMALL = {"model": {"id": "smollm2-135m-instruct"}, "launch": {"device": "cpu"}}


def complete(run, *, ended_at: float = 100.0, **result: float) -> None:
    """As the supervisor leaves a training that came to its end."""
    save(run, JobRecord(kind="train", run_id=run.name, state="completed", started_at=50.0, ended_at=ended_at))
    write_json(run.path / "result.json", {"state": "completed", **result})


def predict(run, device: str, *, allocated: float, process: float) -> None:
    figures = {"allocated_gib": allocated, "process_gib": process}
    spans = {key: {"value": value, "low": 0.9 * value, "high": 1.1 * value} for key, value in figures.items()}
    write_json(preview_file(run), {"predicted": {"device": device, **spans}})


def test_on_a_gpu_live_tensors_are_compared_on_the_cpu_the_resident_set(ws, make_run: MakeRun):
    gpu, cpu = make_run("on-gpu"), make_run("on-cpu")
    predict(gpu, "cuda", allocated=10.0, process=11.0)
    complete(gpu, ended_at=200.0, peak_gpu_gib=8.0, peak_rss_gib=3.0)
    predict(cpu, "cpu", allocated=2.0, process=2.0)
    complete(cpu, peak_rss_gib=2.1)
    found = calibration(ws)
    assert [row.run_id for row in found.runs] == ["on-gpu", "on-cpu"], "newest first"
    assert [(row.counter, row.error_pct, row.inside) for row in found.runs] == [
        ("allocated", 25.0, False),
        ("resident", -4.8, True),
    ]
    assert (found.compared, found.median_abs_error_pct, found.inside_interval_pct) == (2, pytest.approx(14.9), 50.0)


def test_what_cannot_be_compared_is_counted(ws, make_run: MakeRun):
    complete(make_run("no-prediction"), peak_rss_gib=2.0)  # its model is nowhere: nothing could be predicted
    other = make_run("other-device")
    predict(other, "cuda", allocated=1.0, process=1.0)
    complete(other, peak_rss_gib=2.0)
    make_run("never-started")
    found = calibration(ws)
    assert (found.compared, found.not_comparable, found.median_abs_error_pct) == (0, 2, None)


def test_the_record_of_the_end_stays_and_is_in_the_report(ws, make_run: MakeRun):
    run = make_run(spec=SMALL, peak_rss_gib=1.44)
    launch(ws, run.name)
    predicted = read_object(preview_file(run))["predicted"]  # type: ignore[index]
    assert predicted["device"] == "cpu" and predicted["process_gib"]["low"] < predicted["process_gib"]["high"]
    start(ws, run)
    ended(ws, run)
    until(lambda: (run.jobs / "calibration.json").is_file())
    (row,) = calibration(ws).runs
    assert row.measured_gib == 1.44 and row.predicted_gib == predicted["process_gib"]["value"]
    predict(run, "cpu", allocated=99.0, process=99.0)  # a later version would say something else
    assert calibration(ws).runs == [row]
    page = write_report(run).read_text(encoding="utf-8")
    assert f"{row.error_pct:+g} %" in page and "peak measured, GiB (resident)" in page


def test_the_verb_lists_runs(ws, make_run: MakeRun, capsys):
    run = make_run("mine")
    predict(run, "cpu", allocated=2.0, process=2.0)
    complete(run, peak_rss_gib=2.0)
    assert main(["calibration", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["measured_gib"] == 2.0
    assert main(["calibration"]) == 0
    assert "mine" in capsys.readouterr().out
