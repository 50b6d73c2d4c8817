"""Answers and losses of a model, in one pass over the rows.

What costs on a CPU is tokens through the model, so each is sent once: the tokens that all prompts begin with are
computed once and shared; a prompt's keys and values serve both the loss of its reference and the generation; rows that
have stopped leave the batch. Prompts are padded on the left, so that all answers start at the same column.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from skill.inference import Encoded, nll

LOGITS_BYTES = 512 * 2**20  # of the references' logits held at once


@dataclass(frozen=True)
class Answer:
    """What a model said to one row. `nll` is the sum over the `tokens` reference tokens, in nats."""

    row: int
    ids: tuple[int, ...]  # without the stop token
    stopped: bool  # ended by itself, not by the limit
    nll: float
    tokens: int


@dataclass(frozen=True)
class Limits:
    max_new_tokens: int
    batch_size: int
    stop: frozenset[int]
    pad: int


def answer_rows(
    model: Any, examples: Sequence[Encoded], limits: Limits, *, done: Callable[[list[Answer]], None] | None = None
) -> list[Answer]:
    """Greedy answers and reference losses of all rows, in the order given.

    Args:
        model: a causal language model from transformers or PEFT, in eval mode.
        done: called with each finished batch.
    """
    import torch

    answers: dict[int, Answer] = {}
    with torch.inference_mode():
        shared = _Shared.of(model, examples)
        for batch in batches(examples, limits, model.config.get_text_config().vocab_size):
            found = _Batch(model, batch, shared, limits).run()
            answers.update({answer.row: answer for answer in found})
            if done:
                done(found)
    return [answers[example.row] for example in examples]


def batches(examples: Sequence[Encoded], limits: Limits, vocab: int) -> Iterator[list[Encoded]]:
    """Rows of similar prompt length together, the longest first: memory shows its peak at once."""
    order = sorted(examples, key=lambda example: (-len(example.prompt), example.row))
    longest = max((len(example.completion) for example in examples), default=1)
    room = max(1, LOGITS_BYTES // (4 * vocab * max(1, longest)))
    size = min(limits.batch_size, room)
    for first in range(0, len(order), size):
        yield order[first : first + size]


def new_token_limit(examples: Sequence[Encoded]) -> int:
    """Room for an answer a quarter longer than the longest reference, and 8 tokens; at most 512."""
    longest = max(len(example.completion) for example in examples)
    return min(512, math.ceil(1.25 * longest) + 8)


@dataclass(frozen=True)
class _Shared:
    """The tokens that all prompts begin with, and their keys and values (batch of one)."""

    length: int
    layers: list[tuple[Any, Any]]

    @classmethod
    def of(cls, model: Any, examples: Sequence[Encoded]) -> _Shared:
        import torch
        from transformers import DynamicCache

        prompts = [example.prompt for example in examples]
        first, last = min(prompts), max(prompts)  # in lexical order, these two share the least
        length = next(
            (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
        )
        length = min(length, min(len(prompt) for prompt in prompts) - 1)  # a token must be left to predict from
        if length < 8 or not _plain_cache(model):
            return cls(0, [])
        cache: Any = DynamicCache()
        ids = torch.tensor([first[:length]], device=model.device)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cls(length, [(layer.keys, layer.values) for layer in cache.layers])


def _plain_cache(model: Any) -> bool:
    """Whether keys and values of all layers are kept whole (no sliding window, no recurrent state)."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and not getattr(config, "sliding_window", None)


class _Batch:
    def __init__(self, model: Any, examples: list[Encoded], shared: _Shared, limits: Limits) -> None:
        self.model, self.examples, self.shared, self.limits = model, examples, shared, limits

    def run(self) -> list[Answer]:
        import torch
        from transformers import DynamicCache

        device, count, skip = self.model.device, len(self.examples), self.shared.length
        width = max(len(example.prompt) for example in self.examples) - skip
        ids = torch.full((count, width), self.limits.pad, dtype=torch.long, device=device)
        mask = torch.ones((count, skip + width), dtype=torch.long, device=device)
        for line, example in enumerate(self.examples):
            own = example.prompt[skip:]
            ids[line, width - len(own) :] = torch.tensor(own, device=device)
            mask[line, skip : skip + width - len(own)] = 0
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self.shared.layers):
            cache.update(keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1), index)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, skip:]
        logits = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        losses = self._losses(logits, mask, cache)
        return self._decode(logits, mask, cache, losses)

    def _losses(self, first: Any, mask: Any, cache: Any) -> list[tuple[float, int]]:
        """Loss of each reference, from the prompt's keys and values; the cache is put back as it was."""
        import torch

        out: list[tuple[float, int]] = [(0.0, 0)] * len(self.examples)
        if not _plain_cache(self.model):
            return nll(self.model, self.examples, pad=self.limits.pad, batch_size=self.limits.batch_size)
        apart = [line for line, example in enumerate(self.examples) if not example.aligned]
        if apart:  # the loss has another context than the prompt: computed on its own
            lone = nll(self.model, [self.examples[line] for line in apart], pad=self.limits.pad)
            out = [lone[apart.index(line)] if line in apart else value for line, value in enumerate(out)]
        width = max((len(e.completion) for e in self.examples if e.aligned), default=0) - 1
        logits, more = first[:, None], None
        if width > 0:
            length = mask.shape[1]
            ids = torch.full((len(self.examples), width), self.limits.pad, dtype=torch.long, device=mask.device)
            part = torch.zeros_like(ids)
            for line, example in enumerate(self.examples):
                if example.aligned:
                    own = example.completion[:-1]
                    ids[line, : len(own)] = torch.tensor(own, device=mask.device)
                    part[line, : len(own)] = 1
            both = torch.cat([mask, part], dim=1)
            positions = (both.cumsum(-1) - 1)[:, length:]
            more = self.model(
                input_ids=ids, attention_mask=both, position_ids=positions, past_key_values=cache, use_cache=True
            ).logits
            cache.crop(-width)
        for line, example in enumerate(self.examples):
            if example.aligned and example.completion:
                target = torch.tensor(example.completion, device=mask.device)
                rows = logits[line] if more is None else torch.cat([logits[line], more[line, : len(target) - 1]])
                loss = torch.nn.functional.cross_entropy(rows.float(), target, reduction="sum")
                out[line] = (float(loss.double()), len(target))
        return out

    def _decode(self, logits: Any, mask: Any, cache: Any, losses: list[tuple[float, int]]) -> list[Answer]:
        import torch

        device = mask.device
        made: list[list[int]] = [[] for _ in self.examples]
        stopped = [False] * len(self.examples)
        alive = list(range(len(self.examples)))
        position = mask.sum(-1)
        stop = torch.tensor(sorted(self.limits.stop), device=device)
        for step in range(self.limits.max_new_tokens):
            token = logits.argmax(-1)
            ended = torch.isin(token, stop).tolist()
            for place, line in enumerate(alive):
                if ended[place]:
                    stopped[line] = True
                else:
                    made[line].append(int(token[place]))
            if any(ended):
                keep = [place for place, over in enumerate(ended) if not over]
                alive = [alive[place] for place in keep]
                if not alive:
                    break
                chosen = torch.tensor(keep, device=device)
                token, mask, position = token[chosen], mask[chosen], position[chosen]
                cache.batch_select_indices(chosen)
            if step + 1 == self.limits.max_new_tokens:
                break
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
            logits = self.model(
                input_ids=token[:, None], attention_mask=mask, position_ids=position[:, None], past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]  # fmt: skip
            position = position + 1
        return [
            Answer(example.row, tuple(made[line]), stopped[line], *losses[line])
            for line, example in enumerate(self.examples)
        ]


def tokens_per_second(answers: Sequence[Answer], started: float) -> float:
    """Generated tokens a second of wall time since `started` (time.perf_counter)."""
    return sum(len(answer.ids) + answer.stopped for answer in answers) / max(time.perf_counter() - started, 1e-9)
