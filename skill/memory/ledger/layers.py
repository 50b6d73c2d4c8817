"""Decoder layers on the ledger, written like the modelling code they stand for, so that Python's local variables die
where the originals' do. transformers: modeling_llama.py and its siblings; PEFT: tuners/lora/layer.py and bnb.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from skill.memory.job import BYTES, Job
from skill.memory.ledger.attention import KERNELS
from skill.memory.ledger.ops import (
    activation,
    add,
    cast,
    copy,
    dropout,
    expand_copy,
    fused_norm,
    fused_rotary,
    linear,
    mul,
    rms_norm,
    rotary,
    scale,
    unsloth_norm,
)
from skill.memory.ledger.tape import Leaf, Tape, Tensor
from skill.memory.shapes import Linear


@dataclass
class Weights:
    """Parameters of one layer as the step sees them: only trained ones carry a gradient leaf."""

    job: Job
    trained: list[Tensor] = field(default_factory=list)
    cache: dict[int, Tensor] = field(default_factory=dict)  # autocast's weight copies, shared by the whole forward

    def base(self, n: int) -> Tensor:
        """A weight of the model itself."""
        job = self.job
        if job.method == "full":
            # foreach AdamW: one square root; torchao's 8-bit step works on float32 copies
            step = {"adamw_foreach": job.width, "adamw_8bit": 4}.get(job.optimizer, 0)
            leaf = Leaf(keep=False, step_bytes=step) if job.optimizer_in_backward else Leaf()
            return self._keep(Tensor(None, n, job.width, leaf))
        return Tensor(None, n, 4 if job.kbit_prepare and not job.kbit_norms_low else job.width)

    def adapter(self, n: int) -> Tensor:
        return self._keep(Tensor(None, n, BYTES[self.job.adapter_dtype], Leaf()))

    def _keep(self, tensor: Tensor) -> Tensor:
        self.trained.append(tensor)
        return tensor


def adapted(job: Job, name: str) -> bool:
    """Does LoRA sit on this linear?"""
    if job.method != "lora":
        return False
    if job.targets == "all-linear":
        return name != "lm_head"
    return name in ((job.targets,) if isinstance(job.targets, str) else job.targets)


class Projection:
    """nn.Linear, its quantised forms, and LoRA on top."""

    def __init__(self, weights: Weights, spec: Linear) -> None:
        job = self.job = weights.job
        self.weights, self.spec = weights, spec
        self.last = False  # nothing after it saves a tensor: a recomputation stops here
        n = spec.n_in * spec.n_out
        self.quantised = job.quant != "none" and (spec.name != "lm_head" or job.engine == "litgpt")
        self.weight = Tensor(None, n, 2) if self.quantised else weights.base(n)
        self.bias = weights.base(spec.n_out) if spec.bias else None
        self.extra = 0
        if self.quantised:
            # The dequantised weight, and under double quantisation its float32 block scales (two tensors of n / 64).
            self.extra = n * (4 if job.bnb_half else 2) + (n // 64 * 8 if job.quant == "nf4-dq" else 0)
        self.lora = adapted(job, spec.name)
        if self.lora:
            self.a = weights.adapter(spec.n_in * job.rank)
            self.b = weights.adapter(spec.n_out * job.rank)

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        t.phantom = t.stops_early and self.last and not self.lora
        result = self._base(t, x)
        if not self.lora:
            return result
        job, spec = self.job, self.spec
        width = result.w
        if self.quantised and job.quant != "gptq":
            result = copy(t, result)  # PEFT's "defensive clone" of a bitsandbytes result
        if not (job.autocast and self.quantised):
            x = cast(t, x, self.a.w)  # stays a local variable until the module returns
        low = dropout(t, x, job.lora_dropout)
        low = _amp_linear(t, low, self.a, spec.n_in, job.rank, self.weights)
        low = _amp_linear(t, low, self.b, job.rank, spec.n_out, self.weights)
        t.phantom = t.stops_early and self.last  # the scaling factor is the last tensor saved
        low = scale(t, low)
        if self.quantised and not job.autocast:
            low = cast(t, low, width)
        result = add(t, result, low)
        del low
        return cast(t, result, width)

    def _base(self, t: Tape, x: Tensor) -> Tensor:
        spec, job = self.spec, self.job
        if not self.quantised:
            return _amp_linear(t, x, self.weight, spec.n_in, spec.n_out, self.weights, bias=self.bias)
        width = x.w
        low = cast(t, x, 2)
        out = linear(
            t, low, self.weight, spec.n_in, spec.n_out, bias=self.bias, extra=self.extra, keep_input=job.bnb_saves_input
        )
        return cast(t, out, width)


def _amp_linear(
    t: Tape, x: Tensor, weight: Tensor, n_in: int, n_out: int, weights: Weights, *, bias: Tensor | None = None
) -> Tensor:
    """F.linear under autocast: input and weight cast to the compute dtype; the copy of a trained float32 weight is
    cached for the whole forward (at::autocast::cached_cast), of a frozen one it is made each call."""
    if weights.job.autocast is None:
        return linear(t, x, weight, n_in, n_out, bias=bias)
    x = cast(t, x, 2)
    if weight.w == 4:
        if weight.node is not None and t.cache_on:
            cached = weights.cache.get(id(weight))
            if cached is None:
                cached = weights.cache[id(weight)] = cast(t, weight, 2)
            weight = cached
        else:
            weight = cast(t, weight, 2)
    return linear(t, x, weight, n_in, n_out, bias=bias)


class Norm:
    def __init__(self, weights: Weights, width: int) -> None:
        family = weights.job.shape.family
        self.job, self.width, self.family = weights.job, width, family
        has_weight = bool(family.norms_per_layer)
        self.weight = weights.base(width) if has_weight else Tensor(None, width, 4)
        self.bias = weights.base(width) if family.norm_bias else None

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        if self.family.norm == "rms" and self.job.norm_kernel == "hf":
            return rms_norm(t, x, self.weight, self.width, plus_one=self.family.norm_plus_one)
        if self.job.norm_kernel == "unsloth" and self.family.norm == "rms":
            return unsloth_norm(t, x, self.width)
        if self.family.norm == "layer" and self.job.autocast and x.w == 2:
            # layer_norm is on autocast's float32 list: the input is cast and the output stays float32.
            x = cast(t, x, 4)
        return fused_norm(t, x, self.weight, self.width, bias=self.bias, stats=2 if self.family.norm == "layer" else 1)


class Attention:
    def __init__(self, weights: Weights) -> None:
        job = self.job = weights.job
        shape = self.shape = job.shape
        self.projections = [Projection(weights, spec) for spec in shape.attention]
        self.qk_norms = None
        if shape.family.qk_norm:
            head = shape.family.qk_norm == "head"
            self.qk_norms = (
                Norm(weights, shape.head_dim if head else shape.q_width),
                Norm(weights, shape.head_dim if head else shape.kv_width),
            )

    def __call__(self, t: Tape, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        job, s = self.job, self.shape
        if s.family.fused_qkv:
            qkv = self.projections[0](t, x)
            q, k, v = _split(t, qkv, s.q_width, s.kv_width)
            del qkv
        elif job.lora_kernel == "unsloth" and all(p.lora for p in self.projections):
            from skill.memory.ledger import fused

            q, k, v = fused.qkv(t, x, self.projections[:3])
        else:
            project_q, project_k, project_v = self.projections[:3]
            q = project_q(t, x)
            if self.qk_norms:
                q = self.qk_norms[0](t, q)
            k = project_k(t, x)
            if self.qk_norms:
                k = self.qk_norms[1](t, k)
            v = project_v(t, x)
        q, k = _rope(t, job, q, k, tables)
        if (q.w == 4 and job.autocast) or (job.attention == "flash" and q.w == 4):
            q, k, v = cast(t, q, 2), cast(t, k, 2), cast(t, v, 2)
        kv_heads = s.kv_heads
        if job.repeat_kv and kv_heads != s.heads and job.attention == "flash":
            k, v = expand_copy(t, k, s.heads // kv_heads), expand_copy(t, v, s.heads // kv_heads)
            kv_heads = s.heads
        kernel = KERNELS[job.attention]
        if job.attention == "eager":
            kernel = functools.partial(kernel, half="float16" in (job.autocast, job.dtype))
        out = kernel(t, q, k, v, batch=job.batch, length=job.length, heads=s.heads, kv_heads=kv_heads, dim=s.head_dim)
        if job.lora_kernel == "unsloth" and self.projections[-1].lora:
            from skill.memory.ledger import fused

            return fused.output(t, out, self.projections[-1])
        return self.projections[-1](t, out)


def _rope(t: Tape, job: Job, q: Tensor, k: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    fraction = job.shape.rotary_fraction
    if job.shape.positions:
        return q, k
    if job.rope_kernel == "fused":
        return fused_rotary(t, q), fused_rotary(t, k)
    if fraction >= 1:
        return rotary(t, q, *tables), rotary(t, k, *tables)
    return _partial_rotary(t, q, tables, fraction), _partial_rotary(t, k, tables, fraction)


def _partial_rotary(t: Tape, x: Tensor, tables: tuple[Tensor, Tensor], fraction: float) -> Tensor:
    """Phi, GPT-NeoX: rotate the first part of each head, then cat with the rest."""
    n, w = x.n, x.w
    part = int(n * fraction)
    turned = t.record(Tensor(x.storage, part, w), (x,), lambda g: (t.new(n, w),))
    turned = rotary(t, turned, *tables)
    return t.record(t.new(n, w), (turned, x), lambda g: (Tensor(g.storage, part, w), t.new(n, w)))


def _split(t: Tape, qkv: Tensor, q_width: int, kv_width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Slices of one projection: views; backward of split writes one full tensor (cat), of slices one each."""
    total = q_width + 2 * kv_width
    rows = qkv.n // total
    n, w = qkv.n, qkv.w

    def part(width: int) -> Tensor:
        return t.record(Tensor(qkv.storage, rows * width, w), (qkv,), lambda g: (t.new(n, w),))

    return part(q_width), part(kv_width), part(kv_width)


class Mlp:
    def __init__(self, weights: Weights) -> None:
        self.job = weights.job
        self.projections = [Projection(weights, spec) for spec in weights.job.shape.mlp]

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        f, job = self.job.shape.family, self.job
        if not f.gated:
            up, down = self.projections
            return down(t, activation(t, up(t, x), f.activation))
        if f.fused_gate_up:
            up, down = self.projections
            both = up(t, x)
            n, w = both.n, both.w
            gate = t.record(Tensor(both.storage, n // 2, w), (both,), lambda g: (t.new(n, w),))
            value = t.record(Tensor(both.storage, n // 2, w), (both,), lambda g: (t.new(n, w),))
            del both
            return down(t, mul(t, value, activation(t, gate, f.activation)))
        gate, up, down = self.projections
        if job.mlp_kernel == "compiled":  # torch.compile recomputes the pointwise product from gate and up
            return down(t, _compiled_glu(t, gate(t, x), up(t, x)))
        if job.mlp_kernel == "fused":  # Liger SiLU * up: saves gate and up, writes gradients into them
            return down(t, _swiglu(t, gate(t, x), up(t, x)))
        return down(t, mul(t, activation(t, gate(t, x), f.activation), up(t, x)))


def _compiled_glu(t: Tape, a: Tensor, b: Tensor) -> Tensor:
    n, w = a.n, a.w

    def backward(g: Tensor, _keep: object = (a.storage, b.storage)) -> tuple[Tensor, Tensor]:
        return (t.new(n, w), t.new(n, w))

    return t.record(t.new(n, w), (a, b), backward)


def _swiglu(t: Tape, a: Tensor, b: Tensor) -> Tensor:
    n, w = a.n, a.w

    def backward(g: Tensor, _keep: object = (a.storage, b.storage)) -> tuple[Tensor, Tensor]:
        sa, sb = _keep  # type: ignore[misc]
        return (Tensor(sa, n, w), Tensor(sb, n, w))

    return t.record(t.new(n, w), (a, b), backward)


class Layer:
    """One decoder layer. `__call__` maps the residual stream to the residual stream."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.weights = weights = Weights(job)
        shape = job.shape
        f = shape.family
        self.attention = Attention(weights)
        if shape.moe and f.gated:
            from skill.memory.ledger.experts import MoeMlp

            self.mlp: Any = MoeMlp(weights)
        else:
            self.mlp = Mlp(weights)
        count = max(1, f.norms_per_layer)
        self.norms = [Norm(weights, shape.hidden) for _ in range(count)]
        if isinstance(self.mlp, Mlp):
            self.mlp.projections[-1].last = count == 2 and not f.parallel
        self.on_backward: Callable[[], None] | None = None

    def before_backward(self) -> None:
        """Called when backward reaches this layer."""
        if self.on_backward is not None:
            self.on_backward()

    def __call__(self, t: Tape, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        f, p = self.job.shape.family, self.job.residual_dropout
        if f.parallel:
            residual = x
            normed = self.norms[0](t, x)
            second = normed if len(self.norms) == 1 else self.norms[1](t, x)
            attended = dropout(t, self.attention(t, normed, tables), p)
            fed = dropout(t, self.mlp(t, second), p)
            del second, normed
            return add(t, add(t, attended, fed), residual)
        residual = x
        x = self.norms[0](t, x)
        x = self.attention(t, x, tables)
        if len(self.norms) == 4:
            x = self.norms[2](t, x)
        x = dropout(t, x, p)
        if f.residual_scale:
            x = scale(t, x)
        x = add(t, residual, x)
        residual = x
        x = self.norms[min(1, len(self.norms) - 1)](t, x)
        x = self.mlp(t, x)
        if len(self.norms) == 4:
            x = self.norms[3](t, x)
        x = dropout(t, x, p)
        if f.residual_scale:
            x = scale(t, x)
        return add(t, residual, x)
