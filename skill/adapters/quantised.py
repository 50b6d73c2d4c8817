"""The dequantised route of QLoRA: the round trip of each weight through 4 bits, as bitsandbytes does it.

A QLoRA adapter learned on weights that were 4-bit. Merging it into the original ones gives a model that was never
trained: on SmolLM2 the loss rises from 0.104 to 0.175, against 0.105 when the 4-bit values are dequantised first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skill.adapters.shards import FLOATS
from skill.inference import quantisation
from skill.spec import QloraMethod, RunSpec


def round_trip(base: Path, spec: RunSpec, device: str) -> tuple[frozenset[str], Callable[[str, NDArray, str], NDArray]]:
    """Names of the weights that were 4-bit in this run, and the function that takes one through 4 bits.

    The function gets stored values (rows, columns; bfloat16 as bits) and their dtype, and returns float32 values.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    method = spec.method
    assert isinstance(method, QloraMethod)
    trained = getattr(torch, spec.dtype)
    stored = {code: getattr(torch, name) for name, code in FLOATS.items()}

    def trip(name: str, raw: NDArray, dtype: str) -> NDArray[np.float32]:
        values = torch.from_numpy(raw)
        if dtype == "BF16":
            values = values.view(torch.int16).view(torch.bfloat16)
        weight = values.to(device=device, dtype=trained) if stored.get(dtype) != trained else values.to(device).clone()
        packed, state = quantize_4bit(
            weight,
            blocksize=64,  # Params4bit's default, which transformers keeps
            compress_statistics=method.bnb_4bit_use_double_quant,
            quant_type=method.bnb_4bit_quant_type,
        )
        return dequantize_4bit(packed, state).float().cpu().numpy()

    return quantised_names(base, quantisation(spec, spec.dtype)), trip


def quantised_names(base: Path, config: Any) -> frozenset[str]:
    """Weights that transformers makes 4-bit when it loads this model: asked of transformers, on an empty model."""
    import torch
    from bitsandbytes.nn.modules import Linear4bit
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.quantizers.auto import AutoHfQuantizer

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(str(base), trust_remote_code=False), trust_remote_code=False
        )
    AutoHfQuantizer.from_config(config, pre_quantized=False).preprocess_model(model=model, device_map=None)
    return frozenset(f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Linear4bit))
