"""Small random models and adapters on disk, and PEFT's own merge of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM


def save_base(
    folder: Path, *, hidden: int = 64, tied: bool = False, dtype: str = "float32", kind: str = "llama"
) -> Path:
    """A random model in several shards."""
    torch.manual_seed(0)
    if kind == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(n_embd=hidden, n_layer=2, n_head=4, n_positions=64, vocab_size=96))
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, vocab_size=96, tie_word_embeddings=tied,
            )
        )  # fmt: skip
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="40KB" if hidden <= 64 else "1GB")
    return folder


def save_adapter(base: Path, folder: Path, **config: Any) -> Path:
    """An adapter whose every trainable weight has moved away from its start."""
    config = {"target_modules": ["q_proj", "down_proj"], "r": 4, "lora_alpha": 8, **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), LoraConfig(**config))
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * 0.05
        model.save_pretrained(folder)
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def merged_by_peft(base: Path, adapter: Path, out: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """(tensors of PEFT's merge_and_unload, logits of base+adapter)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter).eval()
        with torch.no_grad():
            logits = model(PROBE).logits.float()
        model.merge_and_unload().save_pretrained(out)
    return tensors(out), logits


PROBE = torch.arange(3, 20)[None]


def logits_of(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()(PROBE).logits.float()
