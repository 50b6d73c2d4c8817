"""RunSpec: what is refused, with which words; what defaults mean."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skill.errors import SpecError
from skill.spec import MOVED, RunSpec, known_keys, parse

GOOD = {
    "name": "a-run",
    "model": {"id": "some-model"},
    "data": {"train": "train.jsonl"},
    "method": {"type": "lora"},
}


def changed(**parts):
    data = copy.deepcopy(GOOD)
    for path, value in parts.items():
        *parents, last = path.split("__")
        target = data
        for part in parents:
            target = target.setdefault(part, {})
        target[last] = value
    return data


def problems(**parts) -> str:
    with pytest.raises(SpecError) as caught:
        parse(changed(**parts))
    return str(caught.value)


def test_a_small_mapping_is_enough():
    spec = parse(GOOD)
    assert (spec.method.type, spec.dtype, spec.mergeable) == ("lora", "bfloat16", True)
    assert parse(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("method", "precision", "dtype"),
    [
        ("full", "bf16", "float32"),
        ("lora", "bf16", "bfloat16"),
        ("qlora", "bf16", "bfloat16"),
        ("lora", "fp32", "float32"),
        ("lora", "fp16", "float16"),
    ],
)
def test_dtype_follows_method_and_precision(method, precision, dtype):
    assert parse(changed(method__type=method, training__precision=precision)).dtype == dtype


def test_all_problems_at_once():
    text = problems(
        model__torch_dtype="bfloat16",
        data__max_seq_length=512,
        data__packing=True,
        method={"type": "prefix", "r": 8},
        training={"learning_rat": 1e-4, "save_steps": 3, "seed": -1},
    )
    assert "7 problems" in text
    assert "it is model.dtype here" in text
    assert "it is data.max_length here" in text
    assert "method.r: unknown key for method 'prefix'" in text
    assert "Did you mean 'learning_rate'?" in text
    assert "training.seed" in text and "-1" in text
    assert "multiple of training.eval_steps" in text
    assert "Set data.packing to false." in text


@pytest.mark.parametrize(
    ("parts", "fix"),
    [
        ({"method__type": "qlora", "training__precision": "fp16"}, "Set training.precision to 'bf16'"),
        (
            {"method": {"type": "prefix"}, "training__activation_checkpointing": True},
            "Set training.activation_checkpointing to false",
        ),
        ({"model__dtype": "bfloat16", "training__precision": "fp16"}, "Set training.precision to 'bf16'"),
        ({"method__type": "full", "model__dtype": "float16"}, "Remove model.dtype"),
        ({"data__eval_fraction": 0}, "Set data.eval or data.eval_fraction"),
        (
            {"training__load_best_model_at_end": False, "training__early_stopping_patience": 2},
            "Set training.load_best_model_at_end to true",
        ),
        ({"training__eval_steps": 20, "training__save_steps": 30}, "Set both to the same number"),
        ({"method": {"type": "prefix"}, "data__packing": True}, "Set data.packing to false"),
        ({"method": {"type": "full"}, "launch__merge_after": True}, "Set launch.merge_after to false"),
        ({"method": {"type": "lora", "target_modules": ["q_proj", "lm_head"]}}, "Remove it from method.target_modules"),
        ({"name": "../etc"}, "name:"),
        ({"method__type": "lorra"}, "'full', 'lora', 'qlora', 'prefix'"),
    ],
)
def test_contradictions_name_their_fix(parts, fix):
    assert fix in problems(**parts)


def test_moved_names_point_to_keys_that_exist():
    for target in MOVED.values():
        section, _, key = target.split(" ")[0].rstrip(":").partition(".")
        known = known_keys((section,))
        assert key.split(":")[0] in known, target


def test_fingerprint_ignores_the_name_and_nothing_else():
    first, renamed = parse(GOOD), parse(changed(name="b"))
    assert first.fingerprint == renamed.fingerprint
    assert parse(changed(training__seed=1)).fingerprint != first.fingerprint


@given(st.text(max_size=200))
def test_any_text_in_any_string_field_stays_text(text):
    try:
        spec = parse(changed(model__id=text, data__train=text, data__system=text))
    except SpecError:
        return
    assert isinstance(spec, RunSpec) and spec.model.id == text


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.dictionaries(st.text(), s)))
def test_any_mapping_is_parsed_or_refused_by_name(value):
    data = value if isinstance(value, dict) else {"name": value}
    with pytest.raises(SpecError):
        parse(data)


def test_errors_survive_a_process_boundary():
    error = SpecError("seen", hint="do")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(again), str(again), again.hint) == (SpecError, "seen do", "do")
