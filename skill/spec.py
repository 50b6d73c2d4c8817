"""The vocabulary: RunSpec says what is to be trained, from what, how and where. Every station reads this one object.

Field names are those of TRL's SFTConfig, PEFT's LoraConfig and bitsandbytes, so that what a person knows already works.
`parse()` reports every problem of a mapping at once: unknown keys with the nearest known one, wrong types and ranges,
and contradictions between fields, each with its fix.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skill.errors import SpecError, did_you_mean

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
Dtype = Literal["float32", "bfloat16", "float16"]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelSpec(Part):
    id: str = Field(
        min_length=1,
        max_length=400,
        description="Embedded name (smollm2-135m-instruct), local folder, .gguf file, or hub id owner/name",
    )
    revision: str | None = Field(default=None, max_length=100, description="Hub commit, tag or branch")
    dtype: Dtype | None = Field(
        default=None,
        description="Weights in memory; default bfloat16 under an adapter, float32 for full fine-tuning",
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"


class DataSpec(Part):
    train: str = Field(min_length=1, max_length=1000, description="Training file inside the workspace")
    eval: str | None = Field(
        default=None, max_length=1000, description="Held-out file; else eval_fraction is split off"
    )
    eval_fraction: float = Field(default=0.1, ge=0, le=0.5, description="Share split off when no eval file; 0 = none")
    columns: dict[str, str] = Field(
        default_factory=dict, description="Your column -> prompt, completion, system, messages or text"
    )
    system: str | None = Field(default=None, max_length=20_000, description="System message for rows without one")
    max_length: int = Field(
        default=1024, ge=16, le=1_000_000, description="Tokens; longer rows are dropped and counted"
    )
    packing: bool = Field(default=False, description="Pack rows to max_length (bfd: no contamination, no cut rows)")


class FullMethod(Part):
    """Every weight trains. Weights stay float32 under bf16 autocast: pure bf16 rounds small updates away."""

    type: Literal["full"] = "full"


class LoraFields(Part):
    r: int = Field(default=16, ge=1, le=1024, description="Rank")
    lora_alpha: int = Field(default=32, ge=1, le=4096, description="Scale: update is alpha/r * B@A")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear",
        description="all-linear, or module names; never lm_head (TRL 1.16 fuses it with the loss)",
    )
    use_rslora: bool = Field(default=False, description="Scale by alpha/sqrt(r) (arXiv 2312.03732)")
    use_dora: bool = Field(default=False, description="Weight-decomposed LoRA (arXiv 2402.09353)")


class LoraMethod(LoraFields):
    """Low-rank adapters on a 16-bit base (arXiv 2106.09685)."""

    type: Literal["lora"] = "lora"


class QloraMethod(LoraFields):
    """Low-rank adapters on a 4-bit base (arXiv 2305.14314)."""

    type: Literal["qlora"] = "qlora"
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_use_double_quant: bool = True


class PrefixMethod(Part):
    """Prefix tuning (arXiv 2101.00190): trained key/value vectors before the prompt. Cannot be merged."""

    type: Literal["prefix"] = "prefix"
    num_virtual_tokens: int = Field(default=20, ge=1, le=1000)


METHODS: dict[str, type[Part]] = {
    "full": FullMethod,
    "lora": LoraMethod,
    "qlora": QloraMethod,
    "prefix": PrefixMethod,
}
Method = Annotated[FullMethod | LoraMethod | QloraMethod | PrefixMethod, Field(discriminator="type")]


class TrainingSpec(Part):
    num_train_epochs: float = Field(default=1.0, gt=0, le=1000)
    max_steps: int | None = Field(default=None, ge=1, description="Optimizer steps; overrides num_train_epochs")
    per_device_train_batch_size: int = Field(default=8, ge=1, le=4096)
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=4096)
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: float = Field(default=0.03, ge=0, description="Below 1: share of the run. From 1: optimizer steps")
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    max_grad_norm: float = Field(default=1.0, ge=0, description="0 = no clipping")
    optim: Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"] = (
        "adamw_torch_fused"
    )
    precision: Literal["bf16", "fp16", "fp32"] = Field(default="bf16", description="Autocast; fp16 only below sm_80")
    activation_checkpointing: bool = Field(default=False, description="Recompute activations in backward: less memory")
    eval_steps: int | None = Field(default=None, ge=1, description="Default: five evaluations a run")
    save_steps: int | None = Field(default=None, ge=1, description="Default: eval_steps")
    save_total_limit: int = Field(default=2, ge=1, le=1000)
    logging_steps: int = Field(default=1, ge=1, le=10_000)
    load_best_model_at_end: bool = Field(default=True, description="Keep the checkpoint with the lowest eval loss")
    early_stopping_patience: int | None = Field(
        default=None, ge=1, description="Evaluations without gain before stopping"
    )
    seed: int = Field(default=42, ge=0, le=2**32 - 1)


class LaunchSpec(Part):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads; default all cores")
    merge_after: bool = Field(default=False, description="Merge the adapter into the base when training completes")


class RunSpec(Part):
    """One fine-tuning run."""

    name: str = Field(pattern=NAME_PATTERN, description="Run name and folder: a-z, 0-9, '-'; at most 63")
    objective: Literal["sft"] = "sft"
    model: ModelSpec
    data: DataSpec
    method: Method
    training: TrainingSpec = TrainingSpec()
    launch: LaunchSpec = LaunchSpec()

    @property
    def dtype(self) -> Dtype:
        """Dtype of the weights in memory: explicit, else float32 for full fine-tuning and bfloat16 under adapters."""
        if self.model.dtype:
            return self.model.dtype
        if self.training.precision == "fp16" and self.method.type != "full":
            return "float16"
        if self.training.precision == "fp32" or self.method.type == "full":
            return "float32"
        return "bfloat16"

    @property
    def mergeable(self) -> bool:
        return self.method.type in ("lora", "qlora")

    @property
    def fingerprint(self) -> str:
        """sha256 of everything but the name: two launches with one name and one fingerprint are one run."""
        body = json.dumps(self.model_dump(mode="json", exclude={"name"}), sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()


def parse(data: Mapping[str, Any]) -> RunSpec:
    """RunSpec from a mapping (a recipe, run.yaml, tool arguments).

    Raises:
        SpecError: with every problem found, one a line, each with its fix.
    """
    raw = json.loads(json.dumps(data, default=str))
    problems: list[str] = []
    spec = None
    for _ in range(2):  # a second pass without the faulty keys finds the contradictions that hid behind them
        try:
            spec = RunSpec.model_validate(raw)
        except ValidationError as error:
            if problems:
                break
            for item in error.errors(include_url=False):
                path = _drop_tag(item["loc"])
                problems.append(_explain(path, item, raw))
                _remove(raw, path)
        else:
            problems += contradictions(spec)
            break
    if problems or spec is None:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        raise SpecError(f"RunSpec has {count}:\n- " + "\n- ".join(problems))
    return spec


def contradictions(spec: RunSpec) -> list[str]:
    """Fields that are each valid and cannot hold together, with what to change."""
    out: list[str] = []
    method, training, data = spec.method, spec.training, spec.data
    if training.precision == "fp16" and method.type == "qlora":
        out.append(
            "training.precision 'fp16' with method 'qlora': TRL keeps QLoRA adapters in bfloat16, which the fp16 "
            "gradient scaler refuses. Set training.precision to 'bf16', or method.type to 'lora'."
        )
    if training.precision == "fp16" and spec.model.dtype == "bfloat16":
        out.append(
            "training.precision 'fp16' with model.dtype 'bfloat16': the fp16 gradient scaler cannot unscale bfloat16 "
            "gradients. Set training.precision to 'bf16', or model.dtype to 'float32'."
        )
    if method.type == "full" and spec.model.dtype == "float16":
        out.append(
            "model.dtype 'float16' with method 'full': float16 master weights overflow and cannot be unscaled. "
            "Remove model.dtype (float32 weights under autocast is the default)."
        )
    has_eval = data.eval is not None or data.eval_fraction > 0
    if not has_eval and training.load_best_model_at_end:
        out.append(
            "training.load_best_model_at_end needs evaluations, but data.eval is not set and data.eval_fraction is 0. "
            "Set data.eval or data.eval_fraction, or training.load_best_model_at_end to false."
        )
    if training.early_stopping_patience and not training.load_best_model_at_end:
        out.append(
            "training.early_stopping_patience without training.load_best_model_at_end would keep the last weights, not "
            "the best. Set training.load_best_model_at_end to true."
        )
    if not has_eval and training.eval_steps:
        out.append("training.eval_steps without held-out data. Set data.eval or data.eval_fraction.")
    if training.load_best_model_at_end and training.save_steps:
        cadence = training.eval_steps
        if cadence is None or training.save_steps % cadence:
            out.append(
                f"training.save_steps {training.save_steps} must be a multiple of training.eval_steps "
                f"({cadence or 'unset'}) when load_best_model_at_end is true. Set both to the same number."
            )
    if data.packing and method.type == "prefix":
        out.append(
            "data.packing with method 'prefix': prefix tuning goes through past_key_values, which switches off the "
            "block mask between packed rows. Set data.packing to false."
        )
    if method.type == "prefix" and training.activation_checkpointing:
        out.append(
            "training.activation_checkpointing with method 'prefix': the prefix is a cache, keys and mask get "
            "different lengths and the step fails. Set training.activation_checkpointing to false."
        )
    if spec.launch.merge_after and not spec.mergeable:
        out.append(
            f"launch.merge_after with method {method.type!r}: there is nothing that can be merged into the base. "
            "Set launch.merge_after to false, or method.type to 'lora' or 'qlora'."
        )
    if isinstance(method, LoraFields) and "lm_head" in method.target_modules:
        out.append(
            "method.target_modules names 'lm_head': TRL 1.16 computes the loss from a fused head and refuses an "
            "adapter on it. Remove it from method.target_modules."
        )
    return out


# What people write from memory of other versions and tools -> where it lives here.
MOVED = {
    "max_seq_length": "data.max_length",
    "model_max_length": "data.max_length",
    "lora_r": "method.r",
    "rank": "method.r",
    "lora_rank": "method.r",
    "alpha": "method.lora_alpha",
    "dropout": "method.lora_dropout",
    "target_layers": "method.target_modules",
    "warmup_ratio": "training.warmup_steps (below 1 = share of the run)",
    "epochs": "training.num_train_epochs",
    "lr": "training.learning_rate",
    "batch_size": "training.per_device_train_batch_size",
    "micro_batch_size": "training.per_device_train_batch_size",
    "gradient_checkpointing": "training.activation_checkpointing",
    "evaluation_strategy": "training.eval_steps",
    "bf16": "training.precision: bf16",
    "fp16": "training.precision: fp16",
    "load_in_4bit": "method.type: qlora",
    "torch_dtype": "model.dtype",
}


def _drop_tag(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Pydantic puts the discriminator's value into the path of a union: method.lora.r -> method.r."""
    return (loc[0], *loc[2:]) if len(loc) > 2 and loc[0] == "method" else loc


def _explain(path: tuple[int | str, ...], item: Any, raw: dict[str, Any]) -> str:
    dotted = ".".join(str(part) for part in path)
    seen = json.dumps(item.get("input"), default=str)[:80]
    if item["type"] == "extra_forbidden":
        key = str(path[-1])
        if key in MOVED:
            return f"{dotted}: unknown key; it is {MOVED[key]} here."
        if path[0] == "method":
            kind = raw["method"]["type"]
            return f"{dotted}: unknown key for method {kind!r}. {did_you_mean(key, METHODS[kind].model_fields)}"
        return f"{dotted}: unknown key. {did_you_mean(key, known_keys(path[:-1]))}"
    if item["type"] == "missing":
        return f"{dotted}: missing. Set it."
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return f"{dotted}: type must be one of 'full', 'lora', 'qlora', 'prefix'; got {seen}."
    return f"{dotted}: {item['msg'][0].lower()}{item['msg'][1:]}; got {seen}."


def known_keys(path: tuple[int | str, ...] = ()) -> list[str]:
    """Names allowed at a place of the spec: () top level, ("training",), ("method",) …"""
    if not path:
        return list(RunSpec.model_fields)
    if path[0] == "method":
        return sorted({key for part in METHODS.values() for key in part.model_fields})
    annotation = RunSpec.model_fields[str(path[0])].annotation if path[0] in RunSpec.model_fields else None
    return list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _remove(raw: Any, path: tuple[int | str, ...]) -> None:
    for part in path[:-1]:
        if not isinstance(raw, dict) or part not in raw:
            return
        raw = raw[part]
    if isinstance(raw, dict):
        raw.pop(path[-1], None)
