"""The twelve tools, in the order of the workflow: what is planned first is listed first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcp.server.mcpserver.tools import Tool
from mcp.types import ToolAnnotations

from mcp_server.tools import plan, work

# (function, title, hints). read_only: changes nothing. idempotent: a second call does nothing more. open_world: may
# look a model up on the Hugging Face hub. None is destructive except cancel_run, which ends work in progress.
_READS = {"read_only_hint": True, "destructive_hint": False, "idempotent_hint": True, "open_world_hint": False}
_LOOKS_UP = {**_READS, "open_world_hint": True}
_WRITES = {**_READS, "read_only_hint": False}
_CANCELS = {**_WRITES, "destructive_hint": True}

TOOLS: tuple[tuple[Callable[..., Any], str, dict[str, bool]], ...] = (
    (plan.inspect_environment, "Inspect environment", _LOOKS_UP),
    (plan.recommend_approach, "Recommend approach", _LOOKS_UP),
    (plan.validate_dataset, "Validate dataset", _LOOKS_UP),
    (plan.estimate_vram, "Estimate memory", _LOOKS_UP),
    (plan.render_training_script, "Render training script", {**_WRITES, "open_world_hint": True}),
    (work.launch_training, "Launch training", {**_WRITES, "open_world_hint": True}),
    (work.get_run, "Get run", _READS),
    (work.list_runs, "List runs", _READS),
    (work.cancel_run, "Cancel run", _CANCELS),
    (work.resume_run, "Resume run", _WRITES),
    (work.merge_adapter, "Merge adapter", _WRITES),
    (work.run_eval, "Evaluate", _WRITES),
)


def all_tools() -> list[Tool]:
    """The tools as the SDK registers them; the first paragraph breaks of the docstrings are folded."""
    return [
        Tool.from_function(
            function,
            title=title,
            description=" ".join((function.__doc__ or "").split()),
            annotations=ToolAnnotations(title=title, **hints),
        )
        for function, title, hints in TOOLS
    ]
