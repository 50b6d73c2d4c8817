"""What a PEFT adapter folder does to each base weight, read without PEFT or torch.

A LoRA adapter on disk holds, under `base_model.model.<module>`: `lora_A.weight` (r, in), `lora_B.weight` (out, r),
`lora_embedding_A` (r, vocab), `lora_embedding_B` (hidden, r), `lora_magnitude_vector` (out) for DoRA, whole weights for
`modules_to_save`, and `token_adapter.trainable_tokens_delta` (tokens, hidden) for trained token rows (read in
peft 0.21.2, utils/save_and_load.py; the names are checked by the tests against PEFT itself).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skill.adapters.bits import STORED, to_float32
from skill.adapters.shards import Shard, Tensor, by_name, read_into, read_shard
from skill.errors import ModelUnsupported, NotFound

ADAPTER = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
PROMPT_METHODS = (
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "CPT",
    "ADAPTION_PROMPT",
)
# LoraConfig switches that change the arithmetic of a merge and are not implemented here.
VARIANTS = ("arrow_config", "use_bdlora", "alora_invocation_tokens", "velora_config", "monteclora_config",
            "kasa_config", "use_qalora", "layer_replication", "target_parameters", "megatron_config")  # fmt: skip
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
HEADS = ("lm_head", "embed_out", "output")


class NeedsPeft(Exception):
    """Mergeable, but only by PEFT's own code; the message says why."""


@dataclass(frozen=True)
class Delta:
    """`scale * (B @ A)` for one weight; `transposed` where the base stores (in, out), or for embeddings."""

    a: Tensor
    b: Tensor
    scale: float
    transposed: bool = False
    embedding: bool = False  # PEFT rounds an embedding's update to the base's dtype before it is added
    magnitude: Tensor | None = None


@dataclass(frozen=True)
class Change:
    """What happens to one output tensor: where its values come from, and what is added."""

    source: Tensor
    delta: Delta | None = None
    rows: tuple[int, ...] = ()  # rows replaced by `row_values` (trained tokens)
    row_values: Tensor | None = None
    bias: tuple[Tensor, float] | None = None  # lora_B.bias and its scale, added to a bias vector


@dataclass(frozen=True)
class MergePlan:
    changes: dict[str, Change]  # by output tensor name; other tensors are copied
    added: tuple[str, ...]  # output tensors that the base has not: a head that is no longer tied
    untied: bool
    kind: str  # LoRA, rsLoRA, DoRA
    modules: int = field(default=0)


def adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, with a named error when the folder is no adapter."""
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"No {CONFIG} in {folder}.", hint="Name a folder that PEFT's save_pretrained wrote.") from None
    except ValueError as error:
        raise ModelUnsupported(
            f"{folder / CONFIG} is not valid JSON: {error}", hint="Save the adapter again."
        ) from error


def check_mergeable(config: dict[str, Any]) -> None:
    """Refuse methods that have no merged form.

    Raises:
        ModelUnsupported: prefix, prompt and P-tuning: they add inputs, not weights.
    """
    kind = str(config.get("peft_type"))
    if kind in PROMPT_METHODS:
        raise ModelUnsupported(
            f"{kind} cannot be merged: it trains vectors in front of the prompt, not a change of the weights.",
            hint="Serve base and adapter together (PeftModel.from_pretrained), or train with method.type 'lora'.",
        )


def plan_merge(base: list[Shard], adapter: Path, *, tied: bool) -> MergePlan:
    """Which base tensors change, and how.

    Args:
        base: shards of the base model.
        tied: the base's head shares the embedding's weight (`tie_word_embeddings`).

    Raises:
        ModelUnsupported: the method has no merged form, or the adapter does not fit this base.
        NeedsPeft: mergeable, but not by this module.
    """
    config = adapter_config(adapter)
    check_mergeable(config)
    if config.get("peft_type") != "LORA":
        raise NeedsPeft(f"method {config.get('peft_type')}")
    used = [name for name in VARIANTS if config.get(name) and name != "megatron_config"]
    if used:
        raise NeedsPeft(f"LoRA variant {', '.join(used)}")
    if not (adapter / ADAPTER).is_file():
        raise NotFound(
            f"No {ADAPTER} in {adapter}.", hint="Only safetensors adapters are read. Save the adapter again."
        )
    return _Planner(by_name(base), by_name([read_shard(adapter / ADAPTER)]), config, tied).plan()


class _Planner:
    def __init__(self, base: dict[str, Tensor], parts: dict[str, Tensor], config: dict[str, Any], tied: bool) -> None:
        self.base, self.parts, self.config, self.tied = base, parts, config, tied
        self.embedding = next((name for name in base if name.endswith(EMBEDDINGS)), None)
        self.changes: dict[str, Change] = {}
        self.problems: list[str] = []
        self.modules = 0

    def plan(self) -> MergePlan:
        for key, part in self.parts.items():
            name = key.removeprefix(PREFIX)
            if name.endswith(".lora_A.weight"):
                self._low_rank(name.removesuffix(".lora_A.weight"), part, "lora_B.weight", transposed=None)
            elif name.endswith(".lora_embedding_A"):
                self._low_rank(name.removesuffix(".lora_embedding_A"), part, "lora_embedding_B", transposed=True)
            elif name.endswith(".trainable_tokens_delta"):
                self._tokens(name.removesuffix(".trainable_tokens_delta").removesuffix(".token_adapter"), part)
            elif ".lora_" not in name:
                self._whole(name.replace(".base_layer.", "."), part)
        untied, added = self._tying()
        if self.problems:
            shown = "; ".join(self.problems[:5]) + ("; …" if len(self.problems) > 5 else "")
            raise ModelUnsupported(
                f"The adapter does not fit this base: {shown}", hint="Merge onto the base it was trained on."
            )
        if not self.changes:
            raise ModelUnsupported("The adapter changes no weight.", hint="Train it, then merge.")
        kind = "DoRA" if self.config.get("use_dora") else "rsLoRA" if self.config.get("use_rslora") else "LoRA"
        return MergePlan(self.changes, added, untied, kind, self.modules)

    def _base_name(self, name: str) -> str | None:
        """The base's name of a tensor; checkpoints of some models leave out the first part (`transformer.`)."""
        if name in self.base:
            return name
        short = name.partition(".")[2]
        return short if short in self.base else None

    def _source(self, name: str) -> tuple[str, Tensor] | None:
        """Output name and current source of a weight; a tied head starts from the embedding."""
        found = self._base_name(name)
        if found:
            return found, self.changes[found].source if found in self.changes else self.base[found]
        if self.tied and self.embedding and name.removesuffix(".weight").rpartition(".")[2] in HEADS:
            source = self.changes[name].source if name in self.changes else self.base[self.embedding]
            return name, source
        return None

    def _low_rank(self, module: str, a: Tensor, b_name: str, *, transposed: bool | None) -> None:
        b = self.parts.get(f"{PREFIX}{module}.{b_name}")
        place = self._source(f"{module}.weight")
        if b is None or len(a.shape) != 2 or len(b.shape) != 2:
            raise NeedsPeft(f"{module} is not a plain matrix")
        if place is None:
            raise NeedsPeft(f"the base's files have no tensor {module}.weight")
        name, source = place
        if transposed and self.config.get("ensure_weight_tying"):
            raise NeedsPeft("LoRA on tied embeddings with ensure_weight_tying")
        if transposed and self.config.get("use_dora"):
            raise NeedsPeft("DoRA on embeddings")
        flip = bool(self.config.get("fan_in_fan_out")) if transposed is None else transposed
        rank, alpha = self._rank_alpha(module)
        shape = (a.shape[1], b.shape[0]) if flip else (b.shape[0], a.shape[1])
        if source.shape != shape or a.shape[0] != rank or b.shape[1] != rank:
            self.problems.append(f"{name} is {source.shape}, the adapter's update is {shape} of rank {a.shape[0]}")
            return
        scale = alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank
        magnitude = self.parts.get(f"{PREFIX}{module}.lora_magnitude_vector")
        magnitude = magnitude or self.parts.get(f"{PREFIX}{module}.lora_magnitude_vector.weight")
        self._change(name, source, delta=Delta(a, b, scale, flip, bool(transposed), magnitude))
        self.modules += 1
        bias = self.parts.get(f"{PREFIX}{module}.lora_B.bias")
        if bias is not None:
            place = self._source(f"{module}.bias")
            if place is None:
                self.problems.append(f"lora_bias on {module}, which has no bias")
            else:
                self._change(place[0], place[1], bias=(bias, scale))

    def _rank_alpha(self, module: str) -> tuple[int, float]:
        """Rank and alpha of a module under rank_pattern and alpha_pattern (PEFT's get_pattern_key)."""

        def pick(patterns: dict[str, Any], default: Any) -> Any:
            for pattern, value in patterns.items():
                if re.match(rf"(.*\.)?({pattern})$", module):
                    return value
            return default

        return (
            int(pick(self.config.get("rank_pattern") or {}, self.config["r"])),
            float(pick(self.config.get("alpha_pattern") or {}, self.config["lora_alpha"])),
        )

    def _tokens(self, module: str, values: Tensor) -> None:
        indices = self.config.get("trainable_token_indices")
        if isinstance(indices, dict):
            indices = next((ids for key, ids in indices.items() if module.endswith(key)), None)
        place = self._source(f"{module}.weight")
        if indices is None or place is None:
            raise NeedsPeft(f"trainable tokens of {module}")
        name, source = place
        if values.shape != (len(indices), source.shape[1]) or max(indices) >= source.shape[0]:
            self.problems.append(f"{name} is {source.shape}, the trained token rows are {values.shape}")
            return
        self._change(name, source, rows=tuple(indices), row_values=values)

    def _whole(self, name: str, part: Tensor) -> None:
        """A whole tensor stored with the adapter (modules_to_save, trained biases, resized embeddings)."""
        place = self._source(name)
        if place is None:
            raise NeedsPeft(f"the base's files have no tensor {name}")
        if place[1].shape != part.shape:
            self.problems.append(f"{place[0]} is {place[1].shape}, the adapter's is {part.shape}")
            return
        self._change(place[0], part)

    def _change(self, name: str, source: Tensor, **parts: Any) -> None:
        old = self.changes.get(name) or Change(source)
        self.changes[name] = replace(old, source=source, **parts)

    def _tying(self) -> tuple[bool, tuple[str, ...]]:
        """Untie the head where adapter and base+adapter would differ: (untied, tensors the base has not).

        PEFT's own merge of LoRA on a tied embedding also changes the head, which base+adapter does not (measured:
        logits differ by 1.2); here the head keeps the base's weight, so merged and unmerged agree.
        """
        if not self.tied or not self.embedding:
            return False, ()
        heads = [name for name in self.changes if name not in self.base]
        embedding = self.changes.get(self.embedding)
        if self.config.get("ensure_weight_tying"):
            for name in heads:
                del self.changes[name]
            return False, ()
        if heads:
            return True, tuple(heads)
        if embedding and (embedding.delta or embedding.source.file.name == ADAPTER):
            original = self.base[self.embedding]
            self.changes["lm_head.weight"] = Change(original)
            return True, ("lm_head.weight",)
        return False, ()


def load_float32(tensor: Tensor) -> NDArray[np.float32]:
    """A whole (small) tensor as float32, the dtype PEFT computes merges in."""
    raw: NDArray[Any] = np.empty(tensor.shape, dtype=STORED[tensor.dtype])
    with tensor.file.open("rb") as stream:
        if raw.size:
            read_into(stream.fileno(), raw.data.cast("B"), tensor.start)
    out: NDArray[np.float32] = np.empty(tensor.shape, dtype=np.float32)
    to_float32(raw, tensor.dtype, out)
    return out


def check_finite(values: NDArray[np.float32], name: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        ModelUnsupported: naming the tensor.
    """
    if not np.isfinite(values).all():
        raise ModelUnsupported(
            f"The adapter's {name} holds NaN or infinity: the training run diverged.",
            hint="Merge an earlier checkpoint, or train again with a lower learning_rate.",
        )
