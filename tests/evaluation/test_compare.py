"""The statistics, against hand-computed values and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skill.evaluation.compare import compare, mcnemar, mean_interval, ratio_interval, sign_flip, student_t


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (5, 0, 2 / 2**5),
        (8, 2, 2 * (1 + 10 + 45) / 2**10),  # binomial(10, 1/2): P(X <= 2) = 56/1024
        (1, 9, 2 * (1 + 10) / 2**10),
    ],
)
def test_mcnemar_equals_the_binomial_by_hand(wins, losses, p):
    assert mcnemar(wins, losses) == pytest.approx(p)


def test_mcnemar_of_large_counts_meets_the_exact_sum():
    exact = 2 * sum(math.comb(1200, k) for k in range(560 + 1)) / 2**1200
    assert mcnemar(640, 560) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (119, 1.9801)])
def test_student_t_meets_the_printed_table(freedom, quantile):
    assert student_t(0.975, freedom) == pytest.approx(quantile, rel=5e-3)


def test_sign_flip_is_exact_for_few_rows():
    # all flips of (1, 2, 3): |sum| >= 6 only for +++ and ---
    assert sign_flip([1.0, 2.0, 3.0]) == pytest.approx(2 / 8)
    assert sign_flip([0.0, 0.0]) == 1.0


def test_interval_of_a_known_sample():
    values = np.array([0.0, 1.0] * 50)
    low, high = mean_interval(values)
    half = student_t(0.975, 99) * values.std(ddof=1) / 10  # the t interval, which it must come near
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.012)
    assert mean_interval(values) == (low, high), "the same seed gives the same interval"


def test_equal_differences_do_not_give_an_empty_interval():
    assert mean_interval([1.0] * 30) == pytest.approx((0.9, 1.0))
    assert mean_interval([0.0] * 30) == pytest.approx((-0.1, 0.1))
    assert mean_interval([0.5]) == pytest.approx((-0.5, 1.0))


@pytest.mark.parametrize("rows", [20, 120])
def test_the_interval_covers_the_truth_in_95_of_100_trials(rows, monkeypatch):
    """Binary pairs with a known effect of +0.2; 1,000 trials. Fewer resamples than in use, for time."""
    monkeypatch.setattr("skill.evaluation.compare.RESAMPLES", 600)
    random = np.random.default_rng(7)
    hits = 0
    for trial in range(1000):
        draws = random.choice([-1.0, 0.0, 1.0], size=rows, p=[0.15, 0.5, 0.35])
        low, high = mean_interval(draws, seed=trial)
        hits += low <= 0.2 <= high
    assert 925 <= hits <= 975  # 95 % and three standard errors of the count, the discreteness of 20 rows included


def test_a_model_against_its_equal_is_rarely_called_different(monkeypatch):
    monkeypatch.setattr("skill.evaluation.compare.RESAMPLES", 300)
    random = np.random.default_rng(3)
    calls = 0
    for seed in range(1000):
        pairs = random.random((100, 2)) < 0.4
        result = compare(pairs[:, 0], pairs[:, 1], binary=True, seed=seed)
        calls += result.verdict != "not_distinguishable"
    assert calls <= 50  # 5 %


def test_verdicts_and_words():
    better = compare([0.0] * 30 + [1.0] * 10, [1.0] * 40, binary=True)
    assert better.verdict == "better" and better.ci95[0] > 0 and better.more_rows_to_settle is None
    assert (better.wins, better.losses, better.difference) == (30, 0, 0.75)
    assert compare([1.0] * 40, [0.0] * 30 + [1.0] * 10, binary=True).verdict == "worse"

    few = compare([0.0, 0.0, 0.0], [1.0, 1.0, 0.0], binary=True)
    assert few.verdict == "not_distinguishable" and few.p_value == 0.5
    assert few.more_rows_to_settle and "more rows" in few.words


def test_the_rows_it_asks_for_do_settle_it():
    random = np.random.default_rng(1)
    pairs = random.random((2, 40)) < np.array([[0.4], [0.5]])
    small = compare(pairs[0], pairs[1], binary=True)
    assert small.verdict == "not_distinguishable"
    effect = small.minimum_detectable_effect
    assert effect == pytest.approx(2.8016 * np.std(pairs[1] * 1.0 - pairs[0], ddof=1) / math.sqrt(40), abs=1e-3)


def test_ratio_interval_is_the_difference_of_weighted_means():
    weight = np.array([1.0, 3.0, 6.0])
    low, high = ratio_interval(np.array([2.0, 6.0, 12.0]), weight, np.array([1.0, 3.0, 6.0]), weight)
    assert (low, high) == pytest.approx((-1.0, -1.0))  # 2 nats a token against 1, whatever is drawn


def test_unpaired_scores_are_refused():
    with pytest.raises(ValueError, match="equally long"):
        compare([1.0], [1.0, 0.0], binary=True)
