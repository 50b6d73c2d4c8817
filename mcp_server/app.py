"""The server object: MCPServer that refuses unknown arguments, reports all problems at once and answers compactly.

The SDK ignores arguments it does not know, so a call with `max_seq_length=4096` would silently train with the default;
its validation text is pydantic's; and its results spell out every null twice. One override of `call_tool` mends this.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import UnionType
from typing import Any, get_type_hints

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, InputRequiredResult, TextContent
from pydantic import TypeAdapter, ValidationError

from mcp_server.errors import argument_problems, translate
from skill.errors import did_you_mean


class TunesmithServer(MCPServer[Any]):
    def __init__(self, *args: Any, tools: Iterable[Tool], **kwargs: Any) -> None:
        declared = list(tools)
        for tool in declared:
            tool.parameters = {**slim(tool.parameters), "additionalProperties": False}
            _flat_output(tool)
        self._declared = {tool.name: tool for tool in declared}
        super().__init__(*args, tools=declared, **kwargs)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Any = None
    ) -> CallToolResult | InputRequiredResult:
        tool = self._declared.get(name)
        if tool is None:
            raise ToolError(f"Unknown tool {name[:80]!r}. {did_you_mean(name, self._declared)}")
        invalid = None
        try:
            tool.fn_metadata.validate_arguments(arguments)
        except ValidationError as error:
            invalid = error
        if problems := argument_problems(arguments, tool.parameters["properties"], invalid):
            raise ToolError("invalid_arguments:\n- " + "\n- ".join(problems))
        try:
            result = await super().call_tool(name, arguments, context)
        except UnexpectedToolError as error:
            cause = error.__cause__ or error
            raise translate(name, cause) from cause
        return compact(result) if isinstance(result, CallToolResult) else result


def _flat_output(tool: Tool) -> None:
    """The slim output schema. A union of models is published as such; the SDK would wrap it in {"result": ...}."""
    declared = tool.fn_metadata
    returned = get_type_hints(tool.fn).get("return")
    if declared.wrap_output and isinstance(returned, UnionType):
        declared.output_model = returned
        declared.output_schema = {"type": "object", **TypeAdapter(declared.output_model).json_schema()}
        declared.wrap_output = False
    if declared.output_schema:
        declared.output_schema = slim(declared.output_schema)


def compact(result: CallToolResult) -> CallToolResult:
    """The same result without nulls; the text beside the structured content is its compact JSON."""
    if result.structured_content is None:
        return result
    body = _without_nulls(result.structured_content)
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return result.model_copy(update={"structured_content": body, "content": [TextContent(type="text", text=text)]})


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def slim(schema: Any) -> Any:
    """A JSON schema without what only costs tokens: generated titles, and null as a spelled-out alternative.

    An argument that is null by default is simply left out, and `compact` leaves nulls out of results; so "X or null"
    becomes X, and is not required.
    """
    if isinstance(schema, list):
        return [slim(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):  # keys are names here, one of which may be "title"
            out[key] = {name: slim(item) for name, item in value.items()}
        elif key == "description" and "properties" in schema:  # a model's docstring: its first line
            out[key] = value.strip().partition("\n")[0]
        elif not (key == "title" or (key == "default" and value is None)):
            out[key] = slim(value)
    if "properties" in out:
        nullable = {name for name, item in schema["properties"].items() if _null_in(item)}
        required = [name for name in out.pop("required", ()) if name not in nullable]
        out |= {"required": required} if required else {}
    if _null_in(schema):
        options = [option for option in out.pop("anyOf") if option != {"type": "null"}]
        out = {**options[0], **out} if len(options) == 1 else {"anyOf": options, **out}
    return out


def _null_in(schema: Any) -> bool:
    return isinstance(schema, dict) and {"type": "null"} in schema.get("anyOf", ())
