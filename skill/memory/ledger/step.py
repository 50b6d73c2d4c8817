"""One training step on the ledger: weights, forward, loss, backward, clipping, optimizer. The result is the peak of
allocated bytes of the steady state (optimizer states exist), with a breakdown that sums to it.

A uniform stack is walked with three layers (first, middle, last): memory between them is linear in depth, so the peak
lies at one end; what the skipped layers save is booked as one storage. `full=True` walks every layer and keeps the
events for the allocator replay.
"""

from __future__ import annotations

from dataclasses import dataclass

from skill.memory.job import BYTES, Job
from skill.memory.ledger.layers import Layer, Norm, Weights
from skill.memory.ledger.litgpt import LitLayer, LitLinear, head_and_loss
from skill.memory.ledger.losses import (
    chunked_torchtune,
    cross_entropy,
    fused_cross_entropy,
    head_logits,
    liger,
    trl_chunked,
)
from skill.memory.ledger.ops import cast, dropout
from skill.memory.ledger.tape import Leaf, Ledger, Storage, Tape, Tensor, block_bytes
from skill.memory.shapes import Linear

CUBLAS_WORKSPACE = 8519680  # 8.125 MiB a thread and handle below sm_90: at::cuda::getChosenWorkspaceSize, :4096:2:16:8
CUBLAS_WORKSPACE_HOPPER = 32 << 20


@dataclass(frozen=True)
class Step:
    """Bytes. `parts` sums to allocated; `events` for the allocator replay when asked for."""

    allocated: int
    parts: dict[str, float]
    peak_at: str
    static: int
    events: list[tuple[int, int]]


def quantised_bytes(n: int, job: Job) -> int:
    """A quantised weight of n elements with its scales.

    bitsandbytes functional.quantize_4bit: packed nibbles, one absmax a 64 elements (float32, or uint8 with float32 per
    256 under double quantisation), a code table. GPTQ 4-bit, group 128: packed int32, float16 scales, packed zeros and
    an int32 group index per input feature.
    """
    if job.quant == "nf4":
        return block_bytes(n // 2) + block_bytes(n // 64 * 4) + 512
    if job.quant == "nf4-dq":
        return block_bytes(n // 2) + block_bytes(n // 64) + block_bytes(-(-n // 64 // 256) * 4) + 3 * 512 + 1024
    if job.quant == "int8":
        return block_bytes(n) + block_bytes(int(n**0.5) * 4)
    if job.quant == "gptq":
        return (
            block_bytes(n // 2) + block_bytes(n // 128 * 2) + block_bytes(n // 128 // 2) + block_bytes(int(n**0.5) * 4)
        )
    return block_bytes(n * job.width)


def model_bytes(job: Job) -> int:
    """All weights of the base model on one device, as the allocator counts them."""
    s = job.shape
    wide = 4 if job.kbit_prepare else job.width
    norm_w = job.width if job.kbit_norms_low else wide
    embed_w = job.embedding_width or (job.width if job.kbit_embeddings_low else wide)
    total = 0
    for linear in (*s.attention, *s.mlp):
        layers = s.layers if linear in s.attention or not s.moe else s.dense_layers
        total += layers * quantised_bytes(linear.weight, job)
        if linear.bias:
            total += layers * block_bytes(linear.n_out * (wide if job.quant != "none" else job.width))
    other = s.layer_other - sum(x.params - x.weight for x in (*s.attention, *s.mlp)) * s.layers
    norms = s.norm_params * s.layers
    total += (other - norms) * wide
    per_norm = s.hidden * (2 if s.family.norm_bias else 1)
    total += s.layers * s.family.norms_per_layer * block_bytes(s.hidden * norm_w) * (2 if s.family.norm_bias else 1)
    total += (norms - s.layers * s.family.norms_per_layer * per_norm) * norm_w
    total += block_bytes(s.embedding * embed_w) + block_bytes(s.positions * s.hidden * embed_w)
    head_w = job.head_width or embed_w
    if job.engine == "litgpt":  # never tied, and quantised like every other linear
        total += quantised_bytes(s.embedding, job) + block_bytes(s.vocab * head_w if s.family.head_bias else 0)
    else:
        total += block_bytes(s.head * head_w)
    total += block_bytes(s.final_norm * norm_w)
    if s.unexplained:
        per = {"none": job.width, "int8": 1.0}.get(job.quant, 0.52)
        total += int(s.unexplained * per)
    return total + s.tower_params * job.width


def run(job: Job, *, full: bool = False) -> Step:
    """Walk one step of `job`."""
    ledger = Ledger(keep_events=full)
    tape = Tape(ledger)
    tape.cache_on = job.autocast is not None
    s = job.shape
    static: list[Storage] = []
    parts: dict[str, float] = {}

    def book(name: str, nbytes: float, count: int = 1) -> None:
        before = ledger.live
        for _ in range(count):
            static.append(Storage(ledger, int(nbytes)))
        parts[name] = parts.get(name, 0) + ledger.live - before

    workspace = CUBLAS_WORKSPACE if job.workspace is None else job.workspace
    book("cublas_workspace", workspace, 2)
    ledger.live += model_bytes(job)
    parts["weights"] = model_bytes(job)
    make = LitLayer if job.engine == "litgpt" else Layer
    kinds = [make(job) for _ in range(3 if s.layers >= 3 and not full else s.layers)]
    outer = Weights(job)
    embedding = outer.base(s.embedding)
    if s.positions:
        outer.base(s.positions * s.hidden)
    final_norm = Norm(outer, s.hidden)
    head = embedding if s.tied else outer.base(s.embedding)
    if job.engine == "litgpt":
        lora_head = not isinstance(job.targets, tuple) or "lm_head" in job.targets
        lit_head = LitLinear(outer, Linear("lm_head", s.hidden, s.vocab, s.family.head_bias), lora=lora_head)
    if job.head_width and head.node is None:
        head.w = job.head_width
    skipped = s.layers - len(kinds)
    # Trained parameters: their bytes (adapters), gradients and optimizer states
    inner = [p for k in kinds for p in k.weights.trained] + kinds[min(1, len(kinds) - 1)].weights.trained * skipped
    trained = inner + outer.trained
    adapter = sum(block_bytes(p.n * p.w) for p in trained) if job.method != "full" else 0
    ledger.live += adapter
    parts["adapters"] = adapter
    states = sum(state_bytes(p.n, p.w, job) for p in trained)
    ledger.live += states
    parts["optimizer"] = states
    grads_total = sum(block_bytes(p.n * p.w) for p in trained)
    per_middle = sum(block_bytes(p.n * p.w) for p in kinds[min(1, len(kinds) - 1)].weights.trained)
    if job.accumulation > 1 and not job.optimizer_in_backward:
        for p in [p for k in kinds for p in k.weights.trained] + outer.trained:
            p.node.grad = tape.new(p.n, p.w)  # type: ignore[union-attr]
        ledger.live += per_middle * skipped
    ledger.peak = ledger.live
    base = ledger.live
    tokens = job.tokens
    stream_w = job.width if job.kbit_embeddings_low else embedding.w

    # ------------------------------------------------------------------ forward
    ledger.mark("forward")
    inputs = tape.new(tokens * (3 if job.padded else 2), 8)
    x = tape.new(tokens * s.hidden, stream_w)
    if embedding.node is not None:
        n, w = embedding.n, embedding.w
        x = tape.record(x, (embedding,), lambda g: (tape.new(n, w),))
    elif job.checkpointing and job.method != "full":
        x.node = Leaf(keep=False)  # enable_input_require_grads
    if job.embedding_dropout:
        x = dropout(tape, x, job.embedding_dropout)
    table_w = x.w
    rotary_n = job.length * int(s.head_dim * s.rotary_fraction)
    tables = (tape.new(rotary_n, table_w), tape.new(rotary_n, table_w))
    mask = tape.new(job.batch * job.length * job.length, x.w) if job.materialised_mask else None
    bulk: Storage | None = None
    for i, layer in enumerate(kinds):
        before = ledger.live
        x = _checkpointed(tape, layer, x, tables, job) if job.checkpointing else layer(tape, x, tables)
        if i == 1 and skipped:
            bulk = Storage(ledger, (ledger.live - before) * skipped)
    ledger.mark("loss")
    x = final_norm(tape, x)
    logits = None
    if job.loss == "liger":
        loss = liger(tape, job, x, head)
    elif job.loss == "trl_chunked":
        loss = trl_chunked(tape, job, x, head)
    elif job.loss == "litgpt_chunked":
        loss, logits = head_and_loss(tape, job, x, lit_head)
    elif job.loss == "torchtune_chunked":
        loss = chunked_torchtune(tape, job, x, head, outer)
    else:
        logits = head_logits(tape, job, x, head, outer)
        upcast, shift = job.logits != "half", job.logits != "modern"
        if job.logits == "rebind":
            logits = cast(tape, logits, 4)
        if job.loss == "fused_ce":
            loss = fused_cross_entropy(tape, logits, upcast=upcast, shift=shift)
        else:
            loss = cross_entropy(tape, logits, job, upcast=upcast, shift=shift)
    x = None  # type: ignore[assignment]
    if not job.outputs_alive:
        logits = None
    outer.cache.clear()
    for layer in kinds:
        layer.weights.cache.clear()

    # ------------------------------------------------------------------ backward
    ledger.mark("backward")
    if skipped and not (job.accumulation > 1) and not job.optimizer_in_backward:
        pending = per_middle * skipped
    else:
        pending = 0
    hook = _Release(bulk, pending, ledger)
    bulk = None
    kinds[min(1, len(kinds) - 1)].on_backward = hook
    tape.backward(loss, tape.new(1, 4))
    hook()
    logits = None
    del loss, inputs, mask, tables

    # ------------------------------------------------------------------ clip and step
    ledger.mark("optimizer")
    if job.clip and not job.optimizer_in_backward and grads_total:
        norms = tape.new(len(trained), 4)
        del norms
    temporary = step_temporary(trained, job)
    if temporary:
        scratch = [Storage(ledger, b) for b in temporary]
        del scratch
    peak = ledger.peak
    parts["gradients"] = float(min(grads_total, peak - base) if not job.optimizer_in_backward else 0)
    at = ledger.peak_label
    if at in ("forward", "loss") and job.accumulation == 1:
        parts["gradients"] = 0.0
    rest = peak - sum(parts.values())
    parts["loss_and_logits" if at in ("loss", "backward") and job.checkpointing else "activations"] = rest
    return Step(peak, parts, at, base, ledger.events)


class _Release:
    """What happens between the last and the middle layer's backward: the skipped layers' saved tensors go, their
    gradients come."""

    def __init__(self, bulk: Storage | None, pending: int, ledger: Ledger) -> None:
        self.bulk, self.pending, self.ledger = bulk, pending, ledger

    def __call__(self) -> None:
        self.bulk = None
        if self.pending:
            ledger = self.ledger
            ledger.live += self.pending
            ledger.peak = max(ledger.peak, ledger.live)
            self.pending = 0


def _checkpointed(t: Tape, layer: Layer, x: Tensor, tables: tuple[Tensor, Tensor], job: Job) -> Tensor:
    """torch.utils.checkpoint: forward without a graph, recomputed in backward. Reentrant keeps the recomputed output
    alive through the nested backward; the other kind stops once everything saved is back."""
    outer_grad, t.grad = t.grad, False
    source = Tensor(x.storage, x.n, x.w)
    out = layer(t, source, tables)
    t.grad = outer_grad
    n, w = x.n, x.w
    needs = x.node is not None
    reentrant = job.reentrant

    def backward(g: Tensor, _keep: object = x.storage) -> tuple[Tensor | None]:
        leaf = Leaf()
        start = Tensor(_keep, n, w, leaf if needs else None)  # type: ignore[arg-type]
        layer.before_backward()
        again = layer(t, start, tables)
        del start
        if not reentrant:
            again.storage = None
        layer.weights.cache.clear()
        t.backward(again, g)
        return (leaf.grad,)

    anchor = x if needs else Tensor(None, 0, 4, Leaf(keep=False))
    return t.record(out, (anchor,), backward)


def state_bytes(n: int, w: int, job: Job) -> int:
    """Optimizer states of one parameter inside torch's allocator, steady state."""
    kind = job.optimizer
    if kind in ("paged", "none", "offloaded"):
        return 0
    if kind == "adamw_8bit":  # bitsandbytes: uint8 and float32 absmax per 256; tensors below 4096 elements stay float32
        return 2 * block_bytes(n * 4) if n < 4096 else 2 * block_bytes(n) + 2 * block_bytes(-(-n // 256) * 4)
    if kind == "sgd":
        return 0
    width = 4 if kind.endswith("fp32") else w
    return 2 * block_bytes(n * width) + (512 if kind == "adamw_fused" else 0)


def step_temporary(trained: list[Tensor], job: Job) -> list[int]:
    """torch AdamW foreach: sqrt of exp_avg_sq for all parameters at once, then divided in place
    (torch/optim/adam.py _multi_tensor_adam). Fused and 8-bit kernels need nothing."""
    if job.optimizer != "adamw_foreach":
        return []
    return [p.n * p.w for p in trained]


__all__ = ["BYTES", "Step", "model_bytes", "run"]
