"""Recipes resolve; overrides are values, never code."""

import pytest

from skill.errors import NotFound, SpecError
from skill.recipes import apply_overrides, recipe_names, recipe_summary, recipe_text, resolve

VALUES = {"name": "a", "model": {"id": "m"}, "data": {"train": "t.jsonl"}}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_resolves_and_says_when_to_use_it(name):
    spec = resolve(name, VALUES)
    assert spec.name == "a"
    header = [line for line in recipe_text(name).splitlines() if line.startswith("#")]
    assert "Use it" in " ".join(header) and "Not for" in " ".join(header)
    assert 20 < len(recipe_summary(name)) < 160


def test_the_three_recipes_of_sft_are_there():
    assert {"sft-full", "sft-lora", "sft-qlora"} <= set(recipe_names())


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(NotFound, match="Did you mean 'sft-qlora'"):
        resolve("sft-qlroa", VALUES)


def test_overrides_reach_nested_keys_with_numbers_as_people_write_them():
    spec = resolve("sft-lora", VALUES, ["training.learning_rate=1e-4", "method.target_modules=[q_proj, v_proj]"])
    assert spec.training.learning_rate == 1e-4
    assert spec.method.type == "lora" and spec.method.target_modules == ("q_proj", "v_proj")


def test_another_method_drops_the_fields_of_the_old_one():
    spec = resolve("sft-lora", {**VALUES, "method": {"type": "full"}})
    assert spec.method.type == "full"


@pytest.mark.parametrize("override", ["nonsense", "=1", "training.seed.deep=1", "training.seed=[", "name={a: 1}"])
def test_bad_overrides_are_refused_by_name(override):
    with pytest.raises(SpecError):
        resolve("sft-lora", VALUES, ["training.seed=7", override])


@pytest.mark.parametrize(
    "text", ['"; import os', "Reply: with JSON", "{{ 7 * 7 }}", "!!python/object/apply:os.system [ls]"]
)
def test_text_in_an_override_stays_the_text_it_is(text):
    assert apply_overrides(VALUES, [f"data.system={text}"])["data"]["system"] == text


def test_unset_values_leave_the_defaults_also_where_the_recipe_has_no_such_section():
    values = {"name": "a", "model": {"id": "m", "revision": None}, "data": {"train": "t", "max_length": None}}
    assert resolve("sft-lora", values).data.max_length == 1024
