"""What an agent reads when a call fails: what was seen, what is allowed, and the next action. Never internals."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import ValidationError

from skill.errors import TunesmithError, did_you_mean
from skill.spec import MOVED

logger = logging.getLogger("tunesmith.mcp")


def text_of(error: TunesmithError) -> str:
    """`code: message` and, on its own line, the hint: the action that mends it."""
    head = f"{error.code}: {error.message}"
    return f"{head}\nHint: {error.hint}" if error.hint else head


def translate(where: str, error: BaseException) -> ToolError:
    """The error an agent gets for any exception of the engine.

    Expected failures keep their text. Anything else is logged with its traceback under an incident id, and the agent
    sees only the id: an unexpected exception's text may hold a row of somebody's data or a secret.
    """
    if isinstance(error, TunesmithError):
        return ToolError(text_of(error))
    incident = secrets.token_hex(4)
    logger.error("incident %s in %s", incident, where, exc_info=error)
    return ToolError(
        f"internal_error: {where} failed in a way it should not (incident {incident}).\n"
        "Hint: call inspect_environment and mend what it lists; if it happens again, report the incident with the "
        "server's log (its stderr)."
    )


def argument_problems(arguments: Mapping[str, Any], known: Iterable[str], invalid: ValidationError | None) -> list[str]:
    """Every problem with the arguments of a call, one line each: unknown names, wrong types, values out of range."""
    names = list(known)
    problems = [_unknown(name, names) for name in arguments if name not in names]
    for item in invalid.errors(include_url=False, include_context=False) if invalid else ():
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "missing":
            problems.append(f"{name}: missing. Pass it.")
            continue
        seen = json.dumps(item.get("input"), default=str)
        problems.append(f"{name}: {item['msg'][0].lower()}{item['msg'][1:]}; got {seen[:80]}.")
    return problems


def _unknown(name: str, known: list[str]) -> str:
    moved = MOVED.get(name, "").split(" ")[0].rstrip(":")
    leaf = moved.rpartition(".")[2]
    if leaf in known:
        return f"{name[:80]}: unknown argument; it is {leaf} here."
    if moved and "overrides" in known:
        return f'{name[:80]}: unknown argument; pass overrides=["{moved}=..."].'
    more = ' Other RunSpec fields go into overrides, as "training.seed=7".' if "overrides" in known else ""
    return f"{name[:80]}: unknown argument. {did_you_mean(name, known)}{more}"
