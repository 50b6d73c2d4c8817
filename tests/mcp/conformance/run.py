"""The official checks, pinned: MCP conformance in both eras, skills over MCP, Inspector, TypeScript clients v1 and v2.

    python tests/mcp/conformance/run.py            # needs npm; installs its own Node 22 and the pinned packages

Baselines (2026-07-28.yml, 2025-11-25.yml) hold only what needs the suite's own fixtures. A stale entry fails as well.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SKILLS = ("sep-2640-skills-directory", "sep-2640-skills-enumeration", "sep-2640-skills-manifest")


def install() -> Path:
    """The folder with node_modules; kept between runs in the cache folder of the user."""
    folder = Path.home() / ".cache" / "tunesmith-conformance"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = (HERE / "package.json").read_text(encoding="utf-8")
    done = folder / "installed.json"
    for name in ("package.json", "client_v1.mjs", "client_v2.mjs"):
        shutil.copy(HERE / name, folder / name)
    if not done.is_file() or done.read_text(encoding="utf-8") != wanted:
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder, check=True)
        done.write_text(wanted, encoding="utf-8")
    return folder


def start_server(env: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, str(HERE / "open_server.py"), str(port)],
        env=env,
        stderr=subprocess.DEVNULL,  # the suite provokes errors by the dozen
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server, f"http://127.0.0.1:{port}/mcp"
        time.sleep(0.1)
    server.kill()
    raise SystemExit("the server did not come up within 30 s")


def main() -> int:
    node = install()
    with tempfile.TemporaryDirectory() as workspace:
        path = os.pathsep.join([str(node / "node_modules" / ".bin"), os.environ["PATH"]])
        env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "TUNESMITH_WORKSPACE": workspace, "NO_COLOR": "1"}
        env["HF_HUB_OFFLINE"] = "1"
        server, url = start_server(env)
        stdio = [sys.executable, "-m", "mcp_server"]
        inspect = ["mcp-inspector", "--cli", *(part for k in ("PYTHONPATH", "TUNESMITH_WORKSPACE", "HF_HUB_OFFLINE")
                                               for part in ("-e", f"{k}={env[k]}")), *stdio]  # fmt: skip
        verify = ["--protocol-era", "modern", "--method", "skills/list", "--verify"]
        marks = ("Total:", "Passed:", "Verified", "client v")
        suite = ["conformance", "server", "--url", url, "-o", workspace]
        checks = {
            **{f"conformance {revision}": [*suite, "--requirements", revision, "--expected-failures",
                                           str(HERE / f"{revision}.yml")] for revision in ("2026-07-28", "2025-11-25")},
            **{f"conformance {name}": [*suite, "--scenario", name] for name in SKILLS},
            "inspector tools/list --strict": [*inspect, "--method", "tools/list", "--strict"],
            "inspector skills/list --verify": [*inspect, *verify],
            "TypeScript client 1.32": ["node", "client_v1.mjs", *stdio],
            "TypeScript client 2.4": ["node", "client_v2.mjs", *stdio],
        }  # fmt: skip
        failed = []
        try:
            for name, command in checks.items():
                done = subprocess.run(command, cwd=node, env=env, capture_output=True, text=True, timeout=600)
                said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
                told = next((line for line in said if line.startswith(marks)), "")
                print(f"{'ok  ' if done.returncode == 0 else 'FAIL'} {name}  {told}", flush=True)
                if done.returncode:
                    failed.append(name)
                    print("\n".join(said[-30:]))
        finally:
            server.terminate()
            server.wait(timeout=20)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
