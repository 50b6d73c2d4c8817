"""litgpt (Lightning AI) on the ledger: one fused qkv projection with its own LoRA, keys and values expanded for flash,
lm_head and cross entropy in chunks of 128 tokens with all logits kept. Sources: litgpt model.py, lora.py, utils.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from skill.memory.job import Job
from skill.memory.ledger.attention import flash
from skill.memory.ledger.layers import Norm, Projection, Weights
from skill.memory.ledger.losses import cross_entropy
from skill.memory.ledger.ops import activation, add, cast, copy, dropout, linear, mul, mul_constant, scale
from skill.memory.ledger.tape import Tape, Tensor
from skill.memory.shapes import Linear

CHUNK = 128


class LitLinear:
    """LoRALinear: pretrained + (dropout(x) @ A.T @ B.T) * scaling."""

    def __init__(self, weights: Weights, spec: Linear, *, lora: bool, parts: int = 1, padded: bool = False) -> None:
        self.base = Projection(weights, spec)
        self.base.lora = False
        self.job, self.spec, self.lora, self.parts, self.padded = weights.job, spec, lora, parts, padded
        if lora:
            r = self.job.rank
            self.a = weights.adapter(spec.n_in * r * parts)
            self.b = weights.adapter(spec.n_out * r)

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        pretrained = self.base(t, x)
        if not self.lora:
            return pretrained
        s, r = self.spec, self.job.rank
        low = linear(t, dropout(t, x, self.job.lora_dropout), self.a, s.n_in, r * self.parts)
        if self.parts > 1:  # conv1d on the transposed activations
            low = copy(t, low)
            rows = low.n // (r * self.parts)
            n_out = self.b.n // r
            n, w, bn, bw = low.n, low.w, self.b.n, self.b.w

            def backward(g: Tensor, _keep: object = low.storage) -> Sequence[Tensor]:
                return (t.new(n, w), t.new(bn, bw))

            low = t.record(t.new(rows * n_out, w), (low, self.b), backward)
        else:
            low = linear(t, low, self.b, r, s.n_out)
        if self.padded:  # zero_pad: new_zeros of the full width, index_copy
            low = copy(t, low)
            rows, n, w = x.n // s.n_in, low.n, low.w
            # index_copy saves its source (derivatives.yaml: expand_as(source))
            low = t.record(t.new(rows * s.n_out, w), (low,), lambda g, _keep=low.storage: (t.new(n, w),))
        low = scale(t, low)
        return add(t, pretrained, low)


class LitLayer:
    """Block of litgpt: norm, fused attention, residual, norm, MLP, residual (or parallel)."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.weights = weights = Weights(job)
        s = self.shape = job.shape
        f = s.family
        targets = job.targets if isinstance(job.targets, tuple) else ("q_proj", "k_proj", "v_proj", "o_proj", "mlp")
        enabled = [name in targets for name in ("q_proj", "k_proj", "v_proj")]
        width = s.q_width * enabled[0] + s.kv_width * (enabled[1] + enabled[2])
        bias = f.qkv_bias
        self.qkv = LitLinear(
            weights,
            Linear("attn", s.hidden, s.q_width + 2 * s.kv_width, bias),
            lora=any(enabled),
            parts=sum(enabled),
            padded=not all(enabled),
        )
        if any(enabled):
            self.qkv.b.n = width * job.rank
        self.out = LitLinear(weights, Linear("proj", s.q_width, s.hidden, f.o_bias), lora="o_proj" in targets)
        fed = "mlp" in targets
        if f.gated:
            self.mlp = [
                LitLinear(weights, Linear("fc_1", s.hidden, s.intermediate), lora=fed),
                LitLinear(weights, Linear("fc_2", s.hidden, s.intermediate), lora=fed),
                LitLinear(weights, Linear("proj", s.intermediate, s.hidden), lora=fed),
            ]
        else:
            self.mlp = [
                LitLinear(weights, Linear("fc", s.hidden, s.intermediate, f.mlp_bias), lora=fed),
                LitLinear(weights, Linear("proj", s.intermediate, s.hidden, f.mlp_bias), lora=fed),
            ]
        self.norms = [Norm(weights, s.hidden) for _ in range(max(1, f.norms_per_layer))]
        self.on_backward: Callable[[], None] | None = None

    def before_backward(self) -> None:
        if self.on_backward is not None:
            self.on_backward()

    def __call__(self, t: Tape, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        f = self.shape.family
        normed = self.norms[0](t, x)
        attended = self._attention(t, normed, tables)
        four = len(self.norms) == 4
        if four:
            attended = self.norms[2](t, attended)
        if f.parallel:
            if len(self.norms) > 1:
                normed = self.norms[1](t, x)
            x = add(t, attended, x)
        else:
            x = add(t, attended, x)
            normed = self.norms[1](t, x)
        del attended
        fed = self._mlp(t, normed)
        if four:
            fed = self.norms[3](t, fed)
        return add(t, fed, x)

    def _attention(self, t: Tape, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        s, job = self.shape, self.job
        grouped = s.kv_heads != s.heads
        qkv = self.qkv(t, x)
        n, w = qkv.n, qkv.w
        rows = x.n // s.hidden

        # split: one backward that writes the whole gradient
        stash: list[Tensor] = []
        whole = t.record(Tensor(qkv.storage, 0, w), (qkv,), lambda g: (stash.clear(), t.new(n, w))[1:])

        def collect(g: Tensor) -> Sequence[Tensor]:
            stash.append(g)
            return (Tensor(None, 0, 1),)

        widths = (s.q_width, s.kv_width, s.kv_width)
        q, k, v = (t.record(Tensor(qkv.storage, rows * width, w), (whole,), collect) for width in widths)
        del qkv, whole
        if grouped:
            q = copy(t, q)
            k, v = self._expand(t, k), self._expand(t, v)
        part_n = int(s.rotary_fraction * q.n)
        q, k = self._rope(t, q, part_n, tables), self._rope(t, k, part_n, tables)
        y = flash(t, q, k, v, batch=job.batch, length=job.length, heads=s.heads, kv_heads=s.heads, dim=s.head_dim)
        return self.out(t, y)

    def _expand(self, t: Tape, x: Tensor) -> Tensor:
        times = self.shape.heads // self.shape.kv_heads
        n, w = x.n, x.w
        return t.record(t.new(n * times, w), (x,), lambda g: (t.new(n, w),))

    def _rope(self, t: Tape, x: Tensor, part: int, tables: tuple[Tensor, Tensor]) -> Tensor:
        """apply_rope on the rotary part, cat with the rest."""
        n, w = x.n, x.w
        sliced = t.record(Tensor(x.storage, part, w), (x,), lambda g: (t.new(n, w),))
        wide = tables[0].w
        negated = t.record(t.new(part // 2, w), (sliced,), lambda g: (t.new(part, w),))
        rotated = t.record(t.new(part, w), (negated, sliced), lambda g: (g.view(), t.new(part, w)))
        del negated
        first = mul_constant(t, sliced, tables[0], wide)
        second = mul_constant(t, rotated, tables[1], wide)
        roped = cast(t, add(t, first, second), w)
        del first, second, rotated
        return t.record(
            t.new(n, w), (roped, x), lambda g: (Tensor(g.storage, part, w), t.new(n, w) if part < n else None)
        )

    def _mlp(self, t: Tape, x: Tensor) -> Tensor:
        f = self.shape.family
        if not f.gated:
            return self.mlp[1](t, activation(t, self.mlp[0](t, x), "gelu"))
        first, second = self.mlp[0](t, x), self.mlp[1](t, x)
        return self.mlp[2](t, mul(t, activation(t, first, "silu"), second))


def head_and_loss(t: Tape, job: Job, x: Tensor, head: LitLinear) -> tuple[Tensor, list[Tensor]]:
    """Logits chunk by chunk, then cross entropy chunk by chunk in their own dtype. The loop keeps the logits."""
    s = job.shape
    n, w = x.n, x.w
    chunks = -(-job.length // CHUNK)
    stash: list[Tensor] = []
    whole = t.record(Tensor(x.storage, 0, w), (x,), lambda g: (stash.clear(), t.new(n, w))[1:])
    logits: list[Tensor] = []
    part: Tensor | None = None
    for i in range(chunks):
        tokens = min(CHUNK, job.length - i * CHUNK) * job.batch

        def collect(g: Tensor) -> Sequence[Tensor]:
            stash.append(g)
            return (Tensor(None, 0, 1),)

        part = t.record(Tensor(x.storage, tokens * s.hidden, w), (whole,), collect)
        logits.append(head(t, part))
    part = None
    del x, whole
    # Fabric converts the outputs of a module to the default dtype: float32 logits
    logits = [cast(t, piece, 4) for piece in logits]
    total: Tensor | None = None
    for piece in logits:
        loss = cross_entropy(t, piece, upcast=False, shift=False)
        total = loss if total is None else t.record(t.new(1, 4), (total, loss), lambda g: (g, g))
    assert total is not None
    return total, logits
