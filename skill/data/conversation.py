"""One shape for a training row: `Example`, made from turns in OpenAI's or ShareGPT's names, and checked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}


class RowFault(Exception):
    """A row that cannot be trained on, with its stable code."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(slots=True)
class Example:
    """One row in one shape: either `messages`, or `prompt` and `completion` (a text has the prompt "")."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    prompt: str = ""
    completion: str = ""

    @property
    def is_chat(self) -> bool:
        return bool(self.messages)


def string(row: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """A string field; missing or null is a fault unless there is a default."""
    value = row.get(key)
    if value is None:
        if default is None:
            raise RowFault("missing_field", f"no {key}")
        return default
    if not isinstance(value, str):
        raise RowFault("wrong_type", f"{key} is {type(value).__name__}, not text")
    return value


def turns_of(value: Any) -> list[dict[str, Any]]:
    """Turns in OpenAI's or ShareGPT's names -> messages with role and text content."""
    if isinstance(value, str):  # tables carry conversations as JSON text
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RowFault("wrong_type", "the conversation is text, not a list of turns") from error
    if not isinstance(value, list):
        raise RowFault("wrong_type", f"the conversation is {type(value).__name__}, not a list of turns")
    return [_turn(turn, number) for number, turn in enumerate(value)]


def _turn(turn: Any, number: int) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise RowFault("wrong_type", f"turn {number} is {type(turn).__name__}, not an object")
    role = turn.get("role", turn.get("from"))
    if role is None:
        raise RowFault("missing_field", f"turn {number} has no role")
    if not isinstance(role, str):
        raise RowFault("wrong_type", f"the role of turn {number} is not text")
    known = ROLES.get(role.strip().lower())
    calls = turn.get("tool_calls") or turn.get("function_call") or role.strip().lower() == "function_call"
    if calls or known == "tool":
        raise RowFault("tool_calls_unsupported", f"turn {number} is a tool call or its result")
    if known is None:
        raise RowFault("bad_role_order", f"turn {number} has the unknown role {role[:20]!r}")
    content = turn.get("content", turn.get("value"))
    if content is None:
        raise RowFault("missing_field", f"turn {number} has no content")
    if isinstance(content, list):
        content = "".join(_part(part, number) for part in content)
    if not isinstance(content, str):
        raise RowFault("wrong_type", f"the content of turn {number} is {type(content).__name__}, not text")
    message: dict[str, Any] = {"role": known, "content": content}
    if known == "assistant" and (turn.get("weight") == 0 or turn.get("loss_weight") == 0):
        message["weight"] = 0  # OpenAI's way to keep a turn as context only
    return message


def _part(part: Any, number: int) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type", "text") == "text":
        text = part.get("text", part.get("value"))
        if isinstance(text, str):
            return text
    raise RowFault("wrong_type", f"turn {number} has a part that is not text")


def checked(example: Example, *, chat: bool = False) -> Example:
    """The example, if it can be trained on; else RowFault with the first reason."""
    if not example.is_chat and not chat:
        if not example.prompt.strip():
            raise RowFault("empty_prompt", "the prompt is empty")
        if not example.completion.strip():
            raise RowFault("empty_output", "the completion is empty")
        return example
    messages = example.messages
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise RowFault("no_assistant_turn", "no assistant turn: nothing to train")
    turns = [role for role in roles if role != "system"]
    if "system" in roles[1:] or turns[0] != "user" or any(a == b for a, b in itertools.pairwise(turns)):
        raise RowFault("bad_role_order", f"roles: {', '.join(roles[:8])}")
    for message in messages:
        if not message["content"].strip() and message["role"] != "system":
            code = "empty_prompt" if message["role"] == "user" else "empty_output"
            raise RowFault(code, f"an empty {message['role']} turn")
    if all(message.get("weight") == 0 for message in messages if message["role"] == "assistant"):
        raise RowFault("no_assistant_turn", "every assistant turn has weight 0")
    return example


def as_chat(example: Example, system: str | None = None) -> Example:
    """The example as messages; a system message is put first when there is none. A text stays a text."""
    if example.is_chat:
        if system and example.messages[0]["role"] != "system":
            return Example(system_turn(system) + example.messages)
        return example
    if not example.prompt:
        return example
    turns = [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.completion}]
    return Example(system_turn(system) + turns)


def system_turn(text: str | None) -> list[dict[str, Any]]:
    return [{"role": "system", "content": text}] if text and text.strip() else []
