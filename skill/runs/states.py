"""The states of a job and every step between them: the only place that knows.

A job that ended stays ended: trying again (resume, a second merge) begins a new record with `attempt + 1` in `created`,
it does not move an old record.
"""

from __future__ import annotations

from typing import Literal, get_args

from skill.errors import StateError

State = Literal["created", "queued", "running", "cancelling", "completed", "failed", "cancelled"]
Kind = Literal["train", "merge", "eval"]

STATES: tuple[State, ...] = get_args(State)
KINDS: tuple[Kind, ...] = get_args(Kind)
_KINDS: dict[str, Kind] = {kind: kind for kind in KINDS}

TRANSITIONS: dict[State, frozenset[State]] = {
    # Recorded, its supervisor is starting. Straight to an end when that never comes up or is cancelled before.
    "created": frozenset({"queued", "running", "failed", "cancelled"}),
    # Waiting for a slot; `created` again when one is given.
    "queued": frozenset({"created", "failed", "cancelled"}),
    "running": frozenset({"cancelling", "completed", "failed"}),
    # Told to stop. It may still complete when the signal came after its last step.
    "cancelling": frozenset({"cancelled", "completed"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

ENDED: frozenset[State] = frozenset(state for state, following in TRANSITIONS.items() if not following)
ACTIVE: frozenset[State] = frozenset({"created", "running", "cancelling"})  # a process should exist


def check(old: State, new: State) -> None:
    """Raise StateError unless the table allows the step from `old` to `new`."""
    if new not in TRANSITIONS[old]:
        allowed = ", ".join(sorted(TRANSITIONS[old])) or "nothing, it has ended"
        raise StateError(f"A job that is {old} cannot become {new}; allowed: {allowed}.")


def kind_of(text: str | None) -> Kind | None:
    """A job's kind from untyped text; None when there is no such kind."""
    return _KINDS.get(text or "")
