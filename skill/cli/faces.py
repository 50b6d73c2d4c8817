"""The verbs of the other package, imported by name only: the engine knows nothing of MCP."""

from __future__ import annotations

import argparse
import importlib
import os
from typing import Any


def add_parsers(verbs: Any, shared: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser("serve", parents=[shared], help="run the MCP server (stdio, or --http PORT)")
    parser.add_argument("--http", type=int, metavar="PORT", help="streamable HTTP on 127.0.0.1 with a bearer token; "
                        "0 takes a free port")  # fmt: skip
    parser.set_defaults(run=serve)
    parser = verbs.add_parser(
        "demo", parents=[shared], help="the whole road on a real model, with a verdict, in minutes"
    )
    parser.set_defaults(run=demo)


def serve(args: argparse.Namespace) -> int:
    options = [] if args.http is None else ["--http", str(args.http)]
    return importlib.import_module("mcp_server.__main__").main(options)


def demo(args: argparse.Namespace) -> int:
    folder = getattr(args, "workspace", None) or os.environ.get("TUNESMITH_WORKSPACE") or "demo-workspace"
    return importlib.import_module("mcp_server.demo").main(folder)
