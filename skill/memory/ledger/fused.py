"""Unsloth's fused LoRA functions as fms-acceleration-foak ships them: query, key and value in one autograd function,
the output projection in another. Backward writes dx over the saved input."""

from __future__ import annotations

from collections.abc import Sequence

from skill.memory.ledger.layers import Projection
from skill.memory.ledger.tape import Storage, Tape, Tensor


def _project(t: Tape, x: Tensor, p: Projection, dequantised: Tensor | None) -> tuple[Tensor, Storage | None]:
    """matmul_lora: x @ W, then += (x @ A) @ (s * B), which is a second full result for a moment. Under dropout the
    dropped input is a copy that backward needs."""
    rows = x.n // p.spec.n_in
    scratch = dequantised or t.new(p.extra, 1)
    out = t.new(rows * p.spec.n_out, x.w)
    del scratch
    dropped = x.storage
    if p.job.lora_dropout:
        copied = t.new(x.n, x.w)
        mask = t.new(x.n, 1)
        dropped = copied.storage
        del copied, mask
    low = t.new(rows * p.job.rank, x.w)
    update = t.new(rows * p.spec.n_out, x.w)
    del low, update
    return out, dropped


def _input_gradient(t: Tape, p: Projection, rows: int, w: int, *, fresh: bool, keep_dequantised: bool) -> Tensor | None:
    """dx for one projection: (fresh) its own buffer or added to the running one, plus the masked LoRA term."""
    n = rows * p.spec.n_in
    scratch = None if keep_dequantised else t.new(p.extra, 1)
    out = t.new(n, w) if fresh else None
    del scratch
    mask = t.new(n, 1)
    term = t.new(n, w)
    product = t.new(n, w)
    del mask, term, product
    return out


def qkv(t: Tape, x: Tensor, parts: list[Projection]) -> list[Tensor]:
    """LoRA_QKV: three outputs, one backward once all three gradients are there."""
    rows, w = x.n // parts[0].spec.n_in, x.w
    gptq = parts[0].job.quant == "gptq"
    all_at_once = [t.new(p.extra, 1) for p in parts] if gptq else None
    outs = [_project(t, x, p, all_at_once[i] if all_at_once else None) for i, p in enumerate(parts)]
    del all_at_once
    dropped = [d for _, d in outs]
    stash: list[Tensor | None] = [None] * len(parts)
    adapters = tuple(leaf for p in parts for leaf in (p.a, p.b))
    needs_x = x.node is not None
    n = x.n

    def backward(
        token: Tensor, _keep: Storage | None = x.storage, _dropped: object = dropped
    ) -> Sequence[Tensor | None]:
        grads = [t.new(a.n, a.w) for a in adapters]
        dequantised = [t.new(p.extra, 1) for p in parts] if gptq else None
        for i, p in enumerate(parts):
            if i:
                scratch = None if gptq else t.new(p.extra, 1)
                added = t.new(n, w)
                del scratch, added
            _input_gradient(t, p, rows, w, fresh=False, keep_dequantised=gptq)
        del dequantised
        stash.clear()
        return (Tensor(_keep, n, w) if needs_x else None, *grads)

    token = t.record(Tensor(None, 0, 1), (x, *adapters), backward)

    def hand_over(i: int) -> Tensor:
        def collect(g: Tensor) -> Sequence[Tensor]:
            stash[i] = g
            return (Tensor(None, 0, 1),)

        return t.record(outs[i][0], (token,), collect)

    results = [hand_over(i) for i in range(len(parts))]
    outs.clear()
    return results


def output(t: Tape, x: Tensor, p: Projection) -> Tensor:
    """LoRA_W on the output projection."""
    rows, w = x.n // p.spec.n_in, x.w
    out, dropped = _project(t, x, p, None)

    def backward(g: Tensor, _keep: object = (x.storage, dropped)) -> Sequence[Tensor | None]:
        grads = (t.new(p.a.n, p.a.w), t.new(p.b.n, p.b.w))
        gx = _input_gradient(t, p, rows, w, fresh=True, keep_dequantised=False)
        return (gx, *grads)

    return t.record(out, (x, p.a, p.b), backward)
