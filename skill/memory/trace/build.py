"""The real model of a Job on the meta device: transformers class, PEFT adapters, bitsandbytes weights, TRL's
fused head."""

from __future__ import annotations

from typing import Any

import torch

from skill.memory.job import Job
from skill.memory.shapes import Shape

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def config_of(shape: Shape, layers: int) -> dict[str, Any]:
    """Keyword arguments of the transformers configuration that gives this shape."""
    if shape.model_type in ("gpt2", "gpt_bigcode"):
        keys = {"n_embd": shape.hidden, "n_layer": layers, "n_head": shape.heads, "n_inner": shape.intermediate}
        return {**keys, "n_positions": max(1, shape.positions), "vocab_size": shape.vocab}
    keys = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "sliding_window": shape.sliding_window,
        "use_cache": False,
    }
    if shape.moe:
        keys |= {
            "num_experts": shape.experts,
            "num_local_experts": shape.experts,
            "n_routed_experts": shape.experts,
            "num_experts_per_tok": shape.top_k,
            "moe_intermediate_size": shape.moe_intermediate,
        }
    if shape.model_type == "phi":
        keys["partial_rotary_factor"] = shape.rotary_fraction
    if shape.model_type == "gemma3_text":
        keys.pop("sliding_window")
    return keys


def build(job: Job, layers: int) -> tuple[Any, Any]:
    """(model that runs, its configuration). Weights take no memory: everything is on meta."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = AutoConfig.for_model(job.shape.model_type, **config_of(job.shape, layers))
    implementation = "eager" if job.attention == "eager" else "sdpa"
    with torch.device("meta"), no_init_weights():
        model = AutoModelForCausalLM.from_config(
            config, dtype=DTYPES[job.dtype], attn_implementation=implementation, trust_remote_code=False
        )
    model.tie_weights()
    if job.quant != "none":
        from skill.memory.trace import bnb

        bnb.quantise(model, job)
    base = model
    if job.kbit_prepare:
        from peft import prepare_model_for_kbit_training

        base = model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=job.checkpointing)
    if job.loss == "trl_chunked":
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    if job.method == "lora":
        from peft import LoraConfig, get_peft_model

        targets = job.targets if isinstance(job.targets, str) else list(job.targets)
        adapter = LoraConfig(
            r=job.rank,
            lora_alpha=2 * job.rank,
            lora_dropout=job.lora_dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
            use_dora=job.dora,
        )
        with torch.device("meta"):
            model = get_peft_model(base, adapter, autocast_adapter_dtype=job.adapter_dtype == "float32")
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(DTYPES[job.adapter_dtype])
    if job.checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": job.reentrant})
        if job.method != "full":
            base.enable_input_require_grads()
    model.train()
    return model, config
