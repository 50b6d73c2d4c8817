"""Random specs with hostile strings: whatever a user or a model's folder is called, it stays a constant.

`TUNESMITH_FUZZ=10000 pytest tests/scripts/test_fuzz.py --timeout 3600` for a long run.
"""

from __future__ import annotations

import ast
import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skill.errors import SpecError
from skill.models import ModelInfo
from skill.scripts.context import script_context
from skill.scripts.literals import environment
from skill.spec import parse
from tests.scripts.test_script_text import HOSTILE, constants, skeleton

EXAMPLES = int(os.environ.get("TUNESMITH_FUZZ", "150"))  # 10,000 take nine minutes of one core
TEMPLATE = environment().get_template("train_sft.py.j2")
strings = st.sampled_from(HOSTILE) | st.text(min_size=1, max_size=60)
numbers = st.floats(1e-9, 1, allow_nan=False)
methods = st.one_of(
    st.just({"type": "full"}),
    st.fixed_dictionaries({"type": st.just("prefix"), "num_virtual_tokens": st.integers(1, 1000)}),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["lora", "qlora"]),
            "r": st.integers(1, 1024),
            "lora_dropout": st.floats(0, 0.99),
            "target_modules": strings | st.lists(strings, min_size=1, max_size=5),
            "use_dora": st.booleans(),
            "use_rslora": st.booleans(),
        }
    ),
)
specs = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
        "model": st.fixed_dictionaries({"id": strings, "attn_implementation": st.sampled_from(["sdpa", "eager"])}),
        "data": st.fixed_dictionaries(
            {
                "train": strings,
                "eval": strings,
                "columns": st.dictionaries(strings, strings, max_size=3),
                "system": strings,
                "max_length": st.integers(16, 1_000_000),
            }
        ),
        "method": methods,
        "training": st.fixed_dictionaries(
            {
                "learning_rate": numbers,
                "weight_decay": numbers,
                "num_train_epochs": st.floats(0.01, 1000),
                "max_steps": st.none() | st.integers(1, 10**9),
                "optim": st.sampled_from(["adamw_torch_fused", "paged_adamw_8bit"]),
                "seed": st.integers(0, 2**32 - 1),
                "early_stopping_patience": st.none() | st.integers(1, 9),
            }
        ),
        "launch": st.fixed_dictionaries(
            {"device": st.sampled_from(["auto", "cpu", "cuda"]), "num_threads": st.none() | st.integers(1, 64)}
        ),
    }
)
models = st.fixed_dictionaries(
    {"path": st.none() | strings, "hub_id": st.none() | strings, "revision": st.none() | strings}
)


def render(spec, place, *, chat):
    shape = {"model_type": "llama", "layers": 2, "hidden": 8, "vocab": 9, "has_chat_template": chat}
    info = ModelInfo(id="m", source="hub", **place, **shape)
    return TEMPLATE.render(script_context(spec, info, chat_rows=chat, rows=90, eval_rows=9))


def tame(value):
    """The same structure with harmless strings."""
    if isinstance(value, str):
        return "x"
    return [tame(item) for item in value] if isinstance(value, list) else value


def check(raw, place, chat):
    if not (place["path"] or place["hub_id"]):
        place = {**place, "hub_id": "owner/name"}
    try:
        spec = parse(raw)
    except SpecError:  # two fields that contradict each other, or lm_head among the targets
        return
    text = render(spec, place, chat=chat)
    harmless = (
        parse({**raw, "method": {**raw["method"], "target_modules": tame(raw["method"]["target_modules"])}})
        if ("target_modules" in raw["method"])
        else spec
    )
    same = render(harmless, tame_place(place), chat=chat)
    assert skeleton(text) == skeleton(same)
    known = {*constants(same), *filter(None, place.values())}
    targets = raw["method"].get("target_modules", [])
    known |= {targets} if isinstance(targets, str) else set(targets)
    assert {value for value in constants(text) if isinstance(value, str)} <= known
    compile(ast.parse(text), "train.py", "exec")


def tame_place(place):
    return {key: value and "x" for key, value in place.items()}


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs, models, st.booleans())
def test_strings_stay_constants(raw, place, chat):
    check(raw, place, chat)
