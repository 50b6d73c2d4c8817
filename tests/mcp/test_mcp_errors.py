"""Errors an agent can act on, and nothing of what an unexpected exception holds."""

from __future__ import annotations

import logging

import pytest
from mcp import Client
from mcp.server.mcpserver.tools import Tool

from mcp_server.app import TunesmithServer
from mcp_server.errors import argument_problems, text_of
from mcp_server.server import build_server
from skill.errors import ConflictError

pytestmark = pytest.mark.anyio


def busy(name: str) -> str:
    raise ConflictError(f"The machine is busy with {name!r}.", hint="Call cancel_run, or wait with get_run.")


def crash() -> str:
    raise ValueError("row 7: alice@example.org, token hf_abc")


@pytest.fixture
def server() -> TunesmithServer:
    return TunesmithServer("test", tools=[Tool.from_function(busy), Tool.from_function(crash)], log_level="WARNING")


async def test_an_expected_error_carries_code_message_and_next_action(server):
    async with Client(server) as client:
        result = await client.call_tool("busy", {"name": "a"})
    assert result.is_error
    assert result.content[0].text.endswith(
        "conflict: The machine is busy with 'a'.\nHint: Call cancel_run, or wait with get_run."
    )


async def test_an_unexpected_error_keeps_its_text_in_the_log(server, caplog):
    async with Client(server) as client:
        with caplog.at_level(logging.ERROR, logger="tunesmith.mcp"):
            result = await client.call_tool("crash")
    text = result.content[0].text
    assert result.is_error and "alice" not in text and "hf_abc" not in text and "Traceback" not in text
    incident = text.partition("incident ")[2].partition(")")[0]
    assert len(incident) == 8 and incident in caplog.text and "alice" in caplog.text, (
        "the log has what the agent has not"
    )


async def test_a_moved_name_points_at_its_place_here():
    known = ["model", "max_length", "overrides"]
    (line,) = argument_problems({"max_seq_length": 1}, known, None)
    assert line == "max_seq_length: unknown argument; it is max_length here."
    (line,) = argument_problems({"dropout": 0.1}, known, None)
    assert line == 'dropout: unknown argument; pass overrides=["method.lora_dropout=..."].'
    (line,) = argument_problems({"modle": "x"}, known, None)
    assert "Did you mean 'model'?" in line and "training.seed=7" in line


def test_an_error_without_hint_has_no_empty_line():
    assert text_of(ConflictError("Busy.")) == "conflict: Busy."


@pytest.mark.parametrize("task", ["answer support mail as strict JSON", "play chess", "cite our changing price list"])
async def test_a_call_that_the_advice_offers_is_one_that_the_tools_take(ws, task):
    async with Client(build_server(), read_timeout_seconds=60) as client:
        advice = (await client.call_tool("recommend_approach", {"task": task, "examples": 600})).structured_content
        schemas = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
    for call in calls_in(advice):
        assert set(call["arguments"]) <= set(schemas[call["tool"]]["properties"])
        assert set(schemas[call["tool"]]["required"]) <= set(call["arguments"])


def calls_in(value: object) -> list[dict]:
    """Every {"tool": ..., "arguments": ...} in a result."""
    if isinstance(value, list):
        return [call for item in value for call in calls_in(item)]
    if not isinstance(value, dict):
        return []
    here = [value] if set(value) == {"tool", "arguments"} else []
    return here + [call for item in value.values() for call in calls_in(item)]
