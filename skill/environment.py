"""inspect_environment: what this machine has and what would go wrong on it, told before anything heavy starts.

Nothing here imports torch: GPUs are read from `nvidia-smi`, versions from installed metadata, in about a second.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import platform
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from skill import __version__
from skill.workspace import Workspace

GIB = 2**30

# What every figure of this repository was measured on (constraints.txt; a test holds the two together).
TESTED = {
    "accelerate": "1.15.0",
    "bitsandbytes": "0.50.2",
    "datasets": "5.2.0",
    "mcp": "2.3.0",
    "peft": "0.21.2",
    "pydantic": "2.14.3",
    "safetensors": "0.8.0",
    "tokenizers": "0.23.3",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "trl": "1.16.0",
}

MIN_DISK_GIB = 5.0  # one small run: checkpoints, merged model, logs
MIN_RAM_GIB = 2.0  # a 135M model trains in less; torch alone maps about 0.5


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Package(Part):
    name: str
    installed: str | None = Field(description="None: not installed")
    tested: str = Field(description="Version that Tunesmith was tested against")

    @property
    def matches(self) -> bool:
        return self.installed is not None and release(self.installed) == release(self.tested)


class Gpu(Part):
    name: str
    memory_gib: float | None
    free_gib: float | None
    compute_capability: float | None
    bf16: bool | None = Field(description="From compute capability 8.0 (Ampere) on; None when unknown")


class Hub(Part):
    endpoint: str
    reachable: bool
    why: str


class Problem(Part):
    severity: Literal["error", "warning"]
    seen: str
    fix: str = Field(description="A command or a setting")


class EnvironmentReport(Part):
    tunesmith: str
    python: str
    system: str
    cpu: str
    cpu_cores: int = Field(description="Cores this process may use")
    ram_gib: float
    ram_free_gib: float
    disk_free_gib: float = Field(description="In the workspace")
    gpus: list[Gpu]
    driver: str | None
    hub: Hub
    models_offline: list[str] = Field(description="Model ids that need no network")
    workspace: str
    packages: list[Package]
    problems: list[Problem]
    next_step: str


def inspect_environment(ws: Workspace) -> EnvironmentReport:
    """Versions, hardware, hub, models and workspace of this machine, with a fix for every problem found.

    The slow parts (nvidia-smi, at most 2 s; the hub, at most 1 s) run side by side.
    """
    import psutil

    hub_box: list[Hub] = []
    gpu_box: list[tuple[list[Gpu], str | None, str | None]] = []
    waits = (_start(lambda: hub_box.append(check_hub())), _start(lambda: gpu_box.append(query_gpus())))
    packages = [Package(name=name, installed=_installed(name), tested=pin) for name, pin in TESTED.items()]
    models, model_error = _models(ws)
    memory = psutil.virtual_memory()
    limit, used = cgroup_memory()
    total = min(memory.total, limit) if limit else memory.total
    free = min(memory.available, limit - used) if limit else memory.available
    disk = shutil.disk_usage(ws.root).free
    waits[0].join(1.0)
    waits[1].join(2.1)
    endpoint = _endpoint()
    hub = hub_box[0] if hub_box else Hub(endpoint=endpoint, reachable=False, why="no answer within 1 s")
    gpus, driver, gpu_error = gpu_box[0] if gpu_box else ([], None, "nvidia-smi gave no answer within 2 s")
    problems = [
        *_package_problems(packages, has_gpu=bool(gpus)),
        *_machine_problems(ws, total=total, free=free, disk=disk, gpu_error=gpu_error),
        *_hub_problems(hub, models),
    ]
    if model_error:
        problems.append(model_error)
    return EnvironmentReport(
        tunesmith=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu_name(),
        cpu_cores=usable_cores(),
        ram_gib=_gib(total),
        ram_free_gib=_gib(free),
        disk_free_gib=_gib(disk),
        gpus=gpus,
        driver=driver,
        hub=hub,
        models_offline=models,
        workspace=str(ws.root),
        packages=packages,
        problems=problems,
        next_step=_next_step(problems, gpus, models, hub),
    )


def query_gpus() -> tuple[list[Gpu], str | None, str | None]:
    """GPUs, driver version, and what went wrong (None when all is well or there is simply no NVIDIA driver)."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return [], None, None
    fields = "name,memory.total,memory.free,compute_cap,driver_version"
    try:
        done = subprocess.run(
            [tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [], None, "nvidia-smi gave no answer within 2 s"
    except OSError as error:
        return [], None, f"nvidia-smi cannot be started ({error.strerror})"
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        return [], None, f"nvidia-smi failed: {said[0][:160] if said else f'exit {done.returncode}'}"
    return *parse_gpus(done.stdout), None


def parse_gpus(text: str) -> tuple[list[Gpu], str | None]:
    """Lines of `name, total MiB, free MiB, capability, driver`; `[N/A]` (unified memory, MIG) becomes None."""
    gpus: list[Gpu] = []
    driver = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.rsplit(",", 4)]
        if len(cells) != 5:
            continue
        capability = _number(cells[3])
        gpus.append(
            Gpu(
                name=cells[0],
                memory_gib=_mib_to_gib(cells[1]),
                free_gib=_mib_to_gib(cells[2]),
                compute_capability=capability,
                bf16=None if capability is None else capability >= 8.0,
            )
        )
        driver = cells[4]
    return gpus, driver


def check_hub(timeout_s: float = 0.9) -> Hub:
    """Whether the model hub answers an HTTP request (through the configured proxy) in time."""
    endpoint = _endpoint()
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").lower() in ("1", "true", "yes", "on"):
            return Hub(endpoint=endpoint, reachable=False, why=f"{name} is set")
    if not endpoint.startswith(("https://", "http://")):
        return Hub(endpoint=endpoint, reachable=False, why="HF_ENDPOINT is not an http(s) address")
    request = urllib.request.Request(endpoint, method="HEAD", headers={"User-Agent": f"tunesmith/{__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s):
            return Hub(endpoint=endpoint, reachable=True, why="answers")
    except (OSError, http.client.HTTPException) as error:  # URLError, HTTPError, timeouts, DNS are OSErrors
        reason = getattr(error, "reason", error)
        return Hub(endpoint=endpoint, reachable=False, why=str(reason)[:120] or type(error).__name__)


def usable_cores() -> int:
    """Cores this process may run on: affinity and the container's CPU quota, not the machine's count."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, round(int(quota[0]) / int(quota[1]))))
    return cores


def cgroup_memory() -> tuple[int | None, int]:
    """(limit, used) in bytes of the container, v2 then v1; limit None when there is none."""
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        limit, used = _read(limit_file), _read(used_file)
        if limit.isdigit() and int(limit) < 2**60:  # v1 writes a huge number for "no limit"
            return int(limit), int(used) if used.isdigit() else 0
    return None, 0


def cpu_name() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def release(version: str) -> str:
    """`2.13.0+cpu` -> `2.13.0`: the local part names the build, not the release."""
    return version.partition("+")[0]


def _package_problems(packages: list[Package], *, has_gpu: bool) -> list[Problem]:
    out = []
    for package in packages:
        install = f"pip install {package.name}=={package.tested}"
        if package.installed is None:
            out.append(Problem(severity="error", seen=f"{package.name} is not installed.", fix=install))
        elif not package.matches:
            seen = f"{package.name} {package.installed} is installed; Tunesmith was tested with {package.tested}."
            out.append(Problem(severity="warning", seen=seen, fix=install))
    torch = next(package.installed for package in packages if package.name == "torch")
    if has_gpu and torch and torch.endswith("+cpu"):
        out.append(
            Problem(
                severity="error",
                seen=f"torch {torch} is a CPU build, but this machine has a GPU.",
                fix=f"pip install --force-reinstall torch=={TESTED['torch']}",
            )
        )
    return out


def _machine_problems(ws: Workspace, *, total: int, free: int, disk: int, gpu_error: str | None) -> list[Problem]:
    out = []
    if not os.access(ws.root, os.W_OK):
        seen = f"The workspace {ws.root} cannot be written."
        out.append(Problem(severity="error", seen=seen, fix="Set TUNESMITH_WORKSPACE to a folder of yours."))
    if disk < MIN_DISK_GIB * GIB:
        seen = f"{_gib(disk)} GiB of disk left in the workspace; a small run wants {MIN_DISK_GIB:g}."
        out.append(
            Problem(severity="warning", seen=seen, fix="Free space, or move TUNESMITH_WORKSPACE to a larger disk.")
        )
    if free < MIN_RAM_GIB * GIB:
        seen = f"{_gib(free)} of {_gib(total)} GiB of memory is free; a small run wants {MIN_RAM_GIB:g}."
        out.append(Problem(severity="warning", seen=seen, fix="Stop other programs; see list_runs(state='running')."))
    if gpu_error:
        fix = "Run nvidia-smi by hand; reload or reinstall the NVIDIA driver. Without it, training runs on the CPU."
        out.append(Problem(severity="warning", seen=f"{gpu_error}.", fix=fix))
    return out


def _hub_problems(hub: Hub, models: list[str]) -> list[Problem]:
    if hub.reachable:
        return []
    known = f"Use a local folder, or one of: {', '.join(models[:5])}." if models else ""
    return [
        Problem(
            severity="warning" if models else "error",
            seen=f"The hub {hub.endpoint} is out of reach ({hub.why}).",
            fix=f"{known} For hub models set HTTPS_PROXY or HF_ENDPOINT, or copy the model folder in.".strip(),
        )
    ]


def _models(ws: Workspace) -> tuple[list[str], Problem | None]:
    """Models that need no network. Looking must never break the report, so any failure becomes a problem in it."""
    try:
        from skill.models import available_models

        return list(available_models(ws)), None
    except Exception as error:
        seen = f"The list of local models cannot be read ({type(error).__name__}: {str(error)[:120]})."
        return [], Problem(severity="warning", seen=seen, fix="pip install --force-reinstall tunesmith")


def _next_step(problems: list[Problem], gpus: list[Gpu], models: list[str], hub: Hub) -> str:
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        return f"Fix first: {errors[0].fix} Then call inspect_environment again."
    gpu = next((g.memory_gib for g in gpus if g.memory_gib), None)
    memory = f", gpu_gib={gpu:g}" if gpu else ""
    model = f", model={models[0]!r}" if models and not hub.reachable else ""
    return f"Call recommend_approach(task='what the model shall do, in words'{memory}{model})."


def _start(call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)  # daemon: a hanging DNS lookup must not hold the process
    thread.start()
    return thread


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _gib(count: float) -> float:
    return round(count / GIB, 1)


def _mib_to_gib(text: str) -> float | None:
    value = _number(text)
    return None if value is None else round(value / 1024, 2)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
