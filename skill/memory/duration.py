"""How long training takes, what it costs, and what it leaves on the disk.

FLOPs a token, in units of 2 N (N: parameters a token passes through, the embedding lookup apart): one for the forward
pass, one for the gradients of the activations, one for the gradients of the weights where the weights train (Kaplan et
al. 2020, arXiv 2001.08361, section 2.1: 6 N in all), one more where checkpointing computes the activations again. A
frozen base has no gradients of weights: LoRA does 2/3 of full fine-tuning. Attention scores add 2 * layers * length *
width to each forward (PaLM, arXiv 2204.02311, appendix B, halved for the causal mask), three times that with backward,
which frozen weights do not spare. Padding is not counted.

How much of a GPU's dense 16-bit peak a step reaches was worked out with these same FLOPs from published tokens a
second on one A100-80GB: fms-acceleration (a100_80gb*.csv: transformers, 1.1B to 70B, 4 to 32 rows of up to
4,096 tokens, checkpointing) and Qwen's README (1.8B to 14B, 1 row of 256 to 8,192 tokens). Other GPUs are NOT measured:
what an A100 spends beside matrix products is taken to grow with FLOP/s over bandwidth, and the interval is wider.
"""

from __future__ import annotations

from typing import NamedTuple

from skill.memory.gpus import GIB, Gpu, find_gpu
from skill.memory.job import Job
from skill.memory.models import Span, TrainingTime
from skill.memory.shapes import Shape


class Share(NamedTuple):
    """Lowest, usual and highest seen."""

    low: float
    middle: float
    high: float


MEASURED_ON = "A100-80GB"
SHARES = {"full": Share(0.48, 0.60, 0.70), "lora": Share(0.30, 0.48, 0.62), "qlora": Share(0.26, 0.44, 0.66)}
# Experts one after another: 0.04 (fms-acceleration, a100_80gb_moe.csv, granite-3.0-3b-a800m, transformers 4); grouped
# kernels come near a dense model. Nothing in between was measured.
MOE_LOWEST = 0.04
MATMUL = 0.8  # of the peak: what a large bf16 matrix product reaches; the rest of a step waits for memory
UNMEASURED = (0.5, 1.5)  # interval of a GPU that is only reckoned from the A100, times its usual share
# Two and four GPUs against one, same rows each, NVLink (fms-acceleration): 0.72 to 1.0.
SCALING = Share(0.7, 0.93, 1.0)
# Milliseconds a layer and micro-batch below which no step goes, however few its tokens: the launches of small kernels.
# Frozen base: 4.1 to 5.2 on A100 (litgpt tutorials/resource-tables.md, 1.3B to 13B; Qwen README, 1.8B). Full: 11 with
# the optimizer (Qwen README, 1.8B), the one figure there is.
LAUNCH_MS = {"full": Share(3.0, 6.0, 12.0), "lora": Share(3.0, 4.5, 6.0), "qlora": Share(3.0, 4.5, 6.0)}
# And milliseconds for each 1e9 4-bit parameters, to dequantise them on the way there and back: 11 to 16 (litgpt, NF4,
# 7B and 13B), 30 to 34 (Qwen README, GPTQ, 7B and 14B), on A100; by bandwidth on other GPUs.
DEQUANTISE_MS = Share(8.0, 18.0, 35.0)


def flops_per_token(params: float, *, method: str, checkpointing: bool, scores: float = 0.0) -> float:
    """FLOPs of training on one token.

    Args:
        params: parameters a token passes through (active_params).
        method: "full" trains the weights; anything else leaves them frozen.
        scores: layers * length * width of the attention, see score_width.
    """
    passes = 2 + (method == "full") + checkpointing
    return 2.0 * params * passes + 2.0 * scores * (3 + checkpointing)


def active_params(shape: Shape) -> int:
    """Parameters a token is multiplied with: no embedding lookup (a tied head is one), only the routed experts."""
    idle = shape.expert_params * shape.moe_layers * (1 - shape.top_k / shape.experts) if shape.moe else 0
    lookup = 0 if shape.tied else shape.embedding
    return max(0, int(shape.params - lookup - idle - shape.positions * shape.hidden))


def score_width(shape: Shape, length: int) -> float:
    """layers * tokens attended * width; a sliding window limits what is attended."""
    return float(shape.layers * min(length, shape.sliding_window or length) * shape.q_width)


def kind_of(job: Job) -> str:
    """full | lora | qlora, by what is trained and stored; prefix tuning runs as LoRA does."""
    return "full" if job.method == "full" else "qlora" if job.quant != "none" else "lora"


def share_of_peak(gpu: Gpu, kind: str, *, moe: bool = False) -> Share:
    """Part of gpu.bf16_tflops that a step of this kind reaches."""
    measured, reference = SHARES[kind], find_gpu(MEASURED_ON)
    if gpu.compute_capability == reference.compute_capability:
        share = measured
    else:
        balance = (gpu.bf16_tflops / gpu.bandwidth_gb_s) / (reference.bf16_tflops / reference.bandwidth_gb_s)
        usual = 1 / (1 / MATMUL + (1 / measured.middle - 1 / MATMUL) * balance)
        share = Share(usual * UNMEASURED[0], usual, min(MATMUL, usual * UNMEASURED[1]))
    return Share(MOE_LOWEST, (MOE_LOWEST * share.middle) ** 0.5, share.middle) if moe else share


def floor_s(kind: str, layers: int, params: float, gpu: Gpu | None = None) -> Share:
    """Seconds that one micro-batch takes at least: lowest, usual, highest."""
    slower = find_gpu(MEASURED_ON).bandwidth_gb_s / gpu.bandwidth_gb_s if gpu else 1.0
    billions = params / 1e9 * slower if kind == "qlora" else 0.0
    pairs = zip(LAUNCH_MS[kind], DEQUANTISE_MS, strict=True)
    return Share(*((launch * layers + unpack * billions) / 1000 for launch, unpack in pairs))


def training_time(
    job: Job,
    gpu: Gpu,
    tokens: int,
    *,
    micro_steps: float | None = None,
    price_per_gpu_hour: float | None = None,
) -> TrainingTime:
    """Hours of training on `tokens` tokens (rows times epochs), with an interval, and what they cost.

    Args:
        micro_steps: batches through the model; without it as many as full rows of job.length would need.
        price_per_gpu_hour: in any currency; the cost is in the same.
    """
    kind = kind_of(job)
    steps = tokens / job.tokens if micro_steps is None else micro_steps
    length = min(job.length, max(1, round(tokens / steps / job.batch)))
    params = active_params(job.shape)
    work = tokens * flops_per_token(
        params,
        method=kind,
        checkpointing=job.checkpointing,
        scores=score_width(job.shape, length),
    )
    share = share_of_peak(gpu, kind, moe=job.shape.moe)
    speed = gpu.bf16_tflops * 1e12 * job.num_gpus
    together = SCALING if job.num_gpus > 1 else Share(1.0, 1.0, 1.0)
    steps /= job.num_gpus
    floor = floor_s(kind, job.shape.layers, params, gpu)
    fast = max(work / (speed * share.high * together.high), steps * floor.low)
    usual = max(work / (speed * share.middle * together.middle), steps * floor.middle)
    slow = max(work / (speed * share.low * together.low), steps * floor.high)
    hours = Span(value=_two(usual / 3600), low=_two(fast / 3600), high=_two(slow / 3600))
    cost = None
    if price_per_gpu_hour is not None:
        rate = price_per_gpu_hour * job.num_gpus
        cost = Span(value=_two(hours.value * rate), low=_two(hours.low * rate), high=_two(hours.high * rate))
    known = gpu.compute_capability == find_gpu(MEASURED_ON).compute_capability
    where = "measured on A100" if known else "reckoned from A100 by FLOP/s over bandwidth, not measured on this GPU"
    basis = (
        f"{work:.2g} FLOPs at {share.low:.0%} to {share.high:.0%} of {gpu.bf16_tflops:g} TFLOP/s, {where}; "
        "padding, evaluation and loading come on top"
    )
    return TrainingTime(
        gpu=gpu.name,
        num_gpus=job.num_gpus,
        tokens=tokens,
        hours=hours,
        cost=cost,
        disk_gib=round(disk_bytes(job) / GIB, 2),
        basis=basis,
    )


def _two(value: float) -> float:
    return float(f"{value:.2g}")


def trained_params(job: Job) -> int:
    """Parameters that train, and so are in a checkpoint."""
    shape = job.shape
    if job.method == "full":
        return shape.params
    if job.method == "prefix":
        return 2 * shape.layers * job.virtual_tokens * shape.kv_width
    names = None if job.targets == "all-linear" else {job.targets} if isinstance(job.targets, str) else {*job.targets}
    linears = [linear for linear in (*shape.attention, *shape.mlp) if names is None or linear.name in names]
    return shape.layers * sum(job.rank * (linear.n_in + linear.n_out) for linear in linears)


def checkpoint_bytes(job: Job) -> int:
    """One checkpoint: the trained weights and two optimizer states of the same size (measured: 3 times the weights)."""
    return 3 * result_bytes(job)


def result_bytes(job: Job) -> int:
    """What is kept at the end: the adapter, or the whole model."""
    # TRL keeps adapters of a quantised base in bfloat16, others in float32; full fine-tuning holds float32 weights.
    width = job.width if job.method == "full" else 2 if job.quant != "none" else 4
    return trained_params(job) * width


def disk_bytes(job: Job, *, checkpoints: int = 4, merged: bool = False) -> int:
    """Checkpoints (by default 2 kept, the best, and the one being written), the result, and a merged bf16 model."""
    return checkpoint_bytes(job) * checkpoints + result_bytes(job) + (job.shape.params * 2 if merged else 0)
