"""One error tree. Catch `TunesmithError` for anything this package raises on purpose.

    TunesmithError
      SpecError(ValueError)            spec_invalid          a RunSpec, recipe or override is wrong
      DataError(ValueError)            data_invalid          a dataset cannot be read or would train nothing
      ModelNotFound(FileNotFoundError) model_not_found       no such model here, and no hub in reach
      ModelUnsupported(ValueError)     model_unsupported     found, but not something we can handle safely
      WorkspaceError(PermissionError)  outside_workspace     a path leaves the workspace
      NotFound(LookupError)            not_found             no such run, recipe, file
      StateError(RuntimeError)         wrong_state           the run is not in a state that allows this
      ConflictError(RuntimeError)      conflict              the name is taken by another spec, or the machine is busy
      ScriptError(ValueError)          script_invalid        a rendered script does not pass its checks
      ResourceError(OSError)           not_enough_resources  disk or memory does not suffice
      MissingDependency(ImportError)   missing_dependency    an optional package is not installed
      JobFailed(RuntimeError)          job_failed            a merge, evaluation or training process failed

Every class also inherits the standard type it stands for, so `except ValueError` keeps working. To add one: pick the
standard parent, give it a `code`, and write the `hint` as an action (a call, a command, a value), never as advice.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TunesmithError(Exception):
    """An expected failure: what was seen, and in `hint` the action that mends it."""

    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(
        self,
    ) -> tuple[object, ...]:  # stays picklable across processes despite the keyword argument
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(cls: type[TunesmithError], message: str, hint: str) -> TunesmithError:
    return cls(message, hint=hint)


class SpecError(TunesmithError, ValueError):
    code = "spec_invalid"


class DataError(TunesmithError, ValueError):
    code = "data_invalid"


class ModelNotFound(TunesmithError, FileNotFoundError):
    code = "model_not_found"


class ModelUnsupported(TunesmithError, ValueError):
    code = "model_unsupported"


class WorkspaceError(TunesmithError, PermissionError):
    code = "outside_workspace"


class NotFound(TunesmithError, LookupError):
    code = "not_found"


class StateError(TunesmithError, RuntimeError):
    code = "wrong_state"


class ConflictError(TunesmithError, RuntimeError):
    code = "conflict"


class ScriptError(TunesmithError, ValueError):
    code = "script_invalid"


class ResourceError(TunesmithError, OSError):
    code = "not_enough_resources"


class MissingDependency(TunesmithError, ImportError):
    code = "missing_dependency"


class JobFailed(TunesmithError, RuntimeError):
    code = "job_failed"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"Did you mean 'x'?"` for the nearest known word, or the whole list when nothing is near."""
    names = sorted(set(known))
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(names)}." if names else "There are none yet."
