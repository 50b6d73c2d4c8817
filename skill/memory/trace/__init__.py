"""Trace one step of the installed libraries' own code on meta tensors, in a process of its own: the emulation patches
torch, and an error in it must not take the caller along."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from skill.errors import MissingDependency, ModelUnsupported
from skill.memory.job import Job

if TYPE_CHECKING:
    from skill.memory.peak import Peak

TIMEOUT_S = 180


def traced_bytes(job: Job) -> dict[str, Any]:
    """{"allocated", "static", "label"} of a full-depth step, extrapolated from two and three layers.

    Raises:
        ModelUnsupported: the installed libraries cannot build or run this model on meta tensors; their message follows.
        MissingDependency: torch, transformers or PEFT is not installed.
    """
    payload = dataclasses.asdict(job)
    payload["shape"].pop("family", None)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "skill.memory.trace.worker"],
        input=json.dumps(payload),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment,
    )
    last = done.stdout.strip().splitlines()[-1:] or [""]
    try:
        answer: dict[str, Any] = json.loads(last[0])
    except ValueError:
        answer = {"error": (done.stderr.strip().splitlines() or ["no output"])[-1][:300], "kind": "crash"}
    if answer.get("kind") == "ImportError":
        raise MissingDependency(
            f"Tracing needs the training libraries: {answer['error']}", hint="pip install tunesmith"
        )
    if "error" in answer:
        raise ModelUnsupported(
            f"{job.shape.model_type!r} cannot be traced here: {answer['error']}",
            hint="Call estimate_vram without trace for the analytic figure.",
        )
    return answer


def traced_peak(job: Job, analytic: Peak) -> Peak:
    """The analytic Peak with its allocated figure replaced by the trace; the parts keep their proportions beyond the
    static ones."""
    allocated = int(traced_bytes(job.but(num_gpus=1, sharding="none"))["allocated"])
    shift = allocated - analytic.allocated
    name = max(
        ("activations", "logits_and_loss", "optimizer_step", "checkpoints"), key=lambda k: analytic.parts.get(k, 0)
    )
    parts = {**analytic.parts, name: max(0.0, analytic.parts.get(name, 0.0) + shift)}
    rest = allocated - sum(parts.values())
    parts["other"] = parts.get("other", 0.0) + rest
    return dataclasses.replace(
        analytic,
        allocated=allocated,
        reserved=analytic.reserved + shift,
        process=analytic.process + shift,
        parts={k: v for k, v in parts.items() if v},
        method_used="traced",
    )
