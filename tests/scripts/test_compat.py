"""The table of moved names holds against the installed libraries: what it calls gone is gone, what it offers exists."""

from __future__ import annotations

import importlib
import inspect
import re

import pytest

from skill.scripts import compat

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, at import


@pytest.fixture(scope="module")
def configs():
    import trl

    names = ("SFTConfig", "DPOConfig", "KTOConfig", "RewardConfig", "GRPOConfig", "RLOOConfig")
    return {name: set(inspect.signature(getattr(trl, name)).parameters) for name in names}


@pytest.mark.parametrize(("old", "new"), compat.CONFIG_RENAMED.items())
def test_renamed_arguments_of_configs(configs, old, new):
    assert old not in set().union(*configs.values())
    assert new in configs["SFTConfig"]


@pytest.mark.parametrize(("old", "fix"), compat.CONFIG_GONE.items())
def test_vanished_arguments_of_configs(configs, old, fix):
    assert old not in configs["SFTConfig"] | configs["DPOConfig"]
    for new in re.findall(r"([a-z_0-9]+)=", fix):
        trainer = {"processing_class"}
        assert new in configs["SFTConfig"] | configs["DPOConfig"] | trainer, f"{fix!r} offers {new!r}"


def test_renamed_arguments_of_trainers():
    from trl import SFTTrainer

    parameters = inspect.signature(SFTTrainer).parameters
    for old, new in compat.TRAINER_RENAMED.items():
        assert old not in parameters and new in parameters


def test_deprecated_arguments_are_still_there(configs):
    from trl import SFTTrainer

    trainer = set(inspect.signature(SFTTrainer).parameters)
    for family, argument in compat.DEPRECATED:
        if family != "loader":
            assert argument in {"config": configs["SFTConfig"], "trainer": trainer}[family]


@pytest.mark.parametrize(("place", "fix"), compat.NAMES_GONE.items())
def test_vanished_names(place, fix):
    package, name = place
    assert not hasattr(importlib.import_module(package), name)
    for module in re.findall(r"Import it from ([a-z_.]+[a-z])", fix):
        assert hasattr(importlib.import_module(module), name)
