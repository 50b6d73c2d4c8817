"""Streamable HTTP on the loopback interface, behind a bearer token.

Any process of any user of a machine can reach a loopback port, and a web page can make a browser try; so every request
carries the token (TUNESMITH_TOKEN, else generated), and the SDK checks Host and Origin against DNS rebinding.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp.server import MCPServer

HOST = "127.0.0.1"
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class BearerToken:
    """ASGI wrapper: 401 for a request without `Authorization: Bearer <token>`."""

    def __init__(self, app: App, token: str) -> None:
        self.app = app
        self.expected = f"bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not self._allowed(scope):
            body = b'{"error":"invalid_token","error_description":"Send Authorization: Bearer <token>."}'
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self.app(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        given = next((value for key, value in scope["headers"] if key.lower() == b"authorization"), b"")
        kind, _, token = given.partition(b" ")
        return hmac.compare_digest(kind.lower() + b" " + token.strip(), self.expected)


def serve(server: MCPServer[Any], port: int) -> int:
    """Serve until SIGINT or SIGTERM. Port 0 takes a free one. Returns an exit code; address and token go to stderr."""
    import uvicorn

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)  # a client that reads the address may connect at once
    except OSError as error:
        print(f"Cannot listen on {HOST}:{port}: {error.strerror}. Choose another: --http 0 takes a free one.",
              file=sys.stderr)  # fmt: skip
        return 1
    token = os.environ.get("TUNESMITH_TOKEN") or ""
    print(f"Tunesmith MCP server: http://{HOST}:{listener.getsockname()[1]}/mcp", file=sys.stderr)
    if token:
        print("Token: the value of TUNESMITH_TOKEN", file=sys.stderr, flush=True)
    else:
        token = secrets.token_urlsafe(24)
        print(f"Token: {token}  (send it as Authorization: Bearer …)", file=sys.stderr, flush=True)
    app = BearerToken(server.streamable_http_app(host=HOST), token)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[listener])
    return 0
