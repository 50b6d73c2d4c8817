from __future__ import annotations

import html.parser
import json
import math

from skill.runs import write_report
from skill.runs.curves import chart, pieces, ticks
from skill.runs.metrics import Point
from skill.workspace import write_json
from tests.runs.conftest import MakeRun
from tests.runs.test_engine import ended, start

EVIL = '<script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(1)>'


class Reader(html.parser.HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


def test_a_report_is_offline_escaped_and_holds_the_curves(ws, make_run: MakeRun):
    run = make_run(say=[EVIL], spec={"data": {"train": "t.jsonl", "system": EVIL}})
    start(ws, run)
    ended(ws, run)
    write_json(run.data / "manifest.json", {"source": EVIL, "rows_kept": 16})
    write_json(
        run.evaluation / "report.json",
        {"metric": "exact_match", "base": 0.1, "tuned": 0.9, "samples": [{"prompt": EVIL, "tuned": "line\nbreak"}]},
    )
    page = write_report(run).read_text(encoding="utf-8")
    seen = Reader(page)
    assert {"script", "img", "link", "iframe", "a"}.isdisjoint(seen.tags)
    assert not [
        value for name, value in seen.attributes if name in ("src", "href", "onerror") or "http" in (value or "")
    ]
    assert seen.tags.count("polyline") == 2
    text = " ".join(seen.text)
    for expected in ("completed", "exact_match", "0.9", "rows_kept", "training.learning_rate", "line\nbreak", EVIL):
        assert expected in text, expected


def test_a_report_of_a_failed_run_says_why(ws, make_run: MakeRun):
    run = make_run(fail_at=3, how="disk_full")
    start(ws, run)
    ended(ws, run)
    text = " ".join(Reader(write_report(run).read_text(encoding="utf-8")).text)
    assert "disk_full" in text
    assert "No space left on device" in text


def test_a_report_of_a_run_that_never_started(ws, make_run: MakeRun):
    page = write_report(make_run()).read_text(encoding="utf-8")
    assert "created" in page
    assert "svg viewBox" not in page


def test_ticks_are_round_and_cover():
    assert ticks(0.13, 4.2) == [0, 1, 2, 3, 4, 5]
    assert ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert ticks(2.0, 2.0) == [2.0]


def test_a_curve_with_numbers_that_are_none_has_a_gap():
    line = [Point(1, 3.0), Point(2, 2.0), Point(3, math.nan), Point(4, 2.5), Point(5, math.inf)]
    assert [len(piece) for piece in pieces(line)] == [2, 1]
    drawn = chart([("loss", "loss", line)], label="a<b")
    assert "nan" not in drawn
    assert "a&lt;b" in drawn
    assert chart([("loss", "loss", [Point(1, math.nan)])], label="x") == ""
    assert json.dumps(drawn)


def test_the_verdict_is_said_drawn_and_tabled(make_run: MakeRun):
    run = make_run()
    figures = {"base": 0.1, "tuned": 0.6, "difference": 0.5, "ci95": [0.4, 0.6]}
    report = {"verdict": "better", "words": "It is better.", "metric": "exact_match", "metric_reason": "short labels"}
    write_json(run.evaluation / "report.json", report | figures | {"also": {"f1": figures}})
    page = write_report(run).read_text(encoding="utf-8")
    assert "Difference +0.500, 95 % interval +0.400 to +0.600" in page
    text = " ".join(Reader(page).text)
    for expected in ("It is better.", "exact_match", "f1", "+0.400 to +0.600", "short labels"):
        assert expected in text, expected
