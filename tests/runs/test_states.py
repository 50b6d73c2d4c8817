from __future__ import annotations

import itertools

import pytest

from skill.errors import StateError
from skill.runs.states import ACTIVE, ENDED, KINDS, STATES, TRANSITIONS, check, kind_of

ALLOWED = {
    ("created", "queued"),
    ("created", "running"),
    ("created", "failed"),
    ("created", "cancelled"),
    ("queued", "created"),
    ("queued", "failed"),
    ("queued", "cancelled"),
    ("running", "cancelling"),
    ("running", "completed"),
    ("running", "failed"),
    ("cancelling", "cancelled"),
    ("cancelling", "completed"),
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(STATES, STATES)))
def test_every_pair_of_states(old, new):
    if (old, new) in ALLOWED:
        check(old, new)
    else:
        with pytest.raises(StateError, match=f"{old} cannot become {new}"):
            check(old, new)


def test_every_state_has_a_row_and_can_be_reached_and_left():
    assert set(TRANSITIONS) == set(STATES)
    reached = {new for following in TRANSITIONS.values() for new in following}
    assert reached | {"created"} == set(STATES)
    assert {"completed", "failed", "cancelled"} == ENDED
    assert ENDED.isdisjoint(ACTIVE)
    for state in set(STATES) - ENDED:  # from everywhere an end can be reached
        seen, front = {state}, {state}
        while front:
            front = {new for old in front for new in TRANSITIONS[old]} - seen
            seen |= front
        assert seen & ENDED, state


def test_kind_of():
    assert [kind_of(kind) for kind in KINDS] == list(KINDS)
    assert kind_of("export") is None
    assert kind_of(None) is None
