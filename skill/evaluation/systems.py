"""The two models of a comparison, loaded one after the other or one inside the other, and their answers on disk."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skill.evaluation.generate import Answer, Limits, answer_rows
from skill.inference import (
    Encoded,
    encode,
    fast_dtype,
    load_plain,
    load_tokenizer,
    load_trained_base,
    nll,
    stop_tokens,
    tokenizer_folder,
    with_adapter,
)
from skill.spec import RunSpec

BATCH = 32
TOKENS = BATCH * 2048  # of prompts in a batch: keys and values of long few-shot prompts fill memory


@dataclass(frozen=True)
class Answers:
    """One model's answers, by row; `texts` are decoded and stripped."""

    by_row: dict[int, Answer]
    texts: dict[int, str]
    tokens_per_s: float | None


class Pair:
    """Base and tuned, asked in turn. For LoRA both share one loaded base: it answers first, then the adapter is put in.
    With candidate "base" both are the base, and only their prompts differ.

    A QLoRA adapter is asked on the 4-bit base it was trained on, and compared with the base as its makers gave it.
    """

    def __init__(self, spec: RunSpec, base: Path, trained: Path, candidate: str, device: str) -> None:
        self.spec, self.base, self.trained, self.candidate, self.device = spec, base, trained, candidate, device
        whole = spec.method.type == "full" and candidate in ("model", "base")
        self.dtype = fast_dtype("bfloat16" if whole else spec.dtype, device)
        self.shares = candidate in ("adapter", "base") and spec.method.type not in ("qlora", "full")
        self._model: Any = None

    def tokenizer(self, which: str) -> Any:
        is_base = "base" in (which, self.candidate)
        return load_tokenizer(self.base if is_base else tokenizer_folder(self.trained, self.base))

    def load(self, which: str) -> Any:
        """The model `base` or `tuned`; at most one set of weights is held, so ask for base first."""
        if "base" in (which, self.candidate):
            model, self._model = self._model, None
            if model is None and self.shares:
                model = self._cast(load_trained_base(self.spec, self.base, self.device))
            elif model is None:
                model = self._cast(load_plain(self.base, self.dtype, self.device))
            if self.shares or self.candidate == "base":
                self._model = model
            return model
        if self.candidate != "adapter":
            return self._cast(load_plain(self.trained, self.dtype, self.device))
        model, self._model = self._model, None
        if model is None:
            model = self._cast(load_trained_base(self.spec, self.base, self.device))
        return self._cast(with_adapter(model, self.trained))

    def _cast(self, model: Any) -> Any:
        import torch

        return model.to(getattr(torch, self.dtype)).eval()

    def fingerprint(self, which: str) -> str:
        """Changes with the weights of `which` and with what they compute in."""
        is_base = "base" in (which, self.candidate)  # then what it will be compared with changes no answer
        folders = [self.base] if is_base else [self.base, self.trained]
        files = [
            file
            for folder in folders
            for pattern in ("*.safetensors", "*.json")
            for file in sorted(folder.glob(pattern))
        ]
        made = ["base", self.shares] if is_base else [which, self.candidate]
        facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return hashlib.sha256(json.dumps([made, self.dtype, self.device, facts]).encode()).hexdigest()


class Store:
    """Answers of one model kept line by line, so that an interrupted evaluation goes on where it was."""

    def __init__(self, folder: Path, which: str, facts: Iterable[Any]) -> None:
        digest = hashlib.sha256(json.dumps(list(facts), default=str).encode()).hexdigest()[:16]
        self.path = folder / f"{which}-{digest}.jsonl"
        for old in folder.glob(f"{which}-*.jsonl"):
            if old != self.path:
                old.unlink(missing_ok=True)

    def load(self) -> dict[int, Answer]:
        found: dict[int, Answer] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []:
            try:
                value = json.loads(line)
                found[value["row"]] = Answer(**{**value, "ids": tuple(value["ids"])})
            except (ValueError, TypeError, KeyError):
                continue  # the line that a kill cut short
        return found

    def add(self, answers: Iterable[Answer]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(dataclasses.asdict(answer)) + "\n" for answer in answers))


def ask(
    pair: Pair,
    which: str,
    rows: list[tuple[int, dict[str, Any]]],
    max_new_tokens: int,
    store_in: Path,
    progress: Callable[[int], None],
    *,
    name: str | None = None,
) -> Answers:
    """Answers of `base` or `tuned` to the rows; those already in the store are not asked again.

    Args:
        name: under which the answers are kept; default: `which`.
        progress: called with the number of rows answered so far.
    """
    tokenizer = pair.tokenizer(which)
    examples = [encode(tokenizer, row, index) for index, row in rows]
    ids = hashlib.sha256(json.dumps([(e.row, e.prompt, e.full) for e in examples]).encode()).hexdigest()
    store = Store(store_in, name or which, [pair.fingerprint(which), ids, max_new_tokens])
    have = store.load()
    todo = [example for example in examples if example.row not in have]
    speed = None
    model = pair.load(which) if todo else None
    if todo:
        stop = stop_tokens(tokenizer, model, examples)
        limits = Limits(max_new_tokens, batch_size(todo), stop, tokenizer.pad_token_id)
        started, count = time.perf_counter(), len(have)

        def done(batch: list[Answer]) -> None:
            nonlocal count
            store.add(batch)
            count += len(batch)
            progress(count)

        virtual = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
        answers = (answer_with_peft if virtual else answer_rows)(model, todo, limits, done=done)
        generated = sum(len(answer.ids) + answer.stopped for answer in answers)
        speed = round(generated / (time.perf_counter() - started), 1)
        have |= {answer.row: answer for answer in answers}
    del model
    gc.collect()
    progress(len(examples))
    texts = {row: tokenizer.decode(list(answer.ids), skip_special_tokens=True).strip() for row, answer in have.items()}
    return Answers(have, texts, speed)


def batch_size(examples: list[Encoded]) -> int:
    """Rows asked together: fewer when their prompts are long."""
    return max(1, min(BATCH, TOKENS // max(1, *(len(example.prompt) for example in examples))))


def answer_with_peft(
    model: Any, examples: list[Encoded], limits: Limits, *, done: Callable[[list[Answer]], None] | None = None
) -> list[Answer]:
    """The same for prefix and prompt tuning, whose own keys and values only PEFT's generate puts in place."""
    import torch

    from skill.evaluation.generate import batches

    answers: dict[int, Answer] = {}
    with torch.inference_mode():
        for batch in batches(examples, limits, model.config.get_text_config().vocab_size):
            width = max(len(example.prompt) for example in batch)
            ids = torch.full((len(batch), width), limits.pad, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for line, example in enumerate(batch):
                ids[line, width - len(example.prompt) :] = torch.tensor(example.prompt)
                mask[line, width - len(example.prompt) :] = 1
            made = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), do_sample=False,
                max_new_tokens=limits.max_new_tokens, eos_token_id=sorted(limits.stop), pad_token_id=limits.pad,
            )  # fmt: skip
            losses = nll(model, batch, pad=limits.pad)
            found = []
            for line, example in enumerate(batch):
                own = made[line, width:].tolist()
                end = next((place for place, token in enumerate(own) if token in limits.stop), None)
                found.append(Answer(example.row, tuple(own[:end]), end is not None, *losses[line]))
            answers.update({answer.row: answer for answer in found})
            if done:
                done(found)
    return [answers[example.row] for example in examples]
