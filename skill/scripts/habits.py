"""What binds to the installed libraries and is wrong all the same: rules over the calls of a script."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from skill.scripts.binding import Finding, family, resolve
from skill.scripts.compat import ATTRIBUTES


class Call(NamedTuple):
    line: int
    name: str
    called: Any
    keywords: dict[str | None, ast.expr]

    @property
    def family(self) -> str:
        return family(self.called)


def habits(tree: ast.Module, names: Mapping[str, Any]) -> list[Finding]:
    """The findings of every rule below."""
    calls = [
        Call(
            node.lineno,
            getattr(called := resolve(node.func, names), "__name__", ""),
            called,
            {keyword.arg: keyword.value for keyword in node.keywords},
        )
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]
    found = [finding for rule in RULES for finding in rule(calls)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            message = f"There is no attribute {node.attr!r}."
            found.append(Finding(node.lineno, message, f"It is {ATTRIBUTES[node.attr]}."))
    return found


def remote_code(calls: list[Call]) -> Iterator[Finding]:
    for call in calls:
        if _is(call.keywords.get("trust_remote_code"), True):
            message = "trust_remote_code=True runs code out of the model's repository."
            yield Finding(call.line, message, "Remove it.", fatal=False)


def device_map(calls: list[Call]) -> Iterator[Finding]:
    for call in calls:
        if call.family == "loader" and _is(call.keywords.get("device_map"), "auto"):
            message = 'device_map="auto" splits one model over all devices; under torchrun it breaks.'
            yield Finding(call.line, message, "Leave it out for training.", fatal=False)


def adapter_on_the_head(calls: list[Call]) -> Iterator[Finding]:
    """TRL computes the loss from lm_head.weight directly, so its trainers refuse an adapter there."""
    if not _trl_trainer(calls):
        return
    for call in calls:
        targets = call.keywords.get("target_modules")
        listed = targets.elts if isinstance(targets, ast.List | ast.Tuple | ast.Set) else []
        if call.name == "LoraConfig" and any(_is(item, "lm_head") for item in listed):
            fix = 'Remove it from target_modules; modules_to_save=["lm_head"] trains the head whole.'
            yield Finding(call.line, "TRL trainers refuse a LoRA adapter on lm_head.", fix)


def wrapped_twice(calls: list[Call]) -> Iterator[Finding]:
    wrapped = next((call.line for call in calls if call.name == "get_peft_model"), None)
    for call in calls:
        if wrapped and call.family == "trainer" and {"model", "peft_config"} <= call.keywords.keys():
            message = f"get_peft_model (line {wrapped}) and peft_config together are refused."
            yield Finding(call.line, message, "Keep peft_config and remove get_peft_model.")


def kbit_preparation(calls: list[Call]) -> Iterator[Finding]:
    for call in calls if _trl_trainer(calls) else []:
        if call.name == "prepare_model_for_kbit_training":
            message = "prepare_model_for_kbit_training turns embeddings and head into float32; TRL needs it not."
            fix = "Remove it; give quantization_config and peft_config to the trainer."
            yield Finding(call.line, message, fix, fatal=False)


def second_model(calls: list[Call]) -> Iterator[Finding]:
    for call in calls:
        if call.family == "trainer" and {"ref_model", "peft_config"} <= call.keywords.keys():
            message = "ref_model beside peft_config keeps a second whole model in memory."
            fix = "Leave ref_model out: the base without its adapter is the reference."
            yield Finding(call.line, message, fix, fatal=False)


RULES = (remote_code, device_map, adapter_on_the_head, wrapped_twice, kbit_preparation, second_model)


def _trl_trainer(calls: list[Call]) -> bool:
    return any(call.family == "trainer" and call.called.__module__.startswith("trl.") for call in calls)


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is type(value) and node.value == value
