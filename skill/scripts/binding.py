"""Calls in a script against the signatures of the installed libraries. Imports no library itself."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from skill.errors import did_you_mean
from skill.scripts.compat import DEPRECATED, fix_for

OWNERS = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "safetensors")


class Finding(NamedTuple):
    """One thing wrong with a script. `fatal`: it stops the script; else it is deprecated or questionable."""

    line: int
    message: str
    fix: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"line {self.line}: {self.message} {self.fix}".rstrip()


def resolve(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The object that a dotted name stands for; None when the script computes it."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = resolve(node.value, names)
        return None if owner is None else getattr(owner, node.attr, None)
    return None


def check_calls(tree: ast.Module, names: Mapping[str, Any]) -> list[Finding]:
    """Keyword arguments of library calls that the installed signature does not have, or will not have for long.

    Args:
        names: what the names at the top of the script stand for.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = resolve(node.func, names)
            if (getattr(called, "__module__", None) or "").partition(".")[0] in OWNERS:
                found += _check_call(node, called)
    return found


def family(called: Any) -> str:
    """What kind of thing is called: "config", "trainer", "loader" (from_pretrained) or ""."""
    bases = [base.__name__ for base in getattr(called, "__mro__", ())]
    if "TrainingArguments" in bases:
        return "config"
    if "Trainer" in bases:
        return "trainer"
    return "loader" if getattr(called, "__name__", "") in ("from_pretrained", "from_config") else ""


def _check_call(node: ast.Call, called: Any) -> list[Finding]:
    kind, name = family(called), getattr(called, "__qualname__", str(called))
    try:
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):  # a built-in without a signature
        return []
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    found = []
    for keyword in node.keywords:
        argument, line = keyword.arg, keyword.value.lineno
        if argument is None:
            continue
        if (kind, argument) in DEPRECATED and (takes_any or argument in parameters):
            found.append(Finding(line, f"{name}({argument}=) is deprecated.", DEPRECATED[kind, argument], fatal=False))
        elif argument not in parameters and not takes_any:
            fix = fix_for(kind, argument) or _field_of_config(called, argument) or did_you_mean(argument, parameters)
            found.append(Finding(line, f"{name} has no argument {argument!r}.", fix))
    return found


def _field_of_config(called: Any, argument: str) -> str:
    """Whether an argument of a trainer moved into its config: SFTTrainer(packing=) -> SFTConfig(packing=)."""
    if family(called) != "trainer":
        return ""
    annotation = inspect.signature(called).parameters["args"].annotation
    options = [annotation, *getattr(annotation, "__args__", ())]
    config = next((option for option in options if family(option) == "config"), None)
    if config is None:
        return ""
    fields = inspect.signature(config).parameters
    if argument in fields:
        return f"It is a field of {config.__name__} now: args={config.__name__}({argument}=...)."
    fix = fix_for("config", argument)
    return fix and f"It belongs to {config.__name__}. {fix}"
