"""How parameters, gradients and optimizer states are spread over GPUs, and what has to be whole for a moment.

DDP: gradient buckets beside the gradients (torch DistributedDataParallel, gradient_as_bucket_view off).
FSDP full_shard (torch FSDP1 under accelerate): flat parameters in 1/N, one decoder layer gathered at a time, the root
unit (embeddings, head) gathered from the first forward to the end of backward. Under mixed precision accelerate keeps
trained parameters, gradients and states in float32 and gathers 16-bit copies. With frozen weights the reshard hook
(torch/distributed/fsdp/_runtime_utils.py _register_post_backward_reshard_only_hook) holds each layer's recomputed input
and its gradient until the step ends.
ZeRO (DeepSpeed): float32 master copy, states and 1/N gradients; bucket sizes are its defaults (5e8 elements reduce,
stage 3: 1e9 live parameters, 5e7 prefetch).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skill.memory.job import Job
from skill.memory.ledger.static import layer_bytes, model_bytes, outer_bytes
from skill.memory.ledger.tape import Ledger, Storage

ZERO_BUCKET = 500_000_000
ZERO3_LIVE = 1_000_000_000


@dataclass(frozen=True)
class Plan:
    """Bytes on one device. unit, root: gathered copies of a layer and of what is outside the layers; buffers: for
    communication, through the step; step_factor: what the optimizer step's temporaries shrink by."""

    weights: int
    parameter_shards: int = 1
    gradient_factor: float = 1.0
    state_factor: float = 1.0
    master_width: int = 0
    extra_states_per_element: float = 0.0
    unit: int = 0
    root: int = 0
    buffers: int = 0
    retains_inputs: bool = False
    step_factor: float = 1.0

    def master(self, w: int) -> int:
        """Bytes of a trained parameter where the optimizer sees it."""
        return self.master_width or w

    def states(self, whole: int, elements: int) -> int:
        """Optimizer states, from their unsharded bytes and the trained elements."""
        if self.state_factor == 1:
            return whole
        return int(whole * self.state_factor + self.extra_states_per_element * elements)

    def gradients(self, whole: int) -> int:
        return whole if self.gradient_factor == 1 else int(whole * self.gradient_factor)


def plan(job: Job) -> Plan:
    """Plan of one device for job.sharding over job.num_gpus."""
    n, kind = job.num_gpus, job.sharding
    if n == 1 and kind in ("none", "ddp"):
        return Plan(model_bytes(job))
    if kind in ("none", "ddp"):
        full = job.method == "full"
        return Plan(model_bytes(job), buffers=model_bytes(job) if full else 0)
    if kind == "fsdp":
        return _fsdp(job, n)
    return _zero(job, n, int(kind[-1]))


def _fsdp(job: Job, n: int) -> Plan:
    full = job.method == "full"
    master = 4 if full and job.autocast else job.width
    weights = model_bytes(job, shards=n) * (master // job.width if full else 1)
    low = job.but(dtype="bfloat16") if job.autocast and job.dtype == "float32" else job
    return Plan(
        weights=weights,
        parameter_shards=n,
        gradient_factor=(master / job.width if full else 1.0) / n,
        state_factor=1 / n,
        master_width=master if full else 0,
        unit=layer_bytes(low),
        root=outer_bytes(low),
        retains_inputs=not full and job.checkpointing and job.reentrant,
        step_factor=(master / job.width if full else 1.0) / n,
    )


def _zero(job: Job, n: int, stage: int) -> Plan:
    full = job.method == "full"
    trained = job.shape.params if full else 0
    width = job.width
    bucket = min(ZERO_BUCKET, max(trained, 1)) * width if full else 0
    states = 0.0 if job.offload else 12.0 / n  # float32 master, momentum, variance
    common: dict[str, Any] = {"state_factor": 0.0, "extra_states_per_element": states, "step_factor": 0.0}
    if stage == 1:
        return Plan(model_bytes(job), buffers=2 * bucket, **common)
    if stage == 2:
        return Plan(model_bytes(job), gradient_factor=1 / n, buffers=2 * bucket, **common)
    live = min(ZERO3_LIVE * width, model_bytes(job))
    return Plan(
        model_bytes(job, shards=n),
        parameter_shards=n,
        gradient_factor=0.0 if job.offload else 1 / n,
        unit=layer_bytes(job),
        root=outer_bytes(job),
        buffers=max(0, min(live, 2 * layer_bytes(job)) + bucket // 10),
        **common,
    )


class Unsharded:
    """A gathered unit, there between gather() and free()."""

    __slots__ = ("ledger", "nbytes", "storage")

    def __init__(self, ledger: Ledger, nbytes: int) -> None:
        self.ledger, self.nbytes = ledger, nbytes
        self.storage: Storage | None = None

    def gather(self) -> None:
        if self.nbytes:
            self.storage = Storage(self.ledger, self.nbytes)

    def free(self) -> None:
        self.storage = None
