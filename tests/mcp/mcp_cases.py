"""The tool list in the order in which it is served, and the HTTP server as a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

TOOLS = [
    "inspect_environment",
    "recommend_approach",
    "validate_dataset",
    "estimate_vram",
    "render_training_script",
    "launch_training",
    "get_run",
    "list_runs",
    "cancel_run",
    "resume_run",
    "merge_adapter",
    "run_eval",
]


class HttpServer:
    """`tunesmith-mcp --http 0` as a process of its own. Ready once it says where it listens."""

    def __init__(self, workspace: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcp_server", "--http", "0"],
            env={**os.environ, "TUNESMITH_WORKSPACE": str(workspace), **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr
        self.lines = [self.process.stderr.readline(), self.process.stderr.readline()]
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()), daemon=True)
        self.reader.start()  # keeps the pipe empty
        address = re.search(r"http://\S+", self.lines[0])
        token = re.search(r"Token: (\S+)  ", self.lines[1])
        self.url = address[0] if address else ""
        self.token = environment.get("TUNESMITH_TOKEN") or (token[1] if token else "")
        assert self.url and self.token, self.lines

    def stop(self) -> tuple[int, str]:
        """End it as a service manager would. Returns its exit code and what it printed on stdout."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout and self.process.stderr
        printed = self.process.stdout.read()
        code = self.process.wait(timeout=20)
        self.reader.join(timeout=5)
        self.process.stdout.close()
        self.process.stderr.close()
        return code, printed
