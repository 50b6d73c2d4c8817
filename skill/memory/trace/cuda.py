"""What differs in memory between CUDA and meta: attention kernels, autocast, dropout, softmax from float16."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


def _up(x: int, multiple: int) -> int:
    return (x + multiple - 1) // multiple * multiple


def _rows_first(batch: int, length: int, heads: int, dim: int, like: torch.Tensor) -> torch.Tensor:
    return torch.empty((batch, length, heads, dim), dtype=like.dtype, device="meta").transpose(1, 2)


class _Flash(torch.autograd.Function):
    """csrc/flash_attn/flash_api.cpp mha_fwd and mha_bwd: what is saved and what backward allocates."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        batch, heads, length, dim = q.shape
        out = _rows_first(batch, length, heads, dim, q)
        statistics = torch.empty((batch, heads, length), dtype=torch.float32, device="meta")
        ctx.save_for_backward(q, k, v, out, statistics)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        q, k, v, _out, _statistics = ctx.saved_tensors
        batch, heads, length, dim = q.shape
        kv_heads, kv_length = k.shape[1], k.shape[2]
        grad = grads[0] if grads[0].stride(-1) == 1 else grads[0].contiguous()
        dq = _rows_first(batch, length, heads, dim, q)
        dk = _rows_first(batch, kv_length, kv_heads, dim, k)
        dv = _rows_first(batch, kv_length, kv_heads, dim, v)
        rounded, wide = _up(length, 128), _up(dim, 32 if dim <= 128 else 64)
        row = torch.empty((batch, heads, rounded), dtype=torch.float32, device="meta")
        accumulator = torch.empty((batch, heads, rounded, wide), dtype=torch.float32, device="meta")
        expanded = [_rows_first(batch, kv_length, heads, dim, k) for _ in range(2)] if kv_heads != heads else None
        del row, accumulator, expanded, grad
        return dq, dk, dv


class _Efficient(torch.autograd.Function):
    """aten/src/ATen/native/transformers/cuda/attention_backward.cu; keys and values have all heads here."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        batch, heads, length, _ = q.shape
        out = _rows_first(batch, length, heads, v.shape[-1], q)
        statistics = torch.empty((batch, heads, _up(length, 32)), dtype=torch.float32, device="meta")
        ctx.save_for_backward(q, k, v, out, statistics, *([] if mask is None else [mask]))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        q, k, v = ctx.saved_tensors[:3]
        batch, heads, length, dim = q.shape
        dq = _rows_first(batch, length, heads, dim, q)
        dk = _rows_first(batch, k.shape[2], heads, dim, k)
        dv = _rows_first(batch, k.shape[2], heads, v.shape[-1], v)
        row = torch.empty((batch, heads, length), dtype=torch.float32, device="meta")
        scratch = None
        if q.dtype != torch.float32:
            elements = batch * heads * _up(length, 64) * _up(dim, 32) * (3 if dim > 128 else 1)
            scratch = torch.empty(elements, dtype=torch.float32, device="meta")
        del row, scratch
        return dq, dk, dv, None


def _attention(flash: bool) -> Any:
    def scaled_dot_product_attention(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if Autocast.current is not None:
            query, key, value = (Autocast.current.low(x) for x in (query, key, value))
        half = query.dtype in (torch.float16, torch.bfloat16)
        if attn_mask is None and half and flash and query.shape[-1] <= 256 and query.shape[-1] == value.shape[-1]:
            return _Flash.apply(query, key, value)  # type: ignore[return-value]
        heads = query.shape[1]
        if key.shape[1] != heads:
            key = key.repeat_interleave(heads // key.shape[1], 1)
            value = value.repeat_interleave(heads // value.shape[1], 1)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
        return _Efficient.apply(query, key, value, attn_mask)  # type: ignore[return-value]

    return scaled_dot_product_attention


# torch/amp autocast lists for CUDA (aten/src/ATen/autocast_mode.h), the entries models use.
LOWER = frozenset(
    [
        "linear",
        "matmul",
        "__matmul__",
        "__rmatmul__",
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "addbmm",
        "mv",
        "addmv",
        "conv1d",
        "conv2d",
        "conv3d",
        "einsum",
        "prelu",
    ]
)
FLOAT32 = frozenset(
    [
        "pow",
        "__pow__",
        "__rpow__",
        "rsqrt",
        "exp",
        "log",
        "softplus",
        "layer_norm",
        "group_norm",
        "nll_loss",
        "cosine_similarity",
        "logsumexp",
        "cdist",
    ]
)
FLOAT32_DTYPE = frozenset(["softmax", "log_softmax", "cumsum", "cumprod", "prod", "sum", "norm"])


class Autocast(TorchFunctionMode):
    """torch.autocast("cuda") for meta tensors, the cache of trained float32 weights included."""

    current: Autocast | None = None

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.depth = 0

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        before, Autocast.current = Autocast.current, self
        self.depth += 1
        try:
            with self:
                yield
        finally:
            self.depth -= 1
            Autocast.current = before
            if not self.depth:
                self.cache.clear()

    def low(self, t: Any) -> Any:
        if not isinstance(t, torch.Tensor) or t.device.type != "meta" or t.dtype not in (torch.float32, torch.float16):
            return t
        if t.dtype == self.dtype:
            return t
        if t.dtype == torch.float32 and t.requires_grad and t.is_leaf and t._base is None:
            if id(t) not in self.cache:
                self.cache[id(t)] = (t, t.to(self.dtype))
            return self.cache[id(t)][1]
        return t.to(self.dtype)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in LOWER:
            args = tuple(self.low(a) for a in args)
            kwargs = {k: self.low(v) for k, v in kwargs.items()}
        elif name in FLOAT32:
            args = tuple(_float(a) for a in args)
        elif name in FLOAT32_DTYPE and "dtype" not in kwargs and args and _is_half(args[0]):
            kwargs["dtype"] = torch.float32
        return func(*args, **kwargs)


def _is_half(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.device.type == "meta" and x.dtype in (torch.float16, torch.bfloat16)


def _float(x: Any) -> Any:
    return x.float() if _is_half(x) else x


@contextlib.contextmanager
def emulated(*, flash: bool = True) -> Iterator[None]:
    """Patch the Python entry points, for this process's one trace."""
    saved: list[tuple[Any, str, Any]] = []

    def patch(owner: Any, name: str, value: Any) -> None:
        saved.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    softmax = F.softmax

    def half_to_float(x: torch.Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> torch.Tensor:
        if x.device.type == "meta" and x.dtype == torch.float16 and dtype == torch.float32 and dim is not None:
            return torch.ops.aten._softmax(x, dim, True)
        return softmax(x, dim=dim, _stacklevel=_stacklevel, dtype=dtype)

    def dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return torch.native_dropout(x, p, True)[0] if p and training else x

    enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
    patch(F, "scaled_dot_product_attention", _attention(flash))
    patch(F, "softmax", half_to_float)
    patch(F, "dropout", dropout)
    patch(torch, "is_autocast_enabled", lambda *a: Autocast.current is not None or (not a and enabled()))
    patch(torch, "get_autocast_dtype", lambda *a: Autocast.current.dtype if Autocast.current else dtype("cuda"))
    original = torch.autocast

    class _NoAutocast(original):  # model code that switches autocast off around rotary tables
        def __init__(self, device_type: str, *a: Any, **k: Any) -> None:
            super().__init__("cpu" if device_type == "meta" else device_type, *a, **k)

    patch(torch, "autocast", _NoAutocast)
    try:
        yield
    finally:
        for owner, name, value in reversed(saved):
            setattr(owner, name, value)
