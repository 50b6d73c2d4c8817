"""check_script: a person's own training script against the installed libraries. It is read, never run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from skill.scripts.child import run_check
from skill.workspace import Workspace


class Problem(BaseModel):
    """One thing wrong with a script."""

    model_config = ConfigDict(frozen=True)

    line: int
    message: str
    fix: str
    fatal: bool = Field(description="It stops the script; else it is deprecated or questionable")


class ScriptCheck(BaseModel):
    """What is wrong with a script, in order of lines."""

    model_config = ConfigDict(frozen=True)

    path: str
    problems: list[Problem]
    errors: int
    warnings: int
    next_step: str


def check_script(ws: Workspace, path: str) -> ScriptCheck:
    """Stale, misspelt and missing names and arguments of a training script, each with what replaces it.

    Raises:
        NotFound, WorkspaceError: see Workspace.read_path.
        ScriptError: the libraries themselves do not import.
    """
    file = ws.read_path(path, what="script")
    problems = [Problem.model_validate(item) for item in run_check("skill.scripts.foreign", file)]
    errors = sum(problem.fatal for problem in problems)
    step = "Nothing to mend; try two steps of it first." if not problems else "Mend the lines, then check it again."
    return ScriptCheck(
        path=str(file), problems=problems, errors=errors, warnings=len(problems) - errors, next_step=step
    )
