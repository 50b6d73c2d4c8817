"""The scripts room: a RunSpec becomes a standalone train.py, checked against the installed libraries.

literals  values enter a script as literals only
context   derived values (steps, cadence, pins)
render    the run folder
verify    parse, lint, bind, construct; probe is its process with the real libraries (child)
check     the same for a person's own script, read but not run: foreign, habits
binding   calls against installed signatures; compat: names that moved
"""

from skill.scripts.check import Problem, ScriptCheck, check_script
from skill.scripts.render import render_run, render_script
from skill.scripts.report import RenderedRun

__all__ = ["Problem", "RenderedRun", "ScriptCheck", "check_script", "render_run", "render_script"]
