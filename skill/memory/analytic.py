"""Peak of one training step by arithmetic: the simplest model, superseded step by step by the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from skill.memory.job import BYTES, Job


@dataclass(frozen=True)
class Peak:
    """Bytes. parts sums to allocated."""

    allocated: float
    reserved: float
    process: float
    parts: dict[str, float]


def adapter_params(job: Job) -> int:
    """Trainable adapter parameters."""
    s = job.shape
    if job.method == "full":
        return 0
    if job.method == "prefix":
        return 2 * s.layers * job.virtual_tokens * s.kv_width
    linears = [*s.attention, *s.mlp]
    if job.targets != "all-linear":
        names = (job.targets,) if isinstance(job.targets, str) else job.targets
        linears = [x for x in linears if x.name in names]
    return s.layers * sum(job.rank * (x.n_in + x.n_out) + (x.n_out if job.dora else 0) for x in linears)


def weight_bytes(job: Job) -> float:
    """Frozen and trained weights of the model without adapters."""
    s, width = job.shape, job.width
    if job.quant == "none":
        return s.params * width
    per = {"nf4": 0.5 + 4 / 64, "nf4-dq": 0.5 + 1 / 64 + 4 / 64 / 256, "int8": 1 + 4 / 4096, "gptq": 0.54}[job.quant]
    rest = s.params - s.layer_linear
    return s.layer_linear * per + rest * (4 if job.kbit_prepare else width)


def peak(job: Job) -> Peak:
    """Peak bytes of one step."""
    s, t = job.shape, job.tokens
    adapters = adapter_params(job)
    trained = s.params if job.method == "full" else adapters
    trained_width = job.width if job.method == "full" else BYTES[job.adapter_dtype]
    states = {"adamw_fused": 2 * trained_width, "adamw_foreach": 2 * trained_width, "adamw_8bit": 2.03, "paged": 0.0}
    weights = weight_bytes(job)
    width = 2 if job.autocast else job.width
    layer = t * (16 * s.hidden + 8 * s.intermediate + 4 * s.q_width + 4 * s.kv_width) * width / 2
    saved = s.layers * t * s.hidden * width + layer if job.checkpointing else s.layers * layer
    logits = 256 * 2**20 if job.loss == "trl_chunked" else 12.0 * t * s.vocab
    parts = {
        "weights": weights,
        "adapters": float(adapters * BYTES[job.adapter_dtype]),
        "gradients": float(trained * trained_width),
        "optimizer": trained * states.get(job.optimizer, 8.0),
        "activations": float(saved),
        "logits_and_loss": logits,
    }
    allocated = sum(parts.values())
    reserved = allocated * 1.08
    return Peak(allocated, reserved, reserved + 0.5 * 2**30, parts)
