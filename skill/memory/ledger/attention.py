"""Attention kernels on the ledger. q is rows * q_width, k and v are rows * kv_width elements."""

from __future__ import annotations

from collections.abc import Sequence

from skill.memory.ledger.ops import cast, copy, expand_copy
from skill.memory.ledger.tape import Tape, Tensor


def _up(x: int, multiple: int) -> int:
    return (x + multiple - 1) // multiple * multiple


def flash(
    t: Tape, q: Tensor, k: Tensor, v: Tensor, *, batch: int, length: int, heads: int, kv_heads: int, dim: int
) -> Tensor:
    """FlashAttention-2 (flash_attn and torch's own copy): saves q, k, v, out and a float32 log-sum-exp; backward adds
    a float32 dq accumulator, a float32 row statistic, and expanded dk and dv under grouped queries.
    Source: csrc/flash_attn/flash_api.cpp mha_fwd, mha_bwd."""
    w, n = q.w, q.n
    out = t.new(n, w)
    lse = t.new(batch * heads * length, 4)
    kn, vn = k.n, v.n
    grouped = heads != kv_heads

    def backward(
        g: Tensor, _keep: object = (q.storage, k.storage, v.storage, out.storage, lse.storage)
    ) -> Sequence[Tensor]:
        rounded = _up(length, 128)
        dq, dk, dv = t.new(n, w), t.new(kn, w), t.new(vn, w)
        row = t.new(batch * heads * rounded, 4)
        accumulator = t.new(batch * heads * rounded * (_up(dim, 32) if dim <= 128 else _up(dim, 64)), 4)
        wide = (t.new(n, w), t.new(n, w)) if grouped else None
        del row, accumulator, wide
        return (dq, dk, dv)

    return t.record(out, (q, k, v), backward)


def efficient(
    t: Tape, q: Tensor, k: Tensor, v: Tensor, *, batch: int, length: int, heads: int, kv_heads: int, dim: int
) -> Tensor:
    """Memory-efficient attention (CUTLASS; taken below sm_80 or with a mask): k and v expanded to all heads, float32 dq
    accumulator at half precision. Source: aten/src/ATen/native/transformers/cuda/attention_backward.cu."""
    k = expand_copy(t, k, heads // kv_heads)
    v = expand_copy(t, v, heads // kv_heads)
    w, n = q.w, q.n
    out = t.new(n, w)
    lse = t.new(batch * heads * _up(length, 32), 4)

    def backward(
        g: Tensor, _keep: object = (q.storage, k.storage, v.storage, out.storage, lse.storage)
    ) -> Sequence[Tensor]:
        dq, dk, dv = t.new(n, w), t.new(n, w), t.new(n, w)
        delta = t.new(batch * heads * length, 4)
        workspace = 0
        if w == 2:
            workspace = batch * heads * _up(length, 64) * _up(dim, 32)
            if dim > 128:
                workspace *= 3
        scratch = t.new(workspace, 4) if workspace else None
        del delta, scratch
        return (dq, dk, dv)

    return t.record(out, (q, k, v), backward)


def eager(
    t: Tape,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    batch: int,
    length: int,
    heads: int,
    kv_heads: int,
    dim: int,
    half: bool = False,
) -> Tensor:
    """transformers eager attention: scores, scale, mask, float32 softmax, cast back, scores @ v. float16 (`half`) takes
    the fused half-to-float softmax, whose backward writes float16; bfloat16 is copied to float32 first. softmax
    backward holds a hidden grad * output (aten/src/ATen/native/cuda/SoftMax.cu)."""
    w, n = q.w, q.n
    k = expand_copy(t, k, heads // kv_heads)
    v = expand_copy(t, v, heads // kv_heads)
    cells = batch * heads * length * length
    fused = half and w == 2

    def product_backward(g: Tensor, _keep: object = (q.storage, k.storage)) -> Sequence[Tensor]:
        return (t.new(n, w), t.new(n, w))

    scores = t.record(t.new(cells, w), (q, k), product_backward)
    scores = t.record(t.new(cells, w), (scores,), lambda g: (t.new(cells, w),))
    scores = t.record(t.new(cells, w), (scores,), lambda g: (g,))
    if not fused:
        scores = cast(t, scores, 4)
    probabilities = t.new(cells, 4)

    def softmax_backward(g: Tensor, _keep: object = probabilities.storage) -> Sequence[Tensor]:
        hidden = t.new(cells, 4)
        out = t.new(cells, w if fused else 4)
        del hidden
        return (out,)

    t.record(probabilities, (scores,), softmax_backward)
    del scores
    low = cast(t, probabilities, w)
    del probabilities

    def mix_backward(g: Tensor, _keep: object = (low.storage, v.storage)) -> Sequence[Tensor]:
        return (t.new(cells, w), t.new(n, w))

    out = t.record(t.new(n, w), (low, v), mix_backward)
    del low
    return copy(t, out)


KERNELS = {"flash": flash, "efficient": efficient, "eager": eager}
