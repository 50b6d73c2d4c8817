"""Is it alive, and is it still the same process? Two answers that survive kill -9, reboots and reused pids.

Alive: a process holds an flock on its lock file from before it is started (the parent takes the lock and hands the open
file over) until the kernel closes that file at its death. No pid, clock or container boundary enters into it.
The same: a pid is signalled only while boot id and start time are those recorded, so a reused pid is never hit.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

PROBE_S = 0.1
LOCK_VARIABLE = "TUNESMITH_JOB_LOCK"  # in the environment of a worker and all it starts: path of its lock file


class Process(BaseModel):
    """A process as recorded. `create_time` is unix seconds, for people; `token` is what is compared."""

    model_config = ConfigDict(frozen=True)

    pid: int
    create_time: float
    token: str


def boot_id() -> str:
    """Names this boot of this machine, so that a pid of before a reboot is never mistaken for one of now."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return str(int(psutil.boot_time()))


def _start_token(pid: int) -> str:
    """Boot and start time of a process. Linux: ticks since boot, which a changed wall clock does not move."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return f"{boot_id()}:{stat.rpartition(')')[2].split()[19]}"  # field 22 of proc(5), starttime
    except FileNotFoundError:
        return f"{boot_id()}:{psutil.Process(pid).create_time():.2f}"


def identity(pid: int) -> Process:
    """The recordable identity of a running process.

    Raises:
        psutil.NoSuchProcess: it is gone.
    """
    return Process(pid=pid, create_time=round(psutil.Process(pid).create_time(), 2), token=_start_token(pid))


def is_same(process: Process) -> bool:
    """Whether the recorded process still runs (a zombie does not)."""
    try:
        if _start_token(process.pid) != process.token:
            return False
        return psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def take_lock(path: Path, *, wait_s: float | None = PROBE_S) -> int | None:
    """An open file that holds the exclusive lock on `path`, or None when another held it for `wait_s` seconds.

    None waits for ever. The default outlasts the probes of readers, which hold a shared lock for microseconds.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + (wait_s or 0.0)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait_s is None else fcntl.LOCK_NB))
                return handle
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(handle)
                    return None
                time.sleep(0.005)
    except BaseException:
        os.close(handle)
        raise


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock on `path`. A shared probe, so that two readers never see each other."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the exclusive lock on `path`; waits for it. Released by the kernel if the holder dies."""
    handle = take_lock(path, wait_s=None)
    assert handle is not None
    try:
        yield
    finally:
        os.close(handle)


def spawn(
    argv: list[str], *, cwd: Path, env: dict[str, str], log: Path, keep_open: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    """A detached process: own session, no stdin, output appended to `log`, holding the locks of `keep_open`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=keep_open,
        )


def reap_later(process: subprocess.Popen[bytes]) -> None:
    """Collect the exit status when it comes, so that a long-lived server keeps no zombies."""
    threading.Thread(target=process.wait, name=f"reap-{process.pid}", daemon=True).start()


def signal_job(leader: Process | None, lock: Path, number: signal.Signals) -> int:
    """Signal a worker's process group; when its leader is gone, what is left of it. Returns how many were reached."""
    if leader is not None and is_same(leader):
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, number)
            return 1
    rest = workers_of(lock)
    for process in rest:
        with suppress(psutil.Error):
            process.send_signal(number)
    return len(rest)


def workers_of(lock: Path) -> list[psutil.Process]:
    """Processes started for the job of this lock file, oldest first: found by their environment."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(LOCK_VARIABLE) == str(lock) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())
