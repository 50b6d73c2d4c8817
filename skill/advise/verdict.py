"""From facts and signals to a verdict: the rules of tables/rules.yaml added up, and what would turn it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from skill.advise.evidence import Reading, read
from skill.advise.query import ApproachQuery
from skill.advise.tables import holds, source, table

Facts = dict[str, Any]


@dataclass(frozen=True)
class Fired:
    """A rule that fired."""

    rule: str
    add: dict[str, float]
    because: str
    source: str


@dataclass(frozen=True)
class Decision:
    verdict: str
    raw: dict[str, float]  # points by approach, before bans
    banned: dict[str, str]  # approach -> why it is out of the question
    fired: tuple[Fired, ...]

    @property
    def scores(self) -> dict[str, float]:
        """0..1 by approach, best first: the logistic of half the points. Each stands alone; they need not sum to 1."""
        order = sorted(self.raw, key=lambda name: -self.raw[name])
        return {name: round(1 / (1 + math.exp(-self.raw[name] / 2)), 3) for name in order}

    @property
    def margin(self) -> float:
        """Points between the verdict and the next approach that is not banned."""
        others = [p for name, p in self.raw.items() if name != self.verdict and name not in self.banned]
        return self.raw[self.verdict] - max(others)


def gather(query: ApproachQuery) -> tuple[Facts, Reading]:
    """All that is known: the words' signals and facts, overridden by what was stated as a fact."""
    reading = read(query.task)
    facts: Facts = dict.fromkeys(reading.signals, True) | dict(reading.facts)
    for word, fact in (("format", "needs_format"), ("tone", "needs_tone")):
        facts[fact] = True if word in reading.signals else None
    if reading.signals & {"pairs", "thumbs"}:
        facts["preferences"] = "paired" if "pairs" in reading.signals else "unpaired"
    elif "judged_outputs" in reading.signals:
        paired = re.search(r"\b(?:two|both|between|better|best|compar\w+|rank\w*|pairs?)\b", query.task.lower())
        facts["preferences"] = "paired" if paired else "unpaired"
    if "strong_to_small" in reading.signals:
        facts["teacher"] = True
    facts["reasoning"] = True if "reasoning_task" in reading.signals or query.complexity == "high" else None
    stated = query.model_dump(exclude={"task", "dataset_path"}, exclude_none=True)
    renamed = {"verifiable_reward": "verifiable", "private_data": "private", "teacher_model": "teacher"}
    for name, value in stated.items():
        if name == "has_preferences":
            facts["preferences"] = (facts.get("preferences") or "unspecified") if value else None
        else:
            facts[renamed.get(name, name)] = value or None if name in renamed else value
    return facts, reading


def decide(facts: Facts) -> Decision:
    """Add up the rules. Pure and deterministic."""
    rules = table("rules")
    fired = tuple(
        Fired(rule["id"], rule["add"], rule["because"], source(rule["source"]))
        for rule in rules["rules"]
        if holds(rule["when"], facts) and not any(holds({k: v}, facts) for k, v in rule.get("unless", {}).items())
    )

    def points(target: str) -> float:
        return rules["base"].get(target, 0.0) + sum(rule.add.get(target, 0.0) for rule in fired)

    examples = facts.get("examples")
    # A reward or a teacher stands in for demonstrations: their lack then costs nothing.
    data = 0.0 if examples is None else curve("fine_tuning", examples)
    if facts.get("verifiable"):
        data = max(data, 0.0)
    knowledge, behaviour = points("knowledge"), points("behaviour")
    tuning = behaviour + data + points("fine_tuning")
    raw = {name: points(name) for name in rules["approaches"]}
    raw["fine_tuning"] = tuning
    raw["rag"] += knowledge
    raw["prompting"] += 0.0 if examples is None else curve("prompting", examples)
    raw["distillation"] += behaviour + max(data, 0.0) + points("fine_tuning")
    raw["preference_tuning"] += 0.5 * max(data, -1.0)
    raw["hybrid"] += _hybrid(knowledge, behaviour, data, rules["hybrid"])
    banned = {name: ban["because"] for ban in rules["bans"] if holds(ban["when"], facts) for name in ban["forbid"]}
    free = [name for name in rules["approaches"] if name not in banned]
    verdict = max(free, key=lambda name: (round(raw[name], 6), -free.index(name)))
    return Decision(verdict, raw, banned, fired)


def _hybrid(knowledge: float, behaviour: float, data: float, limits: dict[str, float]) -> float:
    """Both needs and some data: a bonus over the halves. Otherwise well below them."""
    skill = behaviour + data
    weaker = min(knowledge, skill)
    enough = (
        knowledge >= limits["min_knowledge"] and behaviour >= limits["min_behaviour"] and data >= limits["min_data"]
    )
    if not enough:
        return min(weaker, 0.0) - 1.0
    base = max(knowledge, skill) if knowledge >= limits["plain_knowledge"] else max(knowledge, weaker)
    return base + limits["bonus"]


@cache
def _knots(name: str) -> tuple[tuple[float, float], ...]:
    return tuple(sorted((float(x), float(y)) for x, y in table("rules")["data_curve"][name].items()))


def curve(name: str, examples: float) -> float:
    """Points for a number of examples: linear in log10(1 + n) between the table's knots, flat outside."""
    knots = _knots(name)
    if examples >= knots[-1][0]:
        return knots[-1][1]
    for (x0, y0), (x1, y1) in pairwise(knots):
        if examples <= x1:
            a, b, x = math.log10(1 + x0), math.log10(1 + x1), math.log10(1 + max(examples, 0))
            return y0 + (y1 - y0) * (x - a) / (b - a)
    return knots[-1][1]


def turning_answers(facts: Facts, decision: Decision) -> list[tuple[str, str, str, str]]:
    """Open questions whose answer would change the verdict: (fact, question, answer, new verdict).

    Found by trying every answer, not by a list of hunches.
    """
    out = []
    for item in table("rules")["questions"]:
        if facts.get(item["fact"]) is not None:
            continue
        for value, words in item["answers"].items():
            other = decide({**facts, item["fact"]: value}).verdict
            if other != decision.verdict:
                out.append((item["fact"], item["ask"], words, other))
    return out


def reversals(facts: Facts, decision: Decision) -> list[tuple[str, str]]:
    """What would have to be different for another verdict: known facts changed one at a time."""
    out = []
    for item in table("rules")["questions"]:
        now = facts.get(item["fact"])
        if now is None:
            continue
        for value, words in item["answers"].items():
            other = decide({**facts, item["fact"]: value}).verdict if value != now else decision.verdict
            if other != decision.verdict:
                out.append((f"{item['fact']} = {words}", other))
                break
    return out
