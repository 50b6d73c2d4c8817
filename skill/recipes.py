"""Named starting points: recipes/*.yaml -> RunSpec."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from skill.assets import asset
from skill.errors import NotFound, SpecError, did_you_mean
from skill.spec import RunSpec, parse
from skill.workspace import read_yaml


def recipe_names() -> list[str]:
    return sorted(path.stem for path in asset("recipes").glob("*.yaml"))


def recipe_text(name: str) -> str:
    """The YAML of a recipe, its header comment (when to use it, when not) included."""
    if name not in recipe_names():
        raise NotFound(f"No recipe {name[:80]!r}.", hint=did_you_mean(name, recipe_names()))
    return asset(f"recipes/{name}.yaml").read_text(encoding="utf-8")


def recipe_summary(name: str) -> str:
    """First comment line of a recipe: when to use it."""
    return recipe_text(name).splitlines()[0].lstrip("# ")


def resolve(recipe: str, values: Mapping[str, Any], overrides: Iterable[str] = ()) -> RunSpec:
    """A recipe with `values` (nested mapping, e.g. name, model, data) laid over it, then `key.path=value` overrides.

    Raises:
        NotFound: no such recipe.
        SpecError: every problem of the result, at once.
    """
    recipe_text(recipe)
    merged = merge(read_yaml(asset(f"recipes/{recipe}.yaml")), values)
    return parse(apply_overrides(merged, overrides))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge; a None in `over` leaves the base as it is; a changed method.type drops the old method's fields."""
    out = copy.deepcopy(dict(base))
    for key, value in over.items():
        if isinstance(value, Mapping):
            base_part: Mapping[str, Any] = out[key] if isinstance(out.get(key), Mapping) else {}
            if key == "method" and value.get("type", base_part.get("type")) != base_part.get("type"):
                base_part = {}
            out[key] = merge(base_part, value)
        elif value is not None:
            out[key] = copy.deepcopy(value)
    return out


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`training.learning_rate=1e-4` and the like. Values are YAML scalars or lists; they never become code."""
    out = copy.deepcopy(dict(data))
    for item in overrides:
        path, sign, text = item.partition("=")
        if not sign or not path.strip():
            raise SpecError(f"Override {item[:80]!r} is not KEY=VALUE.", hint="Write it as training.learning_rate=1e-4")
        value = _value(text)
        target = out
        *parents, last = path.strip().split(".")
        for part in parents:
            step = target.setdefault(part, {})
            if not isinstance(step, dict):
                raise SpecError(
                    f"Override {item[:80]!r}: {part!r} holds a value, not a section.", hint="Shorten the key."
                )
            target = step
        target[last] = value
    return out


def _value(text: str) -> Any:
    """A YAML number, boolean, list or quoted text; all else, such as a system prompt with a colon, as it stands."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 1e-4 as text; people mean the number
        except ValueError:
            return value
    return text if isinstance(value, dict) else value
