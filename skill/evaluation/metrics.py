"""Scores of one answer against its reference, from 0 to 1, and the choice of a metric by looking at the references."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Score = Callable[[str, str], float]


@dataclass(frozen=True)
class Metric:
    """`score(answer, reference)`; binary metrics give 0 or 1 and are tested by McNemar."""

    name: str
    what: str
    binary: bool
    score: Score


def normalise(text: str) -> str:
    """Unicode NFKC, case folded, whitespace collapsed, outer quotes and the final full stop dropped."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return text.strip("\"'` ").rstrip(".").strip()


def exact_match(answer: str, reference: str) -> float:
    return float(answer.strip() == reference.strip())


def normalised_match(answer: str, reference: str) -> float:
    return float(normalise(answer) == normalise(reference))


def parse_json(text: str) -> tuple[bool, Any]:
    """(is valid JSON, its value); one Markdown code fence around it is allowed. NaN and Infinity are not JSON."""
    text = text.strip()
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?```", text, re.DOTALL)
    try:
        return True, json.loads(fenced.group(1) if fenced else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False, None


def _refuse(name: str) -> Any:
    raise ValueError(name)


def json_match(answer: str, reference: str) -> float:
    """Same parsed value: key order and spacing do not count."""
    return float(_same(parse_json(answer), parse_json(reference)))


def json_valid(answer: str, reference: str) -> float:
    return float(parse_json(answer)[0])


def _same(left: tuple[bool, Any], right: tuple[bool, Any]) -> bool:
    return left[0] and right[0] and canonical(left[1]) == canonical(right[1])


def canonical(value: Any) -> str:
    """One text for equal JSON values: keys sorted, true and 1 kept apart, 1 and 1.0 not."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(item) for item in value) + "]"
    return json.dumps(value)


def json_fields(answer: str, reference: str) -> float:
    """F1 over (field, value) pairs of two JSON objects: missing and invented fields both cost."""
    valid, value = parse_json(answer)
    _, wanted = parse_json(reference)
    if not valid or not isinstance(value, dict) or not isinstance(wanted, dict):
        return json_match(answer, reference)
    if not value and not wanted:
        return 1.0
    equal = sum(key in value and canonical(value[key]) == canonical(wanted[key]) for key in wanted)
    return 2 * equal / (len(value) + len(wanted))


def number_match(answer: str, reference: str) -> float:
    """The final number is equal: the one after `####` (GSM8K), else the last in the text."""
    ours, theirs = final_number(answer), final_number(reference)
    return float(ours is not None and theirs is not None and math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-9))


def final_number(text: str) -> float | None:
    tail = text.rsplit("####", 1)[-1] if "####" in text else text
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", tail)
    if not found:
        return None
    return float((found[0] if "####" in text else found[-1]).replace(",", ""))


def words(text: str) -> list[str]:
    """Words and single signs; each CJK character counts as a word."""
    return re.findall(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+|[^\w\s]", normalise(text))


def token_f1(answer: str, reference: str) -> float:
    """F1 over the bags of words (as SQuAD, without dropping articles)."""
    ours, theirs = words(answer), words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004)."""
    ours, theirs = words(answer), words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    row = [0] * (len(theirs) + 1)
    for word in ours:
        diagonal = 0
        for place, other in enumerate(theirs, start=1):
            above = row[place]
            row[place] = diagonal + 1 if word == other else max(above, row[place - 1])
            diagonal = above
    return 2 * row[-1] / (len(ours) + len(theirs))


def chrf(answer: str, reference: str, *, order: int = 6, beta: float = 2.0) -> float:
    """chrF (Popović 2015) of one pair: mean over n of character n-gram precision and recall, F with beta 2.

    Equal to sacrebleu's sentence chrF with effective order (tests/evaluation).
    """
    ours, theirs = "".join(answer.split()), "".join(reference.split())
    precisions, recalls = [], []
    for n in range(1, order + 1):
        mine = Counter(ours[i : i + n] for i in range(len(ours) - n + 1))
        other = Counter(theirs[i : i + n] for i in range(len(theirs) - n + 1))
        if not mine or not other:
            continue
        common = sum((mine & other).values())
        precisions.append(common / mine.total())
        recalls.append(common / other.total())
    if not precisions:
        return float(ours == theirs)
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    if precision + recall == 0:
        return 0.0
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("exact_match", "the text is the same", True, exact_match),
        Metric("normalised_match", "the same but for case, spacing and a final full stop", True, normalised_match),
        Metric("json_match", "the parsed JSON is the same", True, json_match),
        Metric("json_valid", "the answer is JSON, whatever its value", True, json_valid),
        Metric("json_fields", "F1 over the fields of the JSON object", False, json_fields),
        Metric("number_match", "the final number is the same", True, number_match),
        Metric("token_f1", "F1 over words", False, token_f1),
        Metric("rouge_l", "ROUGE-L: longest common subsequence of words", False, rouge_l),
        Metric("chrf", "chrF: character n-grams", False, chrf),
    )
}


def choose_metric(references: Sequence[str]) -> tuple[str, str]:
    """(metric, reason), by what the references are. A reference out of twenty may be different."""
    count = len(references)
    most = 0.95 * count
    parsed = [parse_json(text) for text in references]
    if sum(valid and isinstance(value, dict | list) for valid, value in parsed) >= most:
        return "json_match", "the references are JSON: an answer is right when it parses to the same value"
    if sum("####" in text and final_number(text) is not None for text in references) >= most:
        return (
            "number_match",
            "the references end in '#### number': an answer is right when its final number is the same",
        )
    lengths = [len(words(text)) for text in references]
    distinct = len({normalise(text) for text in references})
    short = sum(length <= 6 for length in lengths) >= most
    if short and count >= 8 and distinct <= max(2, count / 2):
        return "normalised_match", f"the references are {distinct} short labels: classification accuracy"
    if short:
        return "normalised_match", "the references are short: an answer is right when it is the same text"
    return "token_f1", "the references are free text: overlap in words; it says little about meaning"


ALSO = {
    "json_match": ("json_valid", "json_fields"),
    "json_fields": ("json_valid", "json_match"),
    "token_f1": ("rouge_l", "chrf"),
    "rouge_l": ("token_f1", "chrf"),
    "chrf": ("token_f1", "rouge_l"),
    "number_match": ("exact_match",),
}
"""Metrics shown beside the chosen one."""


def label_scores(metric: str, answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Macro-F1 where the references are labels."""
    labels = len({normalise(text) for text in references})
    if metric in ("normalised_match", "exact_match") and labels <= max(2, len(references) / 2):
        return {"macro_f1": macro_f1(answers, references)}
    return {}


def macro_f1(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean over the labels of the references of each label's F1; an answer that is no label counts as wrong."""
    ours, theirs = [normalise(text) for text in answers], [normalise(text) for text in references]
    scores = []
    for label in sorted(set(theirs)):
        hit = sum(a == label == r for a, r in zip(ours, theirs, strict=True))
        scores.append(2 * hit / (ours.count(label) + theirs.count(label)))
    return sum(scores) / max(len(scores), 1)
