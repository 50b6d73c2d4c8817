"""Formats of training data and how a row of each becomes one conversation.

Every rule turns a row into `Example`: messages with the roles system, user, assistant, tool, or a plain prompt and
completion, or a text. Faults are raised as `RowFault` with a stable code.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from skill.data.conversation import Example, RowFault, as_chat, checked, string, system_turn, turns_of
from skill.errors import DataError

TARGETS = ("prompt", "completion", "system", "messages", "text")

# Column names that mean prompt or completion wherever they come in a pair.
PROMPT_NAMES = ("prompt", "question", "query", "input", "user", "source", "problem")
ANSWER_NAMES = ("completion", "answer", "response", "output", "assistant", "target", "solution", "reply")
TURN_NAMES = ("messages", "conversations", "conversation", "dialogue")
TEXT_NAMES = ("text", "content", "document")
LABELLED_NAMES = ("text", "sentence", "utterance", "review", "message", "content", "tweet", "title")
LABEL_NAMES = ("label", "category", "intent", "class", "sentiment", "topic", "label_text")


@dataclass(frozen=True)
class Format:
    """A recognised shape: its name, what a row of it becomes, and the conversion."""

    name: str
    rule: str
    convert: Callable[[Mapping[str, Any]], Example]
    trainable: bool = True  # False: recognised, but not data for supervised fine-tuning


def detect(row: Mapping[str, Any]) -> Format | None:
    """The format of one row, from its keys and their types; None when it is none that is known."""
    keys = set(row)
    turns = next((name for name in TURN_NAMES if _is_turns(row.get(name))), "")
    if {"chosen", "rejected"} <= keys or {"chosen_messages", "rejected_messages"} <= keys:
        return Format("preference", "pairs of a chosen and a rejected answer", _no_sft, trainable=False)
    if isinstance(row.get("label"), bool) and (turns or {"prompt", "completion"} <= keys):
        return Format("kto", "answers labelled good or bad", _no_sft, trainable=False)
    if {"prompt", "completions", "labels"} <= keys:
        return Format("stepwise", "answers in steps, each labelled right or wrong", _no_sft, trainable=False)
    if "input_ids" in keys:
        return Format("tokenized", "token ids", _no_sft, trainable=False)
    if turns:
        return _turn_format(row, turns)
    if "instruction" in keys:
        answer = _first(keys, ("output", "response", "completion", "answer"))
        if answer:
            return _alpaca(answer)
    for prompt, answer in (("prompt", "completion"), ("prompt", "response")):
        if {prompt, answer} <= keys:
            return _pair(prompt, answer)
    prompts = [name for name in PROMPT_NAMES if name in keys]
    answers = [name for name in ANSWER_NAMES if name in keys]
    if len(prompts) == 1 and len(answers) == 1:
        return _pair(prompts[0], answers[0])
    labelled = [(text, label) for text in LABELLED_NAMES for label in LABEL_NAMES if text in keys and label in keys]
    if labelled and text_and_label(row, *labelled[0]):
        return _classification(*labelled[0])
    text = _first(keys, TEXT_NAMES)
    if text and isinstance(row[text], str):
        return _text(text)
    return None


def from_columns(columns: Mapping[str, str], present: Iterable[str]) -> Format:
    """The format that a user's own mapping (column -> prompt, completion, system, messages or text) describes.

    Raises:
        DataError: a column that does not exist, an unknown target, or a mapping that gives no answer to train on.
    """
    names = set(present)
    missing = sorted(set(columns) - names)
    if missing:
        raise DataError(f"columns names {missing[0]!r}, which the file does not have.", hint=nearest(missing[0], names))
    for column, target in columns.items():
        if target not in TARGETS:
            raise DataError(f"columns: {column!r} -> {target!r} is no target.", hint=f"Targets: {', '.join(TARGETS)}.")
    sources = {target: column for column, target in columns.items()}
    if len(sources) != len(columns):
        raise DataError("columns maps two columns to one target.", hint="Map one column to each target.")
    system = sources.get("system")
    if "messages" in sources:
        return _messages(sources["messages"], "messages", system)
    if "text" in sources and len(sources) == 1:
        return _text(sources["text"])
    prompt = sources.get("prompt") or ("prompt" if "prompt" in names else None)
    answer = sources.get("completion") or ("completion" if "completion" in names else None)
    if prompt and answer:
        return _pair(prompt, answer, system)
    raise DataError(
        "columns gives no pair of prompt and completion.",
        hint=f"Map both, e.g. columns={{'{sorted(names)[0]}': 'prompt', …: 'completion'}}. Columns: {shown(names)}.",
    )


def suggestion(keys: Iterable[str]) -> str:
    """A `columns` mapping for keys that are near known names, or the list of what is known."""
    names = [str(key) for key in keys]
    prompt, answer = _nearest_of(names, PROMPT_NAMES), _nearest_of(names, ANSWER_NAMES)
    if prompt and answer and prompt != answer:
        return f"Pass columns={json.dumps({prompt: 'prompt', answer: 'completion'}, ensure_ascii=False)}."
    turns = _nearest_of(names, ("messages", "conversations"))
    if turns:
        return f"Pass columns={json.dumps({turns: 'messages'}, ensure_ascii=False)}."
    return (
        f"Columns here: {shown(names)}. Name those to train with columns={{…: 'prompt', …: 'completion'}}, or rename "
        "them to messages, instruction/input/output, prompt/completion, or text."
    )


def _nearest_of(names: list[str], known: tuple[str, ...]) -> str | None:
    for word in known:
        for name in names:
            parts = re.split(r"[^a-z]+", name.lower())
            if parts[-1] not in ("id", "list", "ids") and difflib.get_close_matches(word, parts, n=1, cutoff=0.8):
                return name
    return None


def nearest(word: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Columns: {shown(names)}."


def shown(names: Iterable[str]) -> str:
    """Column names for a message: escaped, cut, at most twelve."""
    listed = sorted({str(name)[:40] for name in names})
    return ", ".join(repr(name) for name in listed[:12]) + (" …" if len(listed) > 12 else "")


# --- the single rules -----------------------------------------------------------------------------------------------


def _no_sft(row: Mapping[str, Any]) -> Example:
    raise RowFault("wrong_format", "not data for supervised fine-tuning")


def _alpaca(answer: str) -> Format:
    def convert(row: Mapping[str, Any]) -> Example:
        instruction, context = string(row, "instruction"), string(row, "input", default="")
        prompt = f"{instruction}\n\n{context}" if context.strip() and instruction.strip() else instruction or context
        messages = system_turn(string(row, "system", default=""))
        history = row.get("history")
        if history is not None:
            if not isinstance(history, list) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in history):
                raise RowFault("wrong_type", "history is not a list of pairs")
            for question, reply in history:
                messages += [{"role": "user", "content": str(question)}, {"role": "assistant", "content": str(reply)}]
        messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": string(row, answer)}]
        return checked(Example(messages))

    return Format("alpaca", f"instruction and input -> user, {answer} -> assistant", convert)


def _pair(prompt: str, answer: str, system: str | None = "system") -> Format:
    def convert(row: Mapping[str, Any]) -> Example:
        asked, answered = row.get(prompt), row.get(answer)
        if isinstance(asked, list) and isinstance(answered, list):
            return checked(Example([*turns_of(asked), *turns_of(answered)]))
        instructions = string(row, system, default="") if system else ""
        example = Example(prompt=string(row, prompt), completion=string(row, answer))
        if instructions.strip():
            return checked(as_chat(example, instructions))
        return checked(example)

    return Format("prompt_completion", f"{prompt} -> prompt, {answer} -> completion", convert)


def text_and_label(row: Mapping[str, Any], text: str, label: str) -> bool:
    return isinstance(row[text], str) and isinstance(row[label], str | int) and not isinstance(row[label], bool)


def _classification(text: str, label: str) -> Format:
    def convert(row: Mapping[str, Any]) -> Example:
        value = row.get(label)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        return checked(Example(prompt=string(row, text), completion=string({label: value}, label)))

    return Format("classification", f"{text} -> prompt, {label} -> completion", convert)


def _text(column: str) -> Format:
    def convert(row: Mapping[str, Any]) -> Example:
        text = string(row, column)
        if not text.strip():
            raise RowFault("empty_output", f"{column} is empty")
        return Example(completion=text)

    return Format("text", f"the whole of {column} is trained", convert)


def _turn_format(row: Mapping[str, Any], column: str) -> Format:
    first = next((turn for turn in row[column] if isinstance(turn, dict)), {})
    return _messages(column, "sharegpt" if "from" in first else "messages")


def _messages(column: str, name: str, system: str | None = "system") -> Format:
    def convert(row: Mapping[str, Any]) -> Example:
        value = row.get(column)
        if value is None:
            raise RowFault("missing_field", f"no {column}")
        messages = turns_of(value)
        instructions = string(row, system, default="") if system else ""
        if instructions.strip() and not (messages and messages[0]["role"] == "system"):
            messages = system_turn(instructions) + messages
        return checked(Example(messages), chat=True)

    roles = "from/value turns" if name == "sharegpt" else "role/content turns"
    return Format(name, f"{roles} of {column}; every assistant turn is trained", convert)


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and (not value or any(isinstance(turn, dict) for turn in value))


def _first(keys: set[str], names: Iterable[str]) -> str | None:
    return next((name for name in names if name in keys), None)
