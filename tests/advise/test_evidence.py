"""Reading facts out of words."""

from __future__ import annotations

import pytest

from skill.advise.evidence import read


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("We have 3,000 correct pairs", 3000),
        ("20k labelled tickets", 20_000),
        ("half a million labelled reviews", 500_000),
        ("a dozen samples", 12),
        ("I have two hundred examples", 200),
        ("tens of thousands of conversations", 30_000),
        ("1.2 million rows", 1_200_000),
        ("2,000 annotated", 2000),
        ("we have no training examples", 0),
        ("no labelled data yet", 0),
        ("a summary of each report", None),
        ("2 million calls a month", None),
        ("4,000 contracts to search", None),
        ("500M tokens of text", None),
        ("costs $3000 per 5 B requests", None),
    ],
)
def test_examples_are_counted_and_other_numbers_are_not(text, count):
    assert read(text).facts.get("examples") == count


@pytest.mark.parametrize(
    ("text", "cadence"),
    [
        ("the wiki changes daily", "daily"),
        ("people edit them all the time", "daily"),
        ("prices are updated every hour", "hourly"),
        ("live scores", "hourly"),
        ("docs are re-released every sprint", "weekly"),
        ("policies are revised quarterly", "monthly"),
        ("the manuals never change", "never"),
        ("the law rarely changes", "yearly"),
        ("volume is 50 calls daily", None),
        ("write a daily poem", None),
    ],
)
def test_cadence_of_change_not_of_use(text, cadence):
    assert read(text).facts.get("knowledge_update") == cadence


@pytest.mark.parametrize(
    ("text", "fact", "value"),
    [
        ("Llama-3.1-8B on our data", "model_params_b", 8),
        ("from the 70B down to a 1.5B model", "model_params_b", 1.5),
        ("a 360M parameter model", "model_params_b", 0.36),
        ("5 billion tokens", "model_params_b", None),
        ("one RTX 4090", "gpu_gib", 24),
        ("8x H100", "gpu_gib", 640),
        ("two A100 40GB", "gpu_gib", 80),
        ("an 8 GB laptop GPU, well: 8 GB VRAM", "gpu_gib", 8),
        ("no GPU here", "gpu_gib", 0),
        ("500M tokens of legal text", "raw_mtokens", 500),
        ("three billion tokens", "raw_mtokens", 3000),
        ("2 GB of web text", "raw_mtokens", 500),
        ("a 6,000 tokens prompt", "raw_mtokens", None),
        ("answers under 150 ms", "latency_ms", 150),
        ("$200 a month", "budget_usd_month", 200),
        ("no budget at all", "budget_usd_month", 0),
    ],
)
def test_stated_facts(text, fact, value):
    assert read(text).facts.get(fact) == (pytest.approx(value) if value is not None else None)


@pytest.mark.parametrize(
    ("text", "signal", "there"),
    [
        ("always reply in this JSON", "format", True),
        ("no JSON needed", "format", False),
        ("we do not need citations", "citations", False),
        ("answers need citations", "citations", True),
        ("in our brand voice", "tone", True),
        ("thumbs up and down logs", "thumbs", True),
        ("we don't collect user feedback", "thumbs", False),
        ("annotators picked the better of two answers", "pairs", True),
        ("the accepted completion of the query", "thumbs", False),
        ("checked by unit tests", "verifiable", True),
        ("GPT-4 is too expensive, a smaller model should take over", "teacher", True),
        ("the big model does it", "teacher", False),
        ("the label set changes each week", "shifting_task", True),
        ("the facts come in the prompt: all is given in the prompt", "context_given", True),
    ],
)
def test_signals_and_denials(text, signal, there):
    assert (signal in read(text).signals) is there


def test_typography_and_case_do_not_matter():
    assert read("Don’t change — NEVER change").facts == read("don't change - never change").facts


def test_each_signal_can_show_the_words_it_came_from():
    reading = read("Answers from our wiki, which changes daily, in our brand voice, as JSON. 3,000 pairs.")
    assert {"document_qa", "tone", "format"} <= reading.signals
    assert all(reading.quotes[name] for name in reading.signals & set(reading.quotes))
    assert reading.quotes["knowledge_update"] == "changes daily"
