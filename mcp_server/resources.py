"""What a client may read without a call: the state of a run, the text of a recipe; and completion of their names."""

from __future__ import annotations

from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.types import Completion

from mcp_server.errors import text_of, translate
from skill.errors import NotFound, SpecError, TunesmithError
from skill.recipes import recipe_names, recipe_text
from skill.workspace import Workspace

MAX_COMPLETIONS = 100  # the protocol's limit


def register(server: MCPServer[Any]) -> None:
    @server.resource("runs://{run_id}", title="State of a run", mime_type="application/json")
    def run(run_id: str) -> str:
        """State, progress, last metrics and last log lines of a run, as get_run returns them."""
        from skill.runs import get_run

        return _read(f"runs://{run_id}", lambda: get_run(Workspace.open(), run_id).model_dump_json(exclude_none=True))

    @server.resource("recipes://{name}", title="Recipe", mime_type="application/yaml")
    def recipe(name: str) -> str:
        """A recipe's YAML. Its header says when to use it and where its numbers come from."""
        return _read(f"recipes://{name}", lambda: recipe_text(name))

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Completion | None:
        names = _known(argument.name)
        if names is None:
            return None
        found = [name for name in names if name.startswith(argument.value)]
        found += [name for name in names if argument.value in name and name not in found]
        return Completion(values=found[:MAX_COMPLETIONS], total=len(found), has_more=len(found) > MAX_COMPLETIONS)


def _known(argument: str) -> list[str] | None:
    """The values an argument can take, for the arguments of our templates and prompts."""
    if argument == "run_id":
        return Workspace.open().run_names()
    if argument in ("name", "recipe"):
        return recipe_names()
    if argument == "model":
        from skill.models import available_models

        return available_models(Workspace.open())
    return None


def _read(uri: str, read: Any) -> str:
    try:
        return read()
    except (NotFound, SpecError) as error:
        raise ResourceNotFoundError(text_of(error)) from error
    except TunesmithError as error:
        raise ResourceError(text_of(error)) from error
    except Exception as error:
        raise ResourceError(str(translate(uri, error))) from error
