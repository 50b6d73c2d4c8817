"""The cheap alternative that a fine-tune has to beat: training examples in the prompt of the base."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skill.evaluation.systems import Answers
from skill.inference import encode, read_rows

SEPARATORS = ("\n\n", "\n\n###\n\n")  # between text blocks: the first that no answer holds
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Examples:
    """Training rows to put before each question; `indices` are their lines in data/train.jsonl, from 0."""

    indices: tuple[int, ...]
    rows: tuple[Row, ...]
    separator: str = SEPARATORS[0]

    def before(self, row: Row) -> dict[str, Any]:
        """The row with the examples in its prompt: as turns after the row's own system message, or as text blocks."""
        if isinstance(row["prompt"], str):
            blocks = [example["prompt"] + example["completion"] for example in self.rows]
            return {**row, "prompt": self.separator.join([*blocks, row["prompt"]])}
        turns = [turn for example in self.rows for turn in _spoken(example["prompt"]) + list(example["completion"])]
        return {**row, "prompt": [*_system(row["prompt"]), *turns, *_spoken(row["prompt"])]}


def draw(train: Path, count: int, seed: int, rows: Sequence[Row]) -> tuple[Examples, list[str]]:
    """`count` training rows, the same for every question, and what a reader should know about them.

    Args:
        rows: the questions; their references decide how text blocks are separated.
    """
    known = read_rows(train)
    indices = random.Random(seed).sample(range(len(known)), min(count, len(known)))
    chosen = tuple(known[index] for index in indices)
    notes = []
    if len(chosen) < count:
        notes.append(f"The training data has only {len(chosen)} rows: as many examples are in the prompt.")
    separator = SEPARATORS[0]
    if isinstance(rows[0]["prompt"], str):
        answers = [row["completion"].strip() for row in (*chosen, *rows)]
        separator = next((mark for mark in SEPARATORS if not any(mark in text for text in answers)), SEPARATORS[-1])
    elif other := sum(_system(example["prompt"]) != _system(rows[0]["prompt"]) for example in chosen):
        notes.append(f"{other} examples have another system message than the questions; it is not in the prompt.")
    return Examples(tuple(indices), chosen, separator), notes


def fit(
    examples: Examples, tokenizer: Any, rows: Sequence[Row], new_tokens: int, positions: int | None
) -> tuple[Examples, list[str]]:
    """The examples that leave the longest question room for its answer within the model's positions; the longest
    example goes first. With a warning when some had to go."""

    def need(row: Row) -> int:
        encoded = encode(tokenizer, row)
        return max(len(encoded.prompt) + new_tokens, len(encoded.full))

    if positions is None or not examples.rows:
        return examples, []
    longest, kept = max(rows, key=need), examples
    while kept.rows and need(kept.before(longest)) > positions:
        drop = max(range(len(kept.rows)), key=lambda place: len(str(kept.rows[place])))
        kept = dataclasses.replace(
            kept,
            indices=kept.indices[:drop] + kept.indices[drop + 1 :],
            rows=kept.rows[:drop] + kept.rows[drop + 1 :],
        )
    if len(kept.rows) == len(examples.rows):
        return kept, []
    return kept, [
        f"Only {len(kept.rows)} of {len(examples.rows)} examples fit the model's {positions} positions beside the "
        "longest question and its answer."
    ]


def cut(answers: Answers, separator: str, tokenizer: Any) -> Answers:
    """Answers of a text prompt up to the separator, which ends a block: a base that has seen blocks goes on with the
    next one, which is no part of its answer."""
    by_row, texts = dict(answers.by_row), dict(answers.texts)
    for row, answer in answers.by_row.items():
        said = tokenizer.decode(list(answer.ids), skip_special_tokens=True)
        own = said.lstrip()
        if separator not in own:
            continue
        texts[row] = own.partition(separator)[0].strip()
        size = next(
            n for n in range(1, len(answer.ids) + 1)
            if separator in tokenizer.decode(list(answer.ids[:n]), skip_special_tokens=True).lstrip()
        )  # fmt: skip
        by_row[row] = dataclasses.replace(answer, ids=answer.ids[: size - 1], stopped=True)
    return dataclasses.replace(answers, by_row=by_row, texts=texts)


def counted(number: int, noun: str) -> str:
    """`1 example`, `4 examples`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _system(turns: Sequence[Row]) -> list[Row]:
    return [turn for turn in turns if turn["role"] == "system"]


def _spoken(turns: Sequence[Row]) -> list[Row]:
    return [turn for turn in turns if turn["role"] != "system"]
