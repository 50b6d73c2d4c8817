"""A run under an agent's hands: start, wait with progress, stop waiting, cancel, resume, survive the server's death."""

from __future__ import annotations

import json
import os
import sys
import time

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.subscriptions import ResourceUpdated

from mcp_server.server import build_server
from tests.runs.conftest import make_run  # noqa: F401 (a fixture)

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def own_slots(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


async def call(client: Client, tool: str, **arguments):
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content[0].text
    return result.structured_content


async def until_step(client: Client, run_id: str, step: int):
    with anyio.fail_after(20):
        while (status := await call(client, "get_run", run_id=run_id))["step"] < step:
            await anyio.sleep(0.02)
    return status


async def test_preview_start_wait_with_progress_complete(ws, make_run):  # noqa: F811
    run, seen = make_run(hold_at=3), []

    async def progress(step: float, total: float | None, message: str | None) -> None:
        seen.append((step, total, message))

    async with Client(build_server(), read_timeout_seconds=60) as client:
        preview = await call(client, "launch_training", run_id="one")
        assert preview["command"] and "dry_run=false" in preview["next_step"]
        assert (await call(client, "list_runs"))["runs"][0]["state"] == "created", "a preview starts nothing"

        before = time.monotonic()
        started = await call(client, "launch_training", run_id="one", dry_run=False)
        assert time.monotonic() - before < 1.0 and started["run_id"] == "one"
        await until_step(client, "one", 3)
        (run.path / "go").touch()
        status = await client.call_tool("get_run", {"run_id": "one", "wait_s": 30}, progress_callback=progress)
        body = status.structured_content
        assert body["state"] == "completed" and body["step"] == body["total_steps"] == 8
        assert len(json.dumps(body)) < 6000, "a status is small"
        again = await call(client, "launch_training", run_id="one", dry_run=False)
        assert again["already_there"], "the same name and spec is the same run"
    assert all(total == 8 and "one" in message for _, total, message in seen)


async def test_waiting_returns_at_the_end_of_the_wait_and_can_be_given_up(ws, make_run):  # noqa: F811
    run = make_run(hold_at=2)
    async with Client(build_server(), read_timeout_seconds=60) as client:
        await call(client, "launch_training", run_id="one", dry_run=False)
        await until_step(client, "one", 2)
        before = time.monotonic()
        assert (await call(client, "get_run", run_id="one", wait_s=0.5))["state"] == "running"
        assert 0.4 < time.monotonic() - before < 5
        with anyio.move_on_after(0.3) as scope:
            await client.call_tool("get_run", {"run_id": "one", "wait_s": 30})
        assert scope.cancelled_caught
        assert (await call(client, "list_runs", state="running"))["total"] == 1, "the server answers at once again"
        (run.path / "go").touch()


async def test_cancel_and_resume(ws, make_run):  # noqa: F811
    run = make_run(hold_at=3)
    async with Client(build_server(), read_timeout_seconds=60) as client:
        await call(client, "launch_training", run_id="one", dry_run=False)
        await until_step(client, "one", 3)
        assert (await call(client, "cancel_run", run_id="one"))["state"] in ("cancelling", "cancelled")
        with anyio.fail_after(30):
            while (await call(client, "get_run", run_id="one", wait_s=5))["state"] != "cancelled":
                pass
        refused = await client.call_tool("cancel_run", {"run_id": "one"})
        assert refused.is_error and "wrong_state" in refused.content[0].text
        (run.path / "go").touch()
        assert (await call(client, "resume_run", run_id="one"))["attempt"] == 2
        with anyio.fail_after(30):
            while (await call(client, "get_run", run_id="one", wait_s=5))["state"] != "completed":
                pass


async def test_training_outlives_the_server(ws, make_run):  # noqa: F811
    run = make_run(hold_at=3)
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_server"], env={**os.environ, "TUNESMITH_WORKSPACE": str(ws.root)}
    )
    async with Client(server, read_timeout_seconds=60) as client:
        await call(client, "launch_training", run_id="one", dry_run=False)
        await until_step(client, "one", 3)
    # closing the client has killed the server and its process group
    async with Client(server, read_timeout_seconds=60) as client:
        assert (await call(client, "get_run", run_id="one"))["state"] == "running"
        (run.path / "go").touch()
        with anyio.fail_after(30):
            while (await call(client, "get_run", run_id="one", wait_s=5))["state"] != "completed":
                pass
        state = json.loads((await client.read_resource("runs://one")).contents[0].text)
        assert state["state"] == "completed"


async def test_a_listener_hears_of_a_change_it_did_not_make(ws, make_run):  # noqa: F811
    run = make_run(hold_at=2)
    server = build_server()
    async with (
        Client(server, read_timeout_seconds=60) as client,
        client.listen(resource_subscriptions=["runs://one"]) as heard,
    ):
        await call(client, "launch_training", run_id="one", dry_run=False)  # the process writes, not this server
        with anyio.fail_after(15):
            async for event in heard:
                assert isinstance(event, ResourceUpdated) and str(event.uri) == "runs://one"
                break
        (run.path / "go").touch()
