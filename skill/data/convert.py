"""convert_dataset: the rows that train.py reads, with every missing row accounted for in manifest.json."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

from skill.data.checks import key, question_of
from skill.data.conversation import Example
from skill.data.reading import data_files
from skill.data.render import canonical_rows
from skill.data.report import Manifest, SourceFile
from skill.data.source import Row, Source, require_trainable
from skill.data.validate import open_eval, question_keys
from skill.errors import DataError
from skill.gguf import sha256_of
from skill.spec import DataSpec
from skill.workspace import Workspace, write_json

SHOWN_ROWS = 20


def convert_dataset(ws: Workspace, data: DataSpec, out: Path, *, chat: bool, seed: int) -> Manifest:
    """Write train.jsonl, eval.jsonl and manifest.json into `out`, in the canonical form.

    Rows that cannot be trained on are left out, each counted by its code; so are training rows whose user messages
    occur in the held-out file (train_eval_leak). Without a held-out file, `data.eval_fraction` of the rows is split
    off by `seed`; rows with the same user messages stay on one side. Rows longer than max_length are train.py's to
    drop: it has the tokenizer. The same input and seed write the same bytes.

    Args:
        chat: message lists (the model has a chat template), else strings.

    Raises:
        DataError: unreadable, of no known format, nothing to train on, or nothing to hold out.
    """
    file = ws.read_path(data.train, what="training file")
    source = Source(file, columns=data.columns or None)
    require_trainable(source)
    eval_file = ws.read_path(data.eval, what="held-out file") if data.eval else None
    leaked = question_keys(eval_file, data.columns) if eval_file else set()
    out.mkdir(parents=True, exist_ok=True)

    tally = _Tally()
    questions = _questions(source, leaked, tally)
    if not questions:
        reasons = ", ".join(f"{code} {count}" for code, count in tally.dropped.most_common())
        raise DataError(
            f"{data.train!r} leaves nothing to train on: {tally.read} rows, dropped: {reasons}.",
            hint=f"Call validate_dataset with path={data.train!r} to see which rows and why.",
        )
    held_out = set() if eval_file else _held_out(questions, data.eval_fraction, seed)
    written = {"train.jsonl": 0, "eval.jsonl": 0}
    with _create(out / "train.jsonl") as train, _create(out / "eval.jsonl") as evaluation:
        for row in _kept(source, leaked):
            side, name = (evaluation, "eval.jsonl") if key(question_of(row)) in held_out else (train, "train.jsonl")
            written[name] += _write(row, side, chat=chat, system=data.system)
        if eval_file:
            eval_source = open_eval(eval_file, data.columns)
            require_trainable(eval_source)
            for row in _kept(eval_source, set()):
                written["eval.jsonl"] += _write(row, evaluation, chat=chat, system=data.system)
    if eval_file and not written["eval.jsonl"]:
        raise DataError(f"{data.eval!r} holds no usable row.", hint=f"Call validate_dataset with path={data.eval!r}.")
    if not written["eval.jsonl"]:
        (out / "eval.jsonl").unlink()
    names = [name for name, count in written.items() if count]
    origin: Literal["file", "split", "none"] = "file" if eval_file else "split" if held_out else "none"
    manifest = Manifest(
        sources=[_source_file(ws, part) for given in filter(None, (file, eval_file)) for part in data_files(given)],
        format=source.format.name,
        conversion=source.format.rule,
        rows_read=tally.read,
        rows_kept=tally.read - sum(tally.dropped.values()),
        rows_dropped=dict(tally.dropped),
        first_dropped=dict(tally.first),
        train_rows=written["train.jsonl"],
        eval_rows=written["eval.jsonl"],
        eval_source=origin,
        seed=seed,
        files={name: sha256_of(out / name) for name in names},
    )
    write_json(out / "manifest.json", manifest.model_dump())
    return manifest


class _Tally:
    """Rows read and dropped, by code."""

    def __init__(self) -> None:
        self.read = 0
        self.dropped: Counter[str] = Counter()
        self.first: defaultdict[str, list[int]] = defaultdict(list)

    def drop(self, code: str, row: int) -> None:
        self.dropped[code] += 1
        if len(self.first[code]) < SHOWN_ROWS:
            self.first[code].append(row)


def _questions(source: Source, leaked: set[bytes], tally: _Tally) -> Counter[bytes]:
    """First pass: how many rows each question has, counting what is dropped."""
    questions: Counter[bytes] = Counter()
    for row in source:
        tally.read += 1
        code = _fault(row, leaked)
        if code:
            tally.drop(code, row.number)
        elif row.example is not None:
            questions[key(question_of(row.example))] += 1
    return questions


def _fault(row: Row, leaked: set[bytes]) -> str:
    if row.example is None:
        return row.code
    return "train_eval_leak" if leaked and key(question_of(row.example)) in leaked else ""


def _kept(source: Source, leaked: set[bytes]) -> Iterator[Example]:
    for row in source:
        if row.example is not None and not _fault(row, leaked):
            yield row.example


def _held_out(questions: Counter[bytes], fraction: float, seed: int) -> set[bytes]:
    """Questions whose rows go to eval.jsonl: drawn by seed until the fraction is reached, never all of them."""
    if fraction == 0:
        return set()
    if len(questions) < 2:
        raise DataError(
            "All rows share one question, so none can be held out without leaking.",
            hint="Give a held-out file as data.eval, or set data.eval_fraction to 0 and "
            "training.load_best_model_at_end to false.",
        )
    order = sorted(questions)
    random.Random(seed).shuffle(order)
    wanted = max(1, round(fraction * questions.total()))
    chosen: set[bytes] = set()
    count = 0
    for question in order[:-1]:
        if count >= wanted:
            break
        if count and count + questions[question] > 1.5 * wanted:
            continue  # one question with very many rows would take the whole share
        chosen.add(question)
        count += questions[question]
    return chosen


def _create(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", newline="\n")


def _write(example: Example, file: IO[str], *, chat: bool, system: str | None) -> int:
    count = 0
    for row in canonical_rows(example, chat=chat, system=system):
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        count += 1
    return count


def _source_file(ws: Workspace, path: Path) -> SourceFile:
    shown = str(path.relative_to(ws.root)) if path.is_relative_to(ws.root) else str(path)
    return SourceFile(path=shown, sha256=sha256_of(path), bytes=path.stat().st_size)
