"""inspect_environment: honest about this machine, fast, and never the thing that fails."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from skill import environment
from skill.environment import Hub, Package, check_hub, inspect_environment, parse_gpus, query_gpus
from skill.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def ws(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Workspace.open(tmp_path)


@pytest.fixture
def fake_smi(tmp_path, monkeypatch):
    """An nvidia-smi on PATH that runs the given shell lines."""

    def install(body: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        tool = folder / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return install


def test_report_describes_this_machine(ws):
    report = inspect_environment(ws)
    assert report.workspace == str(ws.root)
    assert report.cpu_cores >= 1 and report.ram_gib >= report.ram_free_gib > 0
    assert {p.name for p in report.packages} == set(environment.TESTED)
    assert next(p for p in report.packages if p.name == "pydantic").installed
    assert report.next_step.split("(")[0].endswith(("recommend_approach", "inspect_environment again."))
    assert all(problem.fix for problem in report.problems)


def test_pins_are_those_of_constraints_txt():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pins == environment.TESTED


def test_a_missing_and_a_different_version_each_get_a_command(ws, monkeypatch):
    versions = {**environment.TESTED, "trl": "0.9.6", "torch": "2.13.0+cpu"}
    versions.pop("peft")
    monkeypatch.setattr(environment, "_installed", versions.get)
    fixes = {p.fix: p.severity for p in inspect_environment(ws).problems}
    assert fixes["pip install peft==0.21.2"] == "error"
    assert fixes["pip install trl==1.16.0"] == "warning"
    assert not any("torch==" in fix for fix in fixes), "a local build of the tested release is the tested release"


def test_package_release_ignores_the_build():
    assert Package(name="torch", installed="2.13.0+cu130", tested="2.13.0").matches
    assert not Package(name="torch", installed="2.13.1", tested="2.13.0").matches


def test_gpus_are_read_in_gib_with_bf16():
    gpus, driver = parse_gpus(
        "NVIDIA H200, 143771, 143123, 9.0, 570.1\nTesla T4, 15360, 15000, 7.5, 570.1\n"
        "NVIDIA GB10, [N/A], [N/A], 12.1, 580.2\n"
    )
    assert [(g.name, g.memory_gib, g.bf16) for g in gpus] == [
        ("NVIDIA H200", 140.4, True),
        ("Tesla T4", 15.0, False),
        ("NVIDIA GB10", None, True),
    ]
    assert driver == "580.2"


def test_gpu_report_end_to_end(ws, fake_smi, monkeypatch):
    fake_smi("echo 'NVIDIA L4, 23034, 22500, 8.9, 550.54'")
    monkeypatch.setattr(environment, "_installed", {**environment.TESTED, "torch": "2.13.0+cpu"}.get)
    report = inspect_environment(ws)
    assert report.gpus[0].memory_gib == 22.49 and report.driver == "550.54"
    assert any("CPU build" in problem.seen and problem.severity == "error" for problem in report.problems)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo 'NVIDIA-SMI has failed: cannot talk to the driver'; exit 9", "cannot talk to the driver"),
        ("exec sleep 20", "no answer within 2 s"),
    ],
)
def test_a_broken_driver_is_a_problem_not_a_crash(fake_smi, body, said):
    fake_smi(body)
    gpus, _, error = query_gpus()
    assert gpus == [] and error and said in error


def test_no_driver_is_no_problem(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert query_gpus() == ([], None, None)


def test_hub_is_checked_by_a_real_request(monkeypatch):
    import http.server
    import threading

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    worker = threading.Thread(target=server.handle_request)
    worker.start()
    assert check_hub().reachable
    worker.join(5)
    server.server_close()
    assert not check_hub().reachable


@pytest.mark.parametrize("endpoint", ["file:///etc/passwd", "ftp://host/x"])
def test_only_http_endpoints_are_asked(monkeypatch, endpoint):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert check_hub() == Hub(endpoint=endpoint, reachable=False, why="HF_ENDPOINT is not an http(s) address")


def test_full_disk_and_little_memory_are_told(ws):
    found = environment._machine_problems(ws, total=8 << 30, free=1 << 30, disk=1 << 30, gpu_error=None)
    assert ["disk" in found[0].seen, "memory" in found[1].seen] == [True, True]


def test_container_limits_count(monkeypatch):
    files = {"/sys/fs/cgroup/cpu.max": "100000 100000", "/sys/fs/cgroup/memory.max": str(4 << 30)}
    monkeypatch.setattr(environment, "_read", lambda path: files.get(path, ""))
    assert environment.usable_cores() == 1
    assert environment.cgroup_memory() == (4 << 30, 0)


def test_no_heavy_import_and_fast(ws):
    code = (
        "import sys, time; t = time.perf_counter()\n"
        "from skill.environment import inspect_environment\nfrom skill.workspace import Workspace\n"
        f"inspect_environment(Workspace.open({str(ws.root)!r}))\n"
        "print(time.perf_counter() - t, sorted({'torch', 'transformers', 'trl', 'peft'} & set(sys.modules)))"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split(maxsplit=1)[1].strip() == "[]"
    assert time.perf_counter() - start < 10, "a bound that holds on a busy machine; the benchmark states the figure"
