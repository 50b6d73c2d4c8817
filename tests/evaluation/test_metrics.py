"""Scores against values by hand and against the libraries people quote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skill.evaluation.metrics import (
    ALSO,
    METRICS,
    choose_metric,
    chrf,
    final_number,
    json_fields,
    json_match,
    label_scores,
    macro_f1,
    normalised_match,
    number_match,
    rouge_l,
    token_f1,
)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ('{"b": 2, "a": 1}', '{"a":1,"b":2}', 1),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 1),
        ('{"a": 1.0}', '{"a": 1}', 1),
        ('{"a": true}', '{"a": 1}', 0),
        ('{"a": 1} and more', '{"a": 1}', 0),
        ('{"a": NaN}', '{"a": NaN}', 0),
        ("[" * 100_000, "[]", 0),
    ],
)
def test_json_match(answer, reference, score):
    assert json_match(answer, reference) == score


def test_json_fields_counts_missing_and_invented_fields():
    assert json_fields('{"a": 1, "b": 2}', '{"a": 1, "b": 3}') == 0.5
    assert json_fields('{"a": 1, "x": 9}', '{"a": 1}') == pytest.approx(2 / 3)
    assert json_fields("no", '{"a": 1}') == 0


def test_text_metrics_by_hand():
    assert normalised_match(" Card  Arrival. ", "card arrival") == 1
    assert token_f1("the cat sat", "the cat ran away") == pytest.approx(2 * 2 / 7)
    assert rouge_l("the cat sat on mat", "the dog sat on the mat") == pytest.approx(2 * 4 / 11)
    assert token_f1("猫が好き", "猫が嫌い") == pytest.approx(2 * 2 / 8)
    assert final_number("so 3 + 4 = 7\n#### 1,234 apples 9") == 1234
    assert number_match("I get 12.0", "work ... #### 12") == 1 and number_match("none", "#### 12") == 0


def test_chrf_equals_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    for answer, reference in [
        ("the cat sat on the mat", "a cat sat on a mat"),
        ("x", "yes"),
        ("abc", "abc"),
        ("a b", "ab c d"),
    ]:
        ours = 100 * chrf(answer, reference)
        assert ours == pytest.approx(sacrebleu.sentence_chrf(answer, [reference]).score, abs=1e-6)


def test_macro_f1_by_hand():
    # label a: 1 hit, 2 said, 2 true -> 1/2; label b: 1 hit, 1 said, 2 true -> 2/3
    assert macro_f1(["a", "b", "a", "nonsense"], ["a", "b", "b", "a"]) == pytest.approx((1 / 2 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("references", "metric"),
    [
        ([json.dumps({"n": i}) for i in range(20)], "json_match"),
        ([f"work\n#### {i}" for i in range(20)], "number_match"),
        (["card_arrival", "lost card", "top up"] * 10, "normalised_match"),
        ([f"{i}" for i in range(20)], "normalised_match"),
        (["a long answer in many words that is never the same twice " * 2 + str(i) for i in range(20)], "token_f1"),
    ],
)
def test_the_references_choose_the_metric(references, metric):
    name, reason = choose_metric(references)
    assert name == metric and reason
    assert ALSO.get(name, ()) == () or set(ALSO[name]) <= set(METRICS)
    labels = label_scores(name, references, references)
    assert labels == ({"macro_f1": 1.0} if len(set(references)) == 3 else {})


@given(st.text(max_size=60), st.text(max_size=60))
def test_every_metric_stays_within_0_and_1_and_knows_equals(answer, reference):
    for metric in METRICS.values():
        value = metric.score(answer, reference)
        assert 0 <= value <= 1 + 1e-12
        assert not metric.binary or value in (0.0, 1.0)
    assert token_f1(reference, reference) == rouge_l(reference, reference) == 1
