"""Bytes that do not depend on the batch: weights by precision and quantisation, optimizer states, step temporaries.
All as the allocator counts them (512-byte blocks)."""

from __future__ import annotations

from skill.memory.job import Job
from skill.memory.ledger.tape import Tensor, block_bytes
from skill.memory.shapes import Linear

CUBLAS_WORKSPACE = 8519680  # 8.125 MiB a thread and handle below sm_90: at::cuda::getChosenWorkspaceSize, :4096:2:16:8
CUBLAS_WORKSPACE_HOPPER = 32 << 20


def quantised_bytes(n: int, job: Job, *, shards: int = 1) -> int:
    """A quantised weight of n elements with its scales; FSDP shards the packed weight, not the scales.

    bitsandbytes functional.quantize_4bit: packed nibbles, one absmax per 64 elements (float32, or uint8 with a float32
    per 256 under double quantisation), a code table. LLM.int8: one byte an element and a float32 scale a row.
    GPTQ 4-bit, group 128: packed int32, float16 scales, packed zeros, an int32 group index an input feature.
    """
    if job.quant == "nf4":
        return block_bytes(n // 2 // shards) + block_bytes(n // 64 * 4) + 512
    if job.quant == "nf4-dq":
        scales = block_bytes(n // 64) + block_bytes(-(-n // 64 // 256) * 4)
        return block_bytes(n // 2 // shards) + scales + 3 * 512 + 1024
    if job.quant == "int8":
        return block_bytes(n // shards) + block_bytes(int(n**0.5) * 4)
    if job.quant == "gptq":
        rest = block_bytes(n // 128 * 2) + block_bytes(n // 128 // 2) + block_bytes(int(n**0.5) * 4)
        return block_bytes(n // 2 // shards) + rest // shards
    return block_bytes(n * job.width // shards)


def linear_bytes(linear: Linear, job: Job, *, shards: int = 1) -> int:
    """One linear of a layer, bias included."""
    total = quantised_bytes(linear.weight, job, shards=shards)
    if linear.bias:
        wide = 4 if job.kbit_prepare and job.quant != "none" else job.width
        total += block_bytes(linear.n_out * wide // shards)
    return total


def layer_bytes(job: Job, *, shards: int = 1) -> int:
    """All weights of one decoder layer (of an MoE: an MoE layer)."""
    s, f = job.shape, job.shape.family
    wide = 4 if job.kbit_prepare else job.width
    norm_w = job.width if job.kbit_norms_low else wide
    linears = s.attention if s.moe else (*s.attention, *s.mlp)
    total = sum(linear_bytes(x, job, shards=shards) for x in linears)
    per_norm = s.hidden * (2 if f.norm_bias else 1)
    total += f.norms_per_layer * (2 if f.norm_bias else 1) * block_bytes(s.hidden * norm_w // shards)
    total += (s.norm_params - f.norms_per_layer * per_norm) * norm_w // shards
    if s.moe:
        total += s.hidden * s.experts * wide // shards
        if f.stacked_experts and not job.experts_quantised:
            total += s.expert_params * job.width // shards
        else:
            total += quantised_bytes(s.expert_params, job, shards=shards)
        if s.shared_intermediate:
            total += quantised_bytes(3 * s.hidden * s.shared_intermediate, job, shards=shards)
    return total


def outer_bytes(job: Job, *, shards: int = 1) -> int:
    """Embeddings, head, final norm, positions."""
    s = job.shape
    wide = 4 if job.kbit_prepare else job.width
    embed_w = job.embedding_width or (job.width if job.kbit_embeddings_low else wide)
    head_w = job.head_width or embed_w
    total = block_bytes(s.embedding * embed_w // shards) + block_bytes(s.positions * s.hidden * embed_w // shards)
    if job.engine == "litgpt":  # never tied, and quantised like every other linear
        total += quantised_bytes(s.embedding, job) + block_bytes(s.vocab * head_w if s.family.head_bias else 0)
    else:
        total += block_bytes(s.head * head_w // shards)
    return total + block_bytes(s.final_norm * (job.width if job.kbit_norms_low else wide) // shards)


def model_bytes(job: Job, *, shards: int = 1) -> int:
    """All weights of the base model on one device."""
    s = job.shape
    total = outer_bytes(job, shards=shards)
    if s.moe:
        dense = sum(linear_bytes(x, job, shards=shards) for x in (*s.attention, *s.mlp)) + s.norm_params * job.width
        total += s.dense_layers * dense + s.moe_layers * layer_bytes(job, shards=shards)
    else:
        total += s.layers * layer_bytes(job, shards=shards)
    if s.unexplained:  # parts of the architecture the shape does not name: quantised like the rest
        per = {"none": float(job.width), "int8": 1.0}.get(job.quant, 0.52)
        total += int(s.unexplained * per) // shards
    return total + s.tower_params * job.width // shards


def state_bytes(n: int, w: int, job: Job) -> int:
    """Optimizer states of one parameter of n elements of w bytes inside torch's allocator, steady state."""
    kind = job.optimizer
    if kind in ("paged", "none", "offloaded", "sgd"):
        return 0
    if kind == "adamw_8bit":
        # bitsandbytes: uint8 and float32 absmax per 256; tensors below 4096 elements stay float32
        return 2 * block_bytes(n * 4) if n < 4096 else 2 * block_bytes(n) + 2 * block_bytes(-(-n // 256) * 4)
    return 2 * block_bytes(n * w) + (512 if kind == "adamw_fused" else 0)


def step_temporary(parameter: Tensor, job: Job) -> int:
    """torch AdamW foreach: sqrt of exp_avg_sq for all parameters at once, then divided in place
    (torch/optim/adam.py _multi_tensor_adam). Fused and 8-bit kernels need nothing."""
    return parameter.n * parameter.w if job.optimizer == "adamw_foreach" else 0
