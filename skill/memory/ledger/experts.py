"""Mixture of experts as transformers 5 runs it: router, rows sorted by expert, grouped matrix products over stacked
weights, rows weighted and put back. Sources: transformers/integrations/moe.py grouped_mm_experts_forward; PEFT
tuners/lora/layer.py ParamWrapper, which folds an adapter into a second copy of the whole expert stack (baddbmm)."""

from __future__ import annotations

from collections.abc import Sequence

from skill.memory.ledger.layers import Projection, Weights, adapted
from skill.memory.ledger.ops import activation, cast, linear, mul
from skill.memory.ledger.tape import Tape, Tensor
from skill.memory.shapes import Linear


class _Stack:
    """One stacked weight [experts, n_out, n_in]; with an adapter, a folded copy per forward."""

    def __init__(self, weights: Weights, n_in: int, n_out: int, *, fused: int = 1) -> None:
        """fused: projections stacked in this weight; PEFT gives each its own rank."""
        job = weights.job
        self.n_in, self.n_out, self.width = n_in, n_out, job.width
        self.n = job.shape.experts * n_in * n_out
        self.weight = weights.base(self.n)
        self.adapter: tuple[Tensor, Tensor] | None = None
        # PEFT's "all-linear" takes stacked experts in as well.
        if job.method == "lora" and job.targets == "all-linear":
            rank = job.rank * job.shape.experts * fused
            self.adapter = (weights.adapter(rank * n_in), weights.adapter(rank * n_out))

    def __call__(self, t: Tape, x: Tensor, compute: int) -> Tensor:
        weight = self.weight
        if self.adapter is not None:
            n, w = self.n, self.width
            low = [cast(t, a, w) for a in self.adapter]
            sizes = [(a.n, a.w) for a in low]

            def fold_backward(g: Tensor, _keep: object = [a.storage for a in low]) -> Sequence[Tensor | None]:
                return tuple(t.new(size, width) for size, width in sizes)

            weight = t.record(t.new(n, w), tuple(low), fold_backward)
            del low
        elif weight.w != compute:
            weight = cast(t, weight, compute)
        return linear(t, x, weight, self.n_in, self.n_out)


class MoeMlp:
    def __init__(self, weights: Weights) -> None:
        job, s = weights.job, weights.job.shape
        self.job, self.shape = job, s
        self.router = Projection(weights, Linear("gate", s.hidden, s.experts))
        self.router.quantised, self.router.extra = False, 0
        self.router.lora = adapted(job, "gate")
        self.up = _Stack(weights, s.hidden, 2 * s.moe_intermediate, fused=2)
        self.down = _Stack(weights, s.moe_intermediate, s.hidden)
        self.shared: list[Projection] = []
        if s.shared_intermediate:
            inner = s.shared_intermediate
            names = (("gate_proj", s.hidden, inner), ("up_proj", s.hidden, inner), ("down_proj", inner, s.hidden))
            self.shared = [Projection(weights, Linear(*row)) for row in names]

    def __call__(self, t: Tape, x: Tensor) -> Tensor:
        s, job = self.shape, self.job
        rows = x.n // s.hidden
        picked = rows * max(1, s.top_k)
        compute = 2 if job.autocast else x.w
        logits = self.router(t, x)
        n, lw = logits.n, logits.w
        probabilities = t.new(n, 4)

        def softmax_backward(g: Tensor, _keep: object = probabilities.storage) -> Sequence[Tensor]:
            return (t.new(n, lw),)

        t.record(probabilities, (logits,), softmax_backward)
        scores = t.record(t.new(picked, compute), (probabilities,), lambda g: (t.new(n, 4),))
        order = t.new(3 * picked, 8)  # permutation, its inverse, expert ids
        xn, xw = x.n, x.w
        gathered = t.record(t.new(picked * s.hidden, xw), (x,), lambda g, _keep=order.storage: (t.new(xn, xw),))
        inner = self.up(t, cast(t, gathered, compute), compute)
        del gathered
        inner = self._glu(t, inner)
        out = self.down(t, inner, compute)
        del inner
        weighted = mul(t, out, scores) if scores.n == out.n else self._weigh(t, out, scores)
        del out
        weighted = t.record(t.new(weighted.n, weighted.w), (weighted,), lambda g: (t.new(picked * s.hidden, g.w),))
        total = t.record(t.new(xn, weighted.w), (weighted,), lambda g: (t.new(picked * s.hidden, g.w),))
        del weighted
        total = cast(t, total, xw)
        if self.shared:
            gate, up, down = self.shared
            beside = down(t, mul(t, activation(t, gate(t, x)), up(t, x)))
            total = t.record(t.new(xn, xw), (total, beside), lambda g: (g, g))
        return total

    def _glu(self, t: Tape, both: Tensor) -> Tensor:
        n, w = both.n, both.w
        halves = [t.record(Tensor(both.storage, n // 2, w), (both,), lambda g: (t.new(n, w),)) for _ in range(2)]
        return mul(t, activation(t, halves[0], self.shape.family.activation), halves[1])

    def _weigh(self, t: Tape, out: Tensor, scores: Tensor) -> Tensor:
        n, w, sn, sw = out.n, out.w, scores.n, scores.w
        keep = (out.storage if scores.node else None, scores.storage)
        needs_out, needs_scores = out.node is not None, scores.node is not None

        def backward(g: Tensor, _keep: object = keep) -> Sequence[Tensor | None]:
            go = t.new(n, w) if needs_out else None
            gs = None
            if needs_scores:
                product = t.new(n, w)
                gs = t.new(sn, sw)
                del product
            return (go, gs)

        return t.record(t.new(n, w), (out, scores), backward)
