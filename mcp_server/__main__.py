"""`tunesmith-mcp`: stdio by default, `--http PORT` for streamable HTTP on the loopback interface."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from skill import __version__


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tunesmith-mcp",
        description="MCP server of Tunesmith. Speaks stdio unless --http is given; logs go to stderr.",
        epilog="Environment: TUNESMITH_WORKSPACE, TUNESMITH_READ_DIRS, TUNESMITH_CACHE, TUNESMITH_TOKEN (for --http).",
    )
    parser.add_argument("--http", type=int, metavar="PORT", help="serve http://127.0.0.1:PORT/mcp with a bearer token; "
                        "0 takes a free port")  # fmt: skip
    parser.add_argument("--workspace", metavar="DIR", help="the one folder that is read and written (default: "
                        "TUNESMITH_WORKSPACE, else the current folder)")  # fmt: skip
    parser.add_argument("--version", action="version", version=f"tunesmith {__version__}")
    args = parser.parse_args(argv)
    if args.workspace:
        os.environ["TUNESMITH_WORKSPACE"] = os.path.abspath(os.path.expanduser(args.workspace))

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    from mcp_server.server import build_server

    server = build_server()
    if args.http is not None:
        from mcp_server.http import serve

        return serve(server, args.http)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
