"""From start to the first tool list, as a client sees it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest
from mcp import Client, StdioServerParameters

from tests.mcp.mcp_cases import TOOLS

# Processor seconds, which a busy machine does not stretch much: measured 0.9 alone, 1.3 beside six other processes.
# The figure that counts, 1.5 s on the wall of an idle machine, follows from it. An import of torch alone would add 3.
LIMIT_CPU_S = 2.0


@pytest.mark.anyio
async def test_start_to_first_tool_list(ws):
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_server"], env={**os.environ, "TUNESMITH_WORKSPACE": str(ws.root)}
    )
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        async with Client(server) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert took[-1] > 0.1, "the server was not waited for, so nothing was measured"
    assert min(took) < LIMIT_CPU_S, took


def test_stdout_carries_the_protocol_and_nothing_else(ws):
    """Raw JSON-RPC, without the SDK's client: a stray print would be a line that is no message."""
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    messages = [
        hello,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "inspect_environment", "arguments": {}}},
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "mcp_server"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin and process.stdout
    with process:
        for message in messages:
            process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        answers = []
        for line in process.stdout:
            answers.append(json.loads(line))
            if answers[-1].get("id") == 2:
                break
        process.stdin.close()
        rest = process.stdout.read()
    assert [answer["id"] for answer in answers if "id" in answer] == [1, 2]
    assert all(answer["jsonrpc"] == "2.0" for answer in answers) and rest.strip() == ""
    assert answers[-1]["result"]["structuredContent"]["tunesmith"]
