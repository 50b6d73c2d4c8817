"""Held-out rows that are not held out: the same question in the training data."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from skill.inference import read_rows

SHINGLE = 5  # words
NEAR = 0.9  # Jaccard similarity of word 5-grams from which two prompts count as near duplicates


def split_leaked(
    rows: list[dict[str, Any]], train: Path
) -> tuple[list[tuple[int, dict[str, Any]]], list[int], list[int]]:
    """(kept rows with their index, indices found in `train` and left out, indices of near duplicates, kept).

    A row leaks when its prompt, normalised, is a prompt of the training data; where prompts do not tell rows apart
    (fewer than half of them are distinct), when prompt and answer are.
    Near duplicates stay: rows made from one template are near duplicates and yet different questions.
    """
    by_prompt = len({key(row, whole=False) for row in rows}) >= len(rows) / 2
    known: set[bytes] = set()
    owners: dict[int, list[int]] = {}
    shingles = [_shingles(row) for row in rows]
    for index, own in enumerate(shingles):
        for shingle in own:
            owners.setdefault(shingle, []).append(index)
    near: set[int] = set()
    for row in read_rows(train) if train.is_file() and train.stat().st_size else []:
        known.add(key(row, whole=not by_prompt))
        near |= _near(_shingles(row), shingles, owners)
    leaked = [index for index, row in enumerate(rows) if key(row, whole=not by_prompt) in known]
    gone = set(leaked)
    return [(i, row) for i, row in enumerate(rows) if i not in gone], leaked, sorted(near - gone)


def key(row: Mapping[str, Any], *, whole: bool) -> bytes:
    """Digest of a row's normalised prompt (and answer)."""
    parts = [*_turns(row["prompt"]), *(_turns(row["completion"]) if whole else ())]
    return hashlib.blake2b("\x1f".join(_plain(part) for part in parts).encode(), digest_size=16).digest()


def _turns(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [f"{turn['role']}\x1e{turn['content']}" for turn in value]


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _shingles(row: Mapping[str, Any]) -> frozenset[int]:
    turns = (
        [row["prompt"]]
        if isinstance(row["prompt"], str)
        else [t["content"] for t in row["prompt"] if t["role"] != "system"]
    )
    found = _plain(" ".join(turns)).split()
    return frozenset(hash(tuple(found[i : i + SHINGLE])) for i in range(max(1, len(found) - SHINGLE + 1)))


def _near(own: frozenset[int], others: list[frozenset[int]], owners: Mapping[int, Iterable[int]]) -> set[int]:
    shared: dict[int, int] = {}
    for shingle in own:
        for index in owners.get(shingle, ()):
            shared[index] = shared.get(index, 0) + 1
    return {i for i, count in shared.items() if count >= NEAR * (len(own) + len(others[i]) - count)}
