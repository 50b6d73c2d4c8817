"""Starting processes on this machine: argument lists, and the reduced environment they get."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import skill
from skill.runs.logs import SECRET_NAME
from skill.runs.processes import LOCK_VARIABLE
from skill.runs.slots import Slot
from skill.runs.states import Kind
from skill.runs.store import worker_lock
from skill.runs.worker import KIND_VARIABLE
from skill.workspace import RunDir

# What training needs of the parent's environment. RANK, SLURM_* and the like are left out: a run is not part of the
# job its server happens to run in.
_ALLOWED = re.compile(
    r"""PATH|HOME|USER|LOGNAME|SHELL|TMPDIR|TZ|LANG|LANGUAGE|LC_\w+|PYTHONPATH|PYTHONHOME|VIRTUAL_ENV|CONDA_PREFIX
    |LD_LIBRARY_PATH|DYLD_\w+|XDG_\w+|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE
    |(?i:https?_proxy|no_proxy|all_proxy)|CC|CXX
    |(?:HF|HUGGINGFACE|TRANSFORMERS|TOKENIZERS|CUDA|NVIDIA|NCCL|OMP|MKL|OPENBLAS|KMP|GOMP|TORCH|TORCHINDUCTOR|TORCHDYNAMO
    |PYTORCH|TRITON|BNB|BITSANDBYTES|ACCELERATE|ROCR|HIP|HSA|TUNESMITH)_\w+""",
    re.VERBOSE,
)
PASS_VARIABLE = "TUNESMITH_PASS_ENV"


def child_environment() -> dict[str, str]:
    """The parent's environment, reduced to what training needs.

    Names that look like credentials are left out even where their prefix is allowed (HF_TOKEN); the user passes them
    by naming them: TUNESMITH_PASS_ENV=HF_TOKEN,WANDB_API_KEY.
    """
    named = set(re.split(r"[,\s]+", os.environ.get(PASS_VARIABLE, "")))
    return {
        name: value
        for name, value in os.environ.items()
        if name in named
        or (_ALLOWED.fullmatch(name) and not SECRET_NAME.search(name) and name not in (KIND_VARIABLE, LOCK_VARIABLE))
    }


def supervisor_environment(slot: Slot | None) -> dict[str, str]:
    """The reduced environment, with this package importable and only the slot's GPU visible."""
    env = child_environment()
    root = Path(skill.__file__).resolve().parents[1]
    if root.name not in ("site-packages", "dist-packages"):  # a checkout: importable here by chance of the cwd
        env["PYTHONPATH"] = os.pathsep.join(part for part in (str(root), env.get("PYTHONPATH")) if part)
    if slot and slot.gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = slot.gpu
    return env


def worker_environment(run: RunDir, kind: Kind) -> dict[str, str]:
    """What the supervisor gives on: its own environment, the job's name, and output that is written at once."""
    return {
        **os.environ,
        KIND_VARIABLE: kind,
        LOCK_VARIABLE: str(worker_lock(run, kind)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }


def train_argv() -> list[str]:
    """The script of a run, started in its folder, exactly as a person would start it."""
    return [sys.executable, "train.py"]


def supervisor_argv(run: RunDir, kind: Kind, handles: list[int]) -> list[str]:
    return [sys.executable, "-m", "skill.runs.supervisor", str(run.path), kind, *map(str, handles)]


def shell_command(run: RunDir, argv: list[str]) -> str:
    """The same for a person to paste."""
    return f"cd {shlex.quote(str(run.path))} && {shlex.join(argv)}"
