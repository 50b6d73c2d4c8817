"""The server over every transport: in memory, a stdio process, streamable HTTP with its token; each in both eras."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from mcp_server.server import build_server
from tests.mcp.mcp_cases import HttpServer


@pytest.fixture(scope="session")
def http_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    server = HttpServer(tmp_path_factory.mktemp("http-ws"))
    yield server
    server.stop()


@asynccontextmanager
async def http_client(server: HttpServer, mode: str) -> Any:
    headers = {"Authorization": f"Bearer {server.token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(server.url, http_client=http), mode=mode, read_timeout_seconds=60) as client,
    ):
        yield client


@pytest.fixture(params=[f"{where}-{era}" for where in ("memory", "stdio", "http") for era in ("auto", "legacy")])
def connect(request: pytest.FixtureRequest, ws: Any) -> Any:
    """A function that opens a client on the parametrised transport and era; `connect.era` names the era."""
    where, _, era = request.param.partition("-")

    def opened() -> Any:
        if where == "http":
            return http_client(request.getfixturevalue("http_server"), era)
        target: Any = build_server()
        if where == "stdio":
            target = StdioServerParameters(
                command=sys.executable,
                args=["-m", "mcp_server"],
                env={**os.environ, "TUNESMITH_WORKSPACE": str(ws.root)},
            )
        return Client(target, mode=era, read_timeout_seconds=60)

    opened.era = era  # type: ignore[attr-defined]
    return opened
