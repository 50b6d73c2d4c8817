"""What must hold for any use case, not just for the ones somebody thought of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skill.advise import ApproachQuery, recommend_approach
from skill.advise.method import choose
from skill.advise.plan import TRAINED
from skill.advise.verdict import decide, gather, turning_answers
from skill.workspace import Workspace

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "advice_cases.jsonl"
TASKS = [json.loads(line)["description"] for line in FILE.read_text(encoding="utf-8").splitlines()]
CADENCES = ["never", "yearly", "monthly", "weekly", "daily", "hourly"]
WS = Workspace(Path.cwd())


def maybe(strategy):
    return st.none() | strategy


facts = st.fixed_dictionaries(
    {
        "task": st.sampled_from(TASKS) | st.text(min_size=1, max_size=80),
        "examples": maybe(st.integers(0, 2_000_000)),
        "knowledge_update": maybe(st.sampled_from(CADENCES)),
        "needs_format": maybe(st.booleans()),
        "needs_tone": maybe(st.booleans()),
        "needs_domain_knowledge": maybe(st.booleans()),
        "complexity": maybe(st.sampled_from(["low", "medium", "high"])),
        "latency_ms": maybe(st.floats(1, 60_000)),
        "budget_usd_month": maybe(st.floats(0, 100_000)),
        "gpu_gib": maybe(st.sampled_from([0, 6, 8, 12, 16, 24, 40, 48, 80, 141, 320, 640])),
        "model_params_b": maybe(st.sampled_from([0.135, 0.5, 1, 3, 7, 8, 13, 32, 70])),
        "has_preferences": maybe(st.booleans()),
        "verifiable_reward": maybe(st.booleans()),
        "private_data": maybe(st.booleans()),
        "teacher_model": maybe(st.booleans()),
    }
)


def decision(given_facts, **changed):
    query = ApproachQuery.build(**{**given_facts, **changed})
    return decide(gather(query)[0])


@given(facts, st.integers(0, 1_000_000), st.integers(0, 1_000_000))
@settings(max_examples=200, deadline=None)
def test_more_data_never_lowers_the_score_of_fine_tuning(known, a, b):
    few, many = sorted((a, b))
    assert decision(known, examples=many).raw["fine_tuning"] >= decision(known, examples=few).raw["fine_tuning"]
    assert decision(known, examples=many).raw["prompting"] <= decision(known, examples=few).raw["prompting"]


@given(facts, st.sampled_from(["daily", "hourly"]))
@settings(max_examples=200, deadline=None)
def test_facts_that_change_within_days_never_go_into_weights_alone(known, cadence):
    assert decision(known, knowledge_update=cadence).verdict not in ("fine_tuning", "continued_pretraining")


@given(facts, st.sampled_from(CADENCES), st.sampled_from(CADENCES))
@settings(max_examples=200, deadline=None)
def test_faster_change_never_lowers_the_score_of_retrieval(known, a, b):
    slow, fast = sorted((a, b), key=CADENCES.index)
    assert decision(known, knowledge_update=fast).raw["rag"] >= decision(known, knowledge_update=slow).raw["rag"]


@given(facts, st.sampled_from([None, 0]))
@settings(max_examples=200, deadline=None)
def test_no_budget_and_no_gpu_trains_nothing(known, gpu):
    query = ApproachQuery.build(**{**known, "budget_usd_month": 0, "gpu_gib": gpu})
    gathered, _ = gather(query)
    if not gathered.get("gpu_gib"):  # the words may name a card
        assert decide(gathered).verdict not in TRAINED


@given(facts)
@settings(max_examples=200, deadline=None)
def test_each_need_only_helps_what_serves_it(known):
    with_tone, without = decision(known, needs_tone=True), decision(known, needs_tone=False)
    assert with_tone.raw["fine_tuning"] > without.raw["fine_tuning"]
    assert with_tone.raw["rag"] == without.raw["rag"]
    liked, not_liked = decision(known, has_preferences=True), decision(known, has_preferences=False)
    assert liked.raw["preference_tuning"] > not_liked.raw["preference_tuning"]


@given(facts)
@settings(max_examples=100, deadline=None)
def test_a_patient_user_is_not_punished_for_it(known):
    """The community guides reward prompting for a generous latency limit and call it low latency."""
    assert decision(known, latency_ms=30_000).raw == decision(known, latency_ms=5_000).raw


@given(facts)
@settings(max_examples=100, deadline=None)
def test_scores_are_numbers_between_0_and_1_and_the_answer_is_deterministic(known):
    one, two = decision(known), decision(known)
    assert one == two
    assert all(0 <= score <= 1 for score in one.scores.values())
    assert one.verdict in one.scores and one.verdict not in one.banned
    loud = decision({**known, "task": "  " + known["task"].upper().replace(" ", "  ")})
    if known["task"].isascii():
        assert loud.raw == one.raw, "case and spacing mean nothing"


@given(facts)
@settings(max_examples=100, deadline=None)
def test_every_question_asked_would_change_the_verdict(known):
    gathered, _ = gather(ApproachQuery.build(**known))
    now = decide(gathered)
    for fact, _, _, other in turning_answers(gathered, now):
        assert gathered.get(fact) is None
        assert other != now.verdict


@given(facts)
@settings(max_examples=60, deadline=None)
def test_advice_is_short_and_its_call_is_a_valid_spec(known):
    advice = recommend_approach(WS, ApproachQuery.build(**known))  # render resolves the spec: it raises if invalid
    assert len(advice.questions) <= 3
    assert len(advice.model_dump_json()) < 6_500, "about 2,000 tokens"
    if advice.tuning and advice.tuning.objective == "sft" and advice.tuning.method in ("full", "lora", "qlora"):
        assert advice.tuning.render
    if advice.verdict not in TRAINED:
        assert advice.tuning is None and (advice.do or advice.verdict == "fine_tuning")


@given(facts, st.sampled_from([8, 16, 24, 48, 80]), st.sampled_from([8, 16, 24, 48, 80, 160, 640]))
@settings(max_examples=60, deadline=None)
def test_more_memory_never_leads_to_a_thriftier_method(known, a, b):
    order = ["qlora", "lora", "full"]
    small, large = sorted((a, b))
    picked = []
    for gib in (small, large):
        query = ApproachQuery.build(**{**known, "gpu_gib": gib, "model_params_b": known["model_params_b"] or 8})
        gathered, _ = gather(query)
        plan = choose(WS, gathered, "fine_tuning")
        if plan.method not in order:
            return
        if plan.method != "qlora":
            assert plan.memory[plan.method].fits_yours, "a method is only chosen when our own estimate fits"
        picked.append(order.index(plan.method))
    assert picked[0] <= picked[1]


@pytest.mark.parametrize("task", ["\0", "🙂" * 500, "(" * 3000, "a " * 9000, "9" * 5000, "1,0,0,0 examples " * 500])
def test_odd_texts_are_read_quickly_and_without_failing(task):
    import time

    start = time.perf_counter()
    recommend_approach(WS, ApproachQuery.build(task=task))
    assert time.perf_counter() - start < 2, "no pattern may backtrack without bound"
