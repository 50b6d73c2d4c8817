"""bitsandbytes 4-bit linears on meta: the real module and its quantisation state, with kernels that allocate what the
CUDA ones do (bitsandbytes/autograd/_functions.py MatMul4Bit, functional.dequantize_4bit)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from skill.memory.job import Job


class _State:
    """Packed weight and scales of one linear: the tensors that occupy memory."""

    def __init__(self, n_out: int, n_in: int, *, nested: bool, dtype: torch.dtype) -> None:
        n = n_out * n_in
        meta: dict[str, Any] = {"device": "meta"}
        self.shape, self.nested, self.dtype = (n_out, n_in), nested, dtype
        self.packed = torch.empty(n // 2, dtype=torch.uint8, **meta)
        self.absmax = torch.empty(n // 64, dtype=torch.uint8 if nested else torch.float32, **meta)
        self.tensors = [self.packed, self.absmax, torch.empty(16, dtype=torch.float32, **meta)]
        if nested:
            self.tensors += [torch.empty(k, dtype=torch.float32, **meta) for k in (-(-n // 64 // 256), 256, 1)]

    def dequantise(self) -> torch.Tensor:
        scales = None
        if self.nested:
            scales = [torch.empty(self.absmax.numel(), dtype=torch.float32, device="meta") for _ in range(2)]
        weight = torch.empty(self.shape, dtype=self.dtype, device="meta")
        del scales
        return weight


class _MatMul4Bit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, state: _State) -> torch.Tensor:
        ctx.state = state
        return x @ state.dequantise().t()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return grads[0] @ ctx.state.dequantise(), None


def quantise(model: nn.Module, job: Job) -> None:
    """Replace the forward and weight of every nn.Linear but lm_head."""
    import bitsandbytes as bnb

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[job.compute]

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        kept = x.dtype
        out = _MatMul4Bit.apply(x.to(dtype), self.tunesmith_state)
        return out.to(kept)  # type: ignore[union-attr]

    layers: Any = bnb.nn  # its names are not in __all__
    linear_class: Any = type("Linear4bit", (layers.Linear4bit,), {"forward": forward})
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is not nn.Linear or name == "lm_head":
                continue
            state = _State(child.out_features, child.in_features, nested=job.quant == "nf4-dq", dtype=dtype)
            quantised = linear_class(child.in_features, child.out_features, bias=child.bias is not None, device="meta")
            quantised.weight = layers.Params4bit(state.packed, requires_grad=False, bnb_quantized=True)
            if child.bias is not None:
                quantised.bias = child.bias
            quantised.tunesmith_state = state
            setattr(module, name, quantised)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]
    model.is_quantized = True  # type: ignore[assignment]
    from transformers.utils.quantization_config import QuantizationMethod

    model.quantization_method = QuantizationMethod.BITS_AND_BYTES  # type: ignore[assignment]
