"""HTTP is for this machine's user only: loopback, token, Host and Origin checked, nothing on stdout."""

from __future__ import annotations

import socket
import subprocess
import sys

import httpx2
import psutil

from tests.mcp.mcp_cases import HttpServer

LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
ACCEPT = {"Accept": "application/json, text/event-stream"}


def post(server, **headers: str) -> httpx2.Response:
    return httpx2.post(server.url, json=LIST, headers={**ACCEPT, **headers}, timeout=20)


def test_no_token_no_answer(http_server):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {http_server.token}"}):
        answer = post(http_server, **headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert "estimate_vram" not in answer.text


def test_foreign_host_and_origin_are_refused_even_with_the_token(http_server):
    token = {"Authorization": f"Bearer {http_server.token}"}
    assert post(http_server, **token, Host="evil.example").status_code == 421
    assert post(http_server, **token, Origin="https://evil.example").status_code == 403
    assert post(http_server, **token, Origin="http://localhost:3000").status_code not in (401, 403, 421)


def test_it_listens_on_loopback_only(http_server):
    sockets = psutil.Process(http_server.process.pid).net_connections("tcp")
    assert {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_a_token_from_the_environment_is_used_and_never_printed(tmp_path):
    server = HttpServer(tmp_path, TUNESMITH_TOKEN="s3cret-of-mine")
    try:
        answer = post(server, Authorization="Bearer s3cret-of-mine")
    finally:
        code, printed = server.stop()
    assert answer.status_code not in (401, 403)
    assert printed == "" and "s3cret" not in "".join(server.lines)
    assert code in (0, -15), "ended by the signal it was sent"


def test_a_busy_port_is_a_sentence_not_a_traceback():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "mcp_server", "--http", str(port)], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"Cannot listen on 127.0.0.1:{port}" in done.stderr and "--http 0" in done.stderr
