"""Slots: what a training takes on this machine, one GPU or the CPU. A slot is a lock, so it is never used twice.

The lock file lies in the cache folder, so servers and command lines of all workspaces of a user agree. The supervisor
and the worker hold it; the kernel frees it when both are gone, whatever ended them. CPU slots: TUNESMITH_CPU_SLOTS,
default 1, because one training uses all cores.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from skill.errors import ConflictError, ResourceError
from skill.runs.logs import clean
from skill.runs.processes import boot_id, is_held, take_lock
from skill.spec import RunSpec
from skill.workspace import cache_dir


class Slot(NamedTuple):
    """A slot that is held: its name (cpu-0, gpu-1) and the open file that holds it."""

    name: str
    handle: int

    @property
    def gpu(self) -> str | None:
        return self.name.removeprefix("gpu-") if self.name.startswith("gpu-") else None


def visible_gpus() -> list[str]:
    """Indices (or UUIDs) of the NVIDIA GPUs a child may use; honours CUDA_VISIBLE_DEVICES. No driver call."""
    driver = Path("/proc/driver/nvidia/gpus")
    count = len(list(driver.iterdir())) if driver.is_dir() else 0
    count = count or len([path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)])
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not count:
        return []
    if chosen is None:
        return [str(index) for index in range(count)]
    return [part.strip() for part in chosen.split(",") if re.fullmatch(r"\d+|(GPU|MIG)-[\w-]+", part.strip())]


def candidates(spec: RunSpec) -> list[str]:
    """Names of the slots this run could take, in order.

    Raises:
        ResourceError: launch.device is cuda and there is none.
    """
    gpus = [] if spec.launch.device == "cpu" else visible_gpus()
    if gpus:
        return [f"gpu-{index}" for index in gpus]
    if spec.launch.device == "cuda":
        raise ResourceError(
            "launch.device is 'cuda', but no NVIDIA GPU is visible here.",
            hint="Set launch.device to 'auto' or 'cpu', or start the server where a GPU is.",
        )
    return [f"cpu-{index}" for index in range(_cpu_slots())]


def _cpu_slots() -> int:
    text = os.environ.get("TUNESMITH_CPU_SLOTS", "1")
    if not re.fullmatch(r"[1-9]\d{0,2}", text):
        raise ConflictError(f"TUNESMITH_CPU_SLOTS is {text!r}.", hint="Set it to a whole number from 1 to 999.")
    return int(text)


def _lock_file(name: str) -> Path:
    folder = cache_dir() / "slots" / boot_id()[:8]  # by boot: a home folder may be shared by several machines
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.lock"


def holder(name: str) -> str | None:
    """The run folder that holds a slot; None when it is free."""
    path = _lock_file(name)
    return clean(path.read_text(encoding="utf-8", errors="replace")) or "another run" if is_held(path) else None


def busy_with(spec: RunSpec) -> list[str]:
    """Run folders that hold every slot this run could take; empty when one is free."""
    holders = [holder(name) for name in candidates(spec)]
    return [] if None in holders else [name for name in holders if name]


def take_slot(spec: RunSpec, run_dir: Path) -> Slot:
    """A free slot, held from now on.

    Raises:
        ConflictError: all are taken; names the runs that hold them.
    """
    names = candidates(spec)
    for name in names:
        path = _lock_file(name)
        handle = take_lock(path)
        if handle is not None:
            os.ftruncate(handle, 0)
            os.write(handle, str(run_dir).encode())
            return Slot(name, handle)
    raise busy_error(names)


def busy_error(names: list[str]) -> ConflictError:
    """Every slot is taken: by whom, and what to do."""
    holders = sorted({text for name in names if (text := holder(name))})
    runs = ", ".join(Path(text).name for text in holders[:4]) or "another run"
    first = Path(holders[0]).name if holders else "NAME"
    what = "GPU is" if names[0].startswith("gpu") else "CPU is"
    more = "" if names[0].startswith("gpu") else " (or allow several at once: TUNESMITH_CPU_SLOTS)"
    return ConflictError(
        f"The {what} busy: {runs} is training{'' if not holders else ' in ' + str(Path(holders[0]).parent)}.",
        hint=f"Wait: get_run(run_id={first!r}, wait_s=30). Or stop it: cancel_run(run_id={first!r}){more}.",
    )
