"""The scripts room: a RunSpec becomes a standalone train.py, checked against the installed libraries.

literals  values enter a script as literals only
context   derived values (steps, cadence, pins)
render    the run folder
verify    parse, lint, bind, construct; probe is its process with the real libraries
compat    names that moved
"""

from skill.scripts.render import render_run, render_script
from skill.scripts.report import RenderedRun

__all__ = ["RenderedRun", "render_run", "render_script"]
