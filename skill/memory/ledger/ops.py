"""Operations on the ledger: what each PyTorch CUDA op allocates, saves for backward, and allocates in backward.

Sizes follow tools/autograd/derivatives.yaml and ATen's native CUDA code (torch 2.x). Temporaries inside a
C++ expression
live until its end, and so do they here. `rows` is tokens; `n` elements; `w` bytes an element.
"""

from __future__ import annotations

from collections.abc import Sequence

from skill.memory.ledger.tape import Tape, Tensor


def cast(t: Tape, x: Tensor, w: int) -> Tensor:
    """x.to(dtype): x itself when the width is the same (float16 and bfloat16 never meet in one step here)."""
    if x.w == w:
        return x
    n, back = x.n, x.w
    return t.record(t.new(n, w), (x,), lambda g: (t.new(n, back),))


def copy(t: Tape, x: Tensor) -> Tensor:
    """A contiguous copy; its gradient is a view."""
    return t.record(t.new(x.n, x.w), (x,), lambda g: (g,))


def expand_copy(t: Tape, x: Tensor, times: int) -> Tensor:
    """repeat_kv: expand and reshape. Backward sums over the repeats."""
    if times == 1:
        return x
    n, w = x.n, x.w
    return t.record(t.new(n * times, w), (x,), lambda g: (t.new(n, w),))


def add(t: Tape, a: Tensor, b: Tensor) -> Tensor:
    """a + b of the same number of elements; the wider dtype wins and backward casts back."""
    w = max(a.w, b.w)
    aw, bw, n = a.w, b.w, a.n

    def backward(g: Tensor) -> Sequence[Tensor]:
        return (g if aw == w else t.new(n, aw), g if bw == w else t.new(n, bw))

    return t.record(t.new(n, w), (a, b), backward)


def scale(t: Tape, x: Tensor) -> Tensor:
    """x * python number."""
    n, w = x.n, x.w
    return t.record(t.new(n, w), (x,), lambda g: (t.new(n, w),))


def mul(t: Tape, a: Tensor, b: Tensor) -> Tensor:
    """a * b, both of n elements; each saves the other if it needs a gradient."""
    n, w = a.n, max(a.w, b.w)
    keep = (b.storage if a.node else None, a.storage if b.node else None)
    needs_a, needs_b, aw, bw = a.node is not None, b.node is not None, a.w, b.w

    def backward(g: Tensor, _keep: object = keep) -> Sequence[Tensor | None]:
        return (t.new(n, aw) if needs_a else None, t.new(n, bw) if needs_b else None)

    return t.record(t.new(n, w), (a, b), backward)


def mul_constant(t: Tape, x: Tensor, constant: Tensor | None = None, w: int = 0) -> Tensor:
    """x * something that needs no gradient (cos, a mask): saves the something."""
    n, xw = x.n, x.w
    keep = constant.storage if constant is not None and x.node else None

    def backward(g: Tensor, _keep: object = keep) -> Sequence[Tensor]:
        return (t.new(n, xw),)

    return t.record(t.new(n, w or xw), (x,), backward)


def linear(
    t: Tape,
    x: Tensor,
    weight: Tensor,
    n_in: int,
    n_out: int,
    *,
    bias: Tensor | None = None,
    w: int = 0,
    extra: int = 0,
    keep_input: bool = False,
) -> Tensor:
    """x @ weight.T (+ bias). Saves x if the weight trains. `extra`: bytes of a dequantised weight, alive
    during the call
    in both directions."""
    rows = x.n // n_in
    xw, yw = x.w, w or x.w
    needs_x, needs_w = x.node is not None, weight.node is not None
    # An autocast copy of the weight lives as long as backward needs it; a parameter's own storage is None here.
    keep = (x.storage if needs_w or (keep_input and needs_x) else None, weight.storage if needs_x else None)
    nw, ww = weight.n, weight.w
    has_bias = bias is not None and bias.node is not None
    scratch = t.new(extra, 1) if extra else None
    out = t.new(rows * n_out, yw)
    del scratch

    def backward(g: Tensor, _keep: object = keep) -> Sequence[Tensor | None]:
        scratch = t.new(extra, 1) if extra else None
        gx = t.new(rows * n_in, xw) if needs_x else None
        del scratch
        gw = t.new(nw, ww) if needs_w else None
        return (gx, gw, t.new(n_out, ww) if has_bias else None)

    return t.record(out, (x, weight, bias), backward)


def activation(t: Tape, x: Tensor, kind: str = "silu") -> Tensor:
    """One-kernel activations save their input; gelu_new is eight elementwise ops in Python."""
    n, w = x.n, x.w
    if kind == "gelu_new":
        return _gelu_new(t, x)

    def backward(g: Tensor, _keep: object = x.storage) -> Sequence[Tensor]:
        return (t.new(n, w),)

    return t.record(t.new(n, w), (x,), backward)


def power(t: Tape, x: Tensor, *, exponent: int = 2) -> Tensor:
    """x.pow(e): backward holds grad, x**(e-1), e * x**(e-1) and the result together."""
    n, w = x.n, x.w

    def backward(g: Tensor, _keep: object = x.storage) -> Sequence[Tensor]:
        a = t.new(n, w)
        b = t.new(n, w)
        out = t.new(n, w)
        del a, b
        return (out,)

    return t.record(t.new(n, w), (x,), backward)


def _gelu_new(t: Tape, x: Tensor) -> Tensor:
    """transformers NewGELUActivation: 0.5 * x * (1 + tanh(c * (x + 0.044715 * x^3)))."""
    half = scale(t, x)
    inner = scale(t, power(t, x, exponent=3))
    inner = add(t, x, inner)
    inner = scale(t, inner)
    n, w = inner.n, inner.w
    tanh = t.new(n, w)
    t.record(tanh, (inner,), lambda g, _keep=tanh.storage: (t.new(n, w),))
    del inner
    one = t.record(t.new(n, w), (tanh,), lambda g: (g,))
    del tanh
    return mul(t, half, one)


def dropout(t: Tape, x: Tensor, p: float) -> Tensor:
    """native_dropout: a one-byte mask is saved."""
    if p <= 0:
        return x
    n, w = x.n, x.w
    mask = t.new(n, 1)
    out = t.new(n, w)

    def backward(g: Tensor, _keep: object = mask.storage) -> Sequence[Tensor]:
        return (t.new(n, w),)

    return t.record(out, (x,), backward)


def rms_norm(t: Tape, x: Tensor, weight: Tensor, width: int, *, plus_one: bool = False) -> Tensor:
    """LlamaRMSNorm: float32 inside, weight * x.to(dtype) outside. Gemma multiplies in float32 before it casts back."""
    rows, w = x.n // width, x.w
    y = cast(t, x, 4)
    n = y.n
    square = power(t, y)
    mean = t.record(t.new(rows, 4), (square,), lambda g: (t.new(n, 4),))
    del square
    inverse = t.new(rows, 4)
    t.record(inverse, (mean,), lambda g, _keep=inverse.storage: (t.new(rows, 4),))
    del mean
    needs = y.node is not None

    def backward(g: Tensor, _keep: object = (y.storage, inverse.storage)) -> Sequence[Tensor | None]:
        if not needs:
            return (None, None)
        gy = t.new(n, 4)
        product = t.new(n, 4)
        reduced = t.new(rows, 4)
        del product
        return (gy, reduced)

    normed = t.record(t.new(n, 4), (y, inverse), backward)
    del y, inverse
    if plus_one:
        return cast(t, _times_weight(t, normed, weight, width, 4), w)
    out = cast(t, normed, w)
    del normed
    return _times_weight(t, out, weight, width, max(w, weight.w))


def _times_weight(t: Tape, x: Tensor, weight: Tensor, width: int, out_w: int) -> Tensor:
    """weight * x with a weight of `width` elements."""
    n, w = x.n, x.w
    needs_x, needs_w, ww = x.node is not None, weight.node is not None, weight.w
    keep = x.storage if needs_w else None

    def backward(g: Tensor, _keep: object = keep) -> Sequence[Tensor | None]:
        gw = None
        gx = t.new(n, out_w) if needs_x else None
        if needs_w:
            product = t.new(n, out_w)
            gw = t.new(width, ww)
            del product
        if gx is not None and w != out_w:
            gx = t.new(n, w)
        return (gx, gw)

    return t.record(t.new(n, out_w), (x, weight), backward)


def fused_norm(t: Tape, x: Tensor, weight: Tensor, width: int, *, bias: Tensor | None = None, stats: int = 2) -> Tensor:
    """One-kernel norms (layer_norm, F.rms_norm, Liger, Unsloth): save the input and `stats` float32 numbers a row."""
    rows, n, w = x.n // width, x.n, x.w
    numbers = t.new(rows * stats, 4)
    needs_w, ww = weight.node is not None, weight.w
    has_bias = bias is not None and bias.node is not None

    def backward(g: Tensor, _keep: object = (x.storage, numbers.storage)) -> Sequence[Tensor | None]:
        gx = t.new(n, w)
        return (gx, t.new(width, ww) if needs_w else None, t.new(width, ww) if has_bias else None)

    return t.record(t.new(n, w), (x, weight, bias), backward)


def unsloth_norm(t: Tape, x: Tensor, width: int) -> Tensor:
    """Unsloth's RMSNorm (frozen weight): saves the input and one number a row; writes dx into the incoming gradient."""
    rows, n, w = x.n // width, x.n, x.w
    numbers = t.new(rows, 4)

    def backward(g: Tensor, _keep: object = (x.storage, numbers.storage)) -> Sequence[Tensor]:
        return (Tensor(g.storage, n, w),)

    return t.record(t.new(n, w), (x,), backward)


def rotary(t: Tape, x: Tensor, cos: Tensor, sin: Tensor, *, full: bool = True) -> Tensor:
    """(x * cos) + (rotate_half(x) * sin), as transformers writes it."""
    n, w = x.n, x.w
    first = mul_constant(t, x, cos)
    negated = t.record(t.new(n // 2, w), (x,), lambda g: _slice_backward(t, g, n, w, negate=True))
    rotated = t.record(t.new(n, w), (negated, x), lambda g: _cat_backward(t, g, n, w))
    del negated
    second = mul_constant(t, rotated, sin)
    del rotated
    return add(t, first, second)


def _slice_backward(t: Tape, g: Tensor, n: int, w: int, *, negate: bool) -> Sequence[Tensor]:
    half = t.new(n // 2, w) if negate else None
    out = t.new(n, w)
    del half
    return (out,)


def _cat_backward(t: Tape, g: Tensor, n: int, w: int) -> Sequence[Tensor]:
    """Narrowed views of g; the half that was not negated goes through slice backward at once."""
    return (g.view(), t.new(n, w))


def fused_rotary(t: Tape, x: Tensor) -> Tensor:
    """Rotary in place (Unsloth, Liger, flash-attn kernels): no new tensor, nothing saved but the tables."""
    return t.record(x.view(), (x,), lambda g: (g,))
