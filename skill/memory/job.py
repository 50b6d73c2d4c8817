"""Job: everything about a training step that decides its memory. Built from a RunSpec, from tool arguments, or from a
published row; every model of memory here (analytic, closed form, trace) reads this one object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from skill.memory.shapes import Shape
from skill.spec import RunSpec

Loss = Literal["trl_chunked", "hf", "fused_ce", "liger", "torchtune_chunked", "litgpt_chunked"]
Logits = Literal["modern", "shift", "rebind", "half"]
Attention = Literal["eager", "flash", "efficient", "math"]
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Job:
    """One training step on one device.

    dtype: of the weights in memory. quant: none | nf4 | nf4-dq | int8 | gptq. autocast: compute dtype under
    autocast or None.
    batch, length: micro-batch rows and tokens a row as they reach the model (padded or packed).
    """

    shape: Shape
    method: Literal["full", "lora", "prefix"] = "lora"
    batch: int = 1
    length: int = 1024
    dtype: str = "bfloat16"
    quant: str = "none"
    compute: str = "bfloat16"  # of dequantised weights
    kbit_prepare: bool = False  # peft.prepare_model_for_kbit_training: everything not quantised becomes float32
    rank: int = 16
    targets: tuple[str, ...] | str = "all-linear"
    adapter_dtype: str = "float32"
    lora_dropout: float = 0.0
    dora: bool = False
    virtual_tokens: int = 20
    autocast: str | None = "bfloat16"
    attention: Attention = "flash"
    checkpointing: bool = False
    loss: Loss = "trl_chunked"
    optimizer: str = "adamw_fused"
    accumulation: int = 1
    clip: bool = True
    padded: bool = False
    lengths_vary: bool = False  # batches are padded to their own longest row: the allocator keeps odd-sized blocks
    # Facts of the code that runs the step; the defaults are TRL 1.16 on transformers 5.23 and torch 2.9 or later.
    engine: Literal["huggingface", "litgpt", "torchtune"] = "huggingface"
    bnb_saves_input: bool = False  # bitsandbytes < 0.43: MatMul4Bit keeps its input
    bnb_half: bool = False  # quantised from float16: the dequantised weight is copied to bfloat16
    reentrant: bool = False  # torch.utils.checkpoint kind
    # What happens to the logits before cross entropy: transformers >= 4.50 upcasts (modern); 4.46-4.49 upcasts and
    # copies the shifted slice (shift); before 4.46 the upcast replaces the 16-bit logits (rebind); GPT-2 style heads
    # never upcast (half).
    logits: Logits = "modern"
    outputs_alive: bool = False  # the loop holds the model's outputs (logits) during backward
    optimizer_in_backward: bool = False
    offload_activations: bool = False  # checkpointed inputs wait in host memory
    norm_kernel: Literal["hf", "fused", "unsloth"] = "hf"
    rope_kernel: Literal["hf", "fused"] = "hf"
    mlp_kernel: Literal["hf", "fused", "compiled"] = "hf"
    lora_kernel: Literal["peft", "unsloth"] = "peft"
    repeat_kv: bool = False  # keys and values copied to all heads before a flash kernel (transformers < 5 with sdpa)
    materialised_mask: bool = False
    kbit_norms_low: bool = False  # TRL 0.x casts embeddings (not norms) back to bfloat16 after k-bit preparation
    kbit_embeddings_low: bool = False
    head_autocast_off: bool = False
    experts_quantised: bool = False  # experts stored as nn.Linear (transformers < 5) are quantised too
    residual_dropout: float = 0.0
    embedding_dropout: float = 0.0
    embedding_width: int | None = None
    head_width: int | None = None
    stream_width: int | None = None
    workspace: int | None = None
    num_gpus: int = 1
    sharding: Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"] = "none"
    offload: bool = False
    device: Literal["cuda", "cpu"] = "cuda"

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    @property
    def width(self) -> int:
        """Bytes of a weight that is not quantised."""
        return BYTES[self.dtype]

    def but(self, **changes: object) -> Job:
        return replace(self, **changes)  # type: ignore[arg-type]


OPTIMIZERS = {
    "adamw_torch_fused": "adamw_fused",
    "adamw_torch": "adamw_foreach",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged",
    "paged_adamw_32bit": "paged",
}


def job_from_spec(spec: RunSpec, shape: Shape, *, device: Literal["cuda", "cpu"] = "cuda") -> Job:
    """The step that the rendered train.py of this spec takes (TRL 1.16 SFTTrainer on transformers 5)."""
    method, training = spec.method, spec.training
    common = {
        "shape": shape,
        "batch": training.per_device_train_batch_size,
        "length": spec.data.max_length,
        "dtype": spec.dtype,
        "autocast": {"bf16": "bfloat16", "fp16": "float16", "fp32": None}[training.precision],
        "attention": "eager" if spec.model.attn_implementation == "eager" else "flash",
        "checkpointing": training.activation_checkpointing,
        "optimizer": OPTIMIZERS[training.optim],
        "accumulation": training.gradient_accumulation_steps,
        "clip": training.max_grad_norm > 0,
        "padded": not spec.data.packing,
        "lengths_vary": not spec.data.packing,
        "device": device,
    }
    if method.type == "full":
        return Job(method="full", **common)
    if method.type == "prefix":
        return Job(method="prefix", virtual_tokens=method.num_virtual_tokens, **common)
    quant = "none"
    if method.type == "qlora":
        quant = "nf4-dq" if method.bnb_4bit_use_double_quant else "nf4"
    return Job(
        method="lora",
        quant=quant,
        rank=method.r,
        targets=method.target_modules,
        # TRL 1.16 casts the adapters of a quantised base to bfloat16; PEFT keeps others in float32.
        adapter_dtype="bfloat16" if method.type == "qlora" else "float32",
        lora_dropout=method.lora_dropout,
        dora=method.use_dora,
        **common,
    )
