"""From two sets of answers to a verdict: scores, intervals, samples, warnings."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from skill.evaluation.compare import Comparison, compare, mean_interval, ratio_interval
from skill.evaluation.generate import Answer
from skill.evaluation.metrics import ALSO, METRICS, Metric, choose_metric, label_scores, words
from skill.evaluation.report import Contrast, Loss, Sample, Side
from skill.evaluation.systems import Answers
from skill.runs.logs import clean

SAMPLES = 3  # gains, and as many regressions
TEXT = 600  # characters of a text in a sample


def pick_metric(name: str, references: Sequence[str]) -> tuple[Metric, str]:
    """The named metric, or the one the references ask for, and why."""
    if name != "auto":
        return METRICS[name], "named by the caller"
    chosen, reason = choose_metric(references)
    return METRICS[chosen], reason


def choose_rows(rows: list[Any], limit: int, seed: int) -> list[Any]:
    """At most `limit` rows, drawn with a seed, in their old order."""
    if len(rows) <= limit:
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def reference_of(row: dict[str, Any]) -> str:
    completion = row["completion"]
    return (completion if isinstance(completion, str) else "".join(turn["content"] for turn in completion)).strip()


def question_of(row: dict[str, Any]) -> str:
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt if turn["role"] != "system")


def score(metric: Metric, answers: Answers, rows: list[tuple[int, dict[str, Any]]]) -> list[float]:
    return [metric.score(answers.texts[index], reference_of(row)) for index, row in rows]


def side(metric: Metric, answers: Answers, rows: list[tuple[int, dict[str, Any]]]) -> Side:
    own = [answers.by_row[index] for index, _ in rows]
    texts = [answers.texts[index] for index, _ in rows]
    extra = label_scores(metric.name, texts, [reference_of(row) for _, row in rows])
    return Side(
        stop_rate=round(sum(answer.stopped for answer in own) / len(own), 4),
        mean_answer_tokens=round(sum(len(answer.ids) for answer in own) / len(own), 1),
        repetition_rate=round(sum(repeats(text) for text in texts) / len(texts), 4),
        tokens_per_s=answers.tokens_per_s,
        scores={name: round(value, 4) for name, value in extra.items()},
    )


def repeats(text: str) -> bool:
    """Whether at least half of the word 4-grams of a text occurred before in it."""
    found = words(text)
    grams = [tuple(found[i : i + 4]) for i in range(len(found) - 3)]
    return len(grams) >= 8 and len(set(grams)) <= len(grams) / 2


def losses(base: Sequence[Answer], tuned: Sequence[Answer], seed: int) -> Loss:
    """Token-weighted losses of the references under both models, and the interval of their difference."""
    tokens = np.array([answer.tokens for answer in base], dtype=float)
    tokens_tuned = np.array([answer.tokens for answer in tuned], dtype=float)
    before, after = np.array([a.nll for a in base]), np.array([a.nll for a in tuned])
    low, high = ratio_interval(before, tokens, after, tokens_tuned, seed=seed)
    mean = before.sum() / tokens.sum(), after.sum() / tokens_tuned.sum()
    return Loss(
        base=round(mean[0], 5),
        tuned=round(mean[1], 5),
        difference=round(mean[1] - mean[0], 5),
        ci95=(round(low, 5), round(high, 5)),
        base_perplexity=float(f"{math.exp(min(mean[0], 50)):.5g}"),
        tuned_perplexity=float(f"{math.exp(min(mean[1], 50)):.5g}"),
    )


def judge(
    metric: Metric,
    base: Answers,
    tuned: Answers,
    rows: list[tuple[int, dict[str, Any]]],
    seed: int,
    names: tuple[str, str],
) -> tuple[Comparison, list[Sample]]:
    """The comparison and the rows that show it: best gains and worst regressions in turn."""
    before, after = score(metric, base, rows), score(metric, tuned, rows)
    order = sorted(range(len(rows)), key=lambda i: after[i] - before[i])
    gains = [i for i in reversed(order) if after[i] > before[i]][:SAMPLES]
    regressions = [i for i in order if after[i] < before[i]][:SAMPLES]
    same = [i for i in range(len(rows)) if after[i] == before[i]]
    chosen = [i for pair in zip(gains, regressions, strict=False) for i in pair]
    rest = gains[len(regressions) :] + regressions[len(gains) :]
    chosen = [*chosen, *rest, *same[: max(0, SAMPLES - len(chosen) - len(rest))]]
    samples = []
    for i in chosen:
        index, row = rows[i]
        samples.append(
            Sample(
                row=index,
                kind="gain" if after[i] > before[i] else "regression" if after[i] < before[i] else "same",
                prompt=shown(question_of(row)),
                reference=shown(reference_of(row)),
                base=shown(base.texts[index]),
                tuned=shown(tuned.texts[index]),
                base_score=round(before[i], 4),
                tuned_score=round(after[i], 4),
            )
        )
    return compare(before, after, binary=metric.binary, seed=seed, names=names), samples


def contrasts(
    metric: Metric, base: Answers, tuned: Answers, rows: list[tuple[int, dict[str, Any]]], seed: int
) -> dict[str, Contrast]:
    """The metrics that belong beside the chosen one."""
    out = {}
    for name in ALSO.get(metric.name, ()):
        before, after = (np.array(score(METRICS[name], answers, rows)) for answers in (base, tuned))
        low, high = mean_interval(after - before, seed=seed)
        out[name] = Contrast(
            base=round(float(before.mean()), 4),
            tuned=round(float(after.mean()), 4),
            difference=round(float((after - before).mean()), 4),
            ci95=(round(low, 4), round(high, 4)),
        )
    return out


def shown(text: str) -> str:
    """Untrusted text in one line without controls, cut."""
    return clean(" ⏎ ".join(line for line in text.replace("\r", "\n").split("\n") if line.strip()), limit=TEXT)


def warnings(
    comparison: Comparison, tuned: Side, base: Side, loss: Loss, leaked: int, near: int, limit: int, *, trained: bool
) -> list[str]:
    """What a reader of the verdict should know; `trained`: the second side is a model that was trained."""
    who = "The tuned model" if trained else "The base with examples"
    out = []
    if comparison.n < 50:
        out.append(
            f"{comparison.n} rows are few: only differences from {comparison.minimum_detectable_effect:.2f} show."
        )
    if leaked:
        out.append(f"{leaked} held-out rows are also in the training data and were left out.")
    if near:
        out.append(f"{near} held-out rows are nearly the same question as a training row; they were kept.")
    if tuned.stop_rate < 0.9:
        out.append(
            f"{who} ended only {tuned.stop_rate:.0%} of its answers within {limit} tokens: "
            + ("check that the end-of-turn token was trained (validate_dataset), or " if trained else "")
            + "raise max_new_tokens."
        )
    if tuned.repetition_rate > max(0.05, base.repetition_rate):
        out.append(f"{who} repeats itself in {tuned.repetition_rate:.0%} of its answers.")
    if comparison.verdict == "better" and loss.ci95[0] > 0:
        out.append("The metric rose but the loss of the references rose too: read the samples.")
    return out
