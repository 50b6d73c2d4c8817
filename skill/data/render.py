"""Which tokens of a row are trained: the model's own template and tokenizer, and the mask TRL's SFTTrainer computes.

TRL 1.16 (SFTTrainer._prepare_dataset, prompt/completion): a conversation is rendered twice, the prompt alone with the
generation prompt and the whole; both are tokenised, and what follows their common prefix is trained. Plain strings get
the tokenizer's special tokens, and the end-of-sequence token after the completion. The same is done here with
`tokenizers` and Jinja alone (no torch in this process), once equality with transformers is proved for the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from skill.data.conversation import Example, as_chat
from skill.data.engine import FastEngine, SlowEngine, engine_for
from skill.models import ModelInfo

# Conversations on which the shorter way to a mask must give TRL's before it is used alone.
CUT_PROOF_ROWS = 64
# A row as it is written to data/*.jsonl: prompt and completion as message lists, or both as strings.
CanonicalRow = dict[str, Any]


def canonical_rows(example: Example, *, chat: bool, system: str | None = None) -> Iterator[CanonicalRow]:
    """The rows an example becomes: one an assistant turn that is to be trained, each with all that came before it.

    Args:
        chat: message lists for a model with a chat template, else strings.
        system: system message for conversations without one.
    """
    if not chat and not example.is_chat:
        prompt = f"{system.strip()}\n\n{example.prompt}" if system and system.strip() else example.prompt
        yield {"prompt": prompt if example.prompt else "", "completion": example.completion}
        return
    example = as_chat(example, system)
    if not example.is_chat:  # a text: no turns, the whole of it is trained
        yield {"prompt": "", "completion": example.completion}
        return
    messages = [{"role": m["role"], "content": m["content"]} for m in example.messages]
    for index, message in enumerate(example.messages):
        if message["role"] == "assistant" and message.get("weight") != 0:
            row: CanonicalRow = {"prompt": messages[:index], "completion": [messages[index]]}
            yield row if chat else _as_strings(row)


def _as_strings(row: CanonicalRow) -> CanonicalRow:
    """A conversation for a model without a chat template: contents in paragraphs, earlier turns marked by speaker."""
    prompt = row["prompt"]
    if sum(message["role"] != "system" for message in prompt) == 1:
        parts = [message["content"] for message in prompt]
    else:
        names = {"system": "", "user": "User: ", "assistant": "Assistant: "}
        parts = [names[message["role"]] + message["content"] for message in prompt]
        parts.append("Assistant:")
        return {"prompt": "\n\n".join(parts), "completion": " " + row["completion"][0]["content"]}
    return {"prompt": "\n\n".join(parts) + "\n\n", "completion": row["completion"][0]["content"]}


@dataclass(frozen=True, slots=True)
class Masked:
    """One tokenised row: ids[:context] is context, ids[context:] is trained."""

    ids: list[int]
    context: int

    @property
    def trained(self) -> list[int]:
        return self.ids[self.context :]


class Renderer:
    """Tokenises canonical rows for one model."""

    def __init__(self, info: ModelInfo) -> None:
        self.info = info
        self._engine: FastEngine | SlowEngine = engine_for(info)
        self.stop_ids = frozenset(self._engine.stop_ids)
        self._tails: dict[str, list[int]] = {}
        self._cut_proof = CUT_PROOF_ROWS if isinstance(self._engine, FastEngine) and self._engine.cuts else None

    @property
    def fast(self) -> bool:
        """Whether the path without transformers was proved equal and is used."""
        return isinstance(self._engine, FastEngine)

    @property
    def stop_token(self) -> str | None:
        return self._engine.eos_token or None

    def mask(self, rows: Sequence[CanonicalRow]) -> list[Masked]:
        """Token ids and mask of each row, as TRL computes them, before any cut at max_length.

        Raises:
            RowFault: the template refuses a conversation (`template_refused`), e.g. a role it does not know.
        """
        chat = [isinstance(row["prompt"], list) for row in rows]
        prompts, wholes = [], []
        for row, is_chat in zip(rows, chat, strict=True):
            if is_chat:
                prompts.append(self._engine.render(row["prompt"], generation=True))
                wholes.append(self._engine.render(row["prompt"] + row["completion"], generation=False))
            else:
                completion, eos = row["completion"], self._engine.eos_token
                ending = "" if not eos or completion.endswith(eos) else eos
                prompts.append(row["prompt"])
                wholes.append(row["prompt"] + completion + ending)
        if len(set(chat)) > 1:
            return [one for row in rows for one in self.mask([row])]
        if self._cut_proof == 0 and all(chat):
            ids = self._engine.encode(wholes, specials=False)
            return [
                Masked(whole_ids, self._context_by_cut(prompt, whole, whole_ids))
                for prompt, whole, whole_ids in zip(prompts, wholes, ids, strict=True)
            ]
        encoded = self._engine.encode([*prompts, *wholes], specials=not any(chat))
        pairs = list(zip(encoded[: len(rows)], encoded[len(rows) :], strict=True))
        out = [Masked(whole, common_prefix(prompt, whole)) for prompt, whole in pairs]
        if self._cut_proof and all(chat):
            cut = [self._context_by_cut(*row) for row in zip(prompts, wholes, encoded[len(rows) :], strict=True)]
            equal = cut == [one.context for one in out]
            self._cut_proof = max(0, self._cut_proof - len(rows)) if equal else None
        return out

    def _context_by_cut(self, prompt: str, whole: str, ids: list[int]) -> int:
        """The common prefix without tokenising the prompt: up to its last special token both are the same text, so
        only the few tokens after it (the role's name) have to be compared."""
        engine = self._engine
        assert isinstance(engine, FastEngine) and engine.cuts is not None
        marks = list(engine.cuts.finditer(prompt))
        last = marks[-1] if marks else None
        if last is None or not whole.startswith(prompt[: last.end()]):
            return common_prefix(engine.encode([prompt], specials=False)[0], ids)
        ending = prompt[last.start() :]
        if ending not in self._tails:
            self._tails[ending] = engine.encode([ending], specials=False)[0][1:]
        at = -1
        for _ in marks:
            at = next(i for i in range(at + 1, len(ids)) if ids[i] in engine.cut_ids)
        return at + 1 + common_prefix(self._tails[ending], ids[at + 1 :])

    def decode(self, ids: Sequence[int]) -> str:
        return self._engine.decode(ids)

    def double_bos(self, ids: Sequence[int]) -> bool:
        """Whether a row starts with the beginning-of-sequence token twice."""
        bos = self._engine.bos_id
        return bos is not None and len(ids) > 1 and ids[0] == bos == ids[1]


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common prefix (trl.data_utils.common_prefix_length)."""
    if first == second[: len(first)]:
        return len(first)
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
