"""Merging by PEFT itself, in memory: for what the streaming merge does not do (IA3, LoHa, MoE target_parameters …)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from skill.adapters.lora import adapter_config
from skill.adapters.merge import Merged, carry_over
from skill.adapters.shards import by_name, read_model
from skill.adapters.staging import staged
from skill.errors import ModelUnsupported
from skill.inference import load_trained_base, with_adapter
from skill.spec import RunSpec

SHARD = "5GB"


def merge_by_peft(
    spec: RunSpec,
    base: Path,
    adapter: Path,
    out: Path,
    *,
    dtype: str,
    device: str,
    why: str,
    finish: Callable[[Path], None] | None = None,
) -> Merged:
    """`merge_and_unload()` of the loaded model, saved into a staged folder. Needs memory for the whole model.

    Raises:
        ModelUnsupported: PEFT cannot merge this method either, or the result is not finite.
    """
    import torch

    started = time.perf_counter()
    model = with_adapter(load_trained_base(spec, base, device), adapter)
    kind = str(adapter_config(adapter).get("peft_type"))
    if not hasattr(model, "merge_and_unload"):
        raise ModelUnsupported(
            f"{kind} cannot be merged ({why}; PEFT has no merge for it).",
            hint="Serve base and adapter together.",
        )
    try:
        merged = model.merge_and_unload()
    except (ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise ModelUnsupported(
            f"PEFT cannot merge this adapter: {error}", hint="Serve base and adapter together."
        ) from error
    for name, value in merged.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelUnsupported(f"{name} would hold NaN or infinity.", hint="Check base and adapter.")
    merged = merged.to(getattr(torch, dtype))
    size = sum(value.numel() * value.element_size() for value in merged.state_dict().values())
    with staged(out, size, overwrite=True) as folder:
        merged.save_pretrained(folder, max_shard_size=SHARD)
        config = (folder / "config.json").read_text(encoding="utf-8")
        (folder / "config.json").unlink()
        carry_over(base, adapter, folder)
        tensors = len(by_name(read_model(folder)))
        if finish:
            finish(folder)
        (folder / "config.json").write_text(config, encoding="utf-8")
    return Merged(
        out=out,
        kind=f"{kind} by PEFT ({why})",
        dtype=dtype,
        tensors=tensors,
        changed=tensors,
        modules=0,
        untied=not json.loads(config).get("tie_word_embeddings", False),
        bytes_written=size,
        wall_s=round(time.perf_counter() - started, 3),
    )
