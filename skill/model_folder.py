"""A model folder (config.json + safetensors): what it holds, checked before anything loads it.

Refused: pickled weights (opening one can run any code), configs that ask for the author's own Python code, adapters,
and incomplete folders.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from skill.errors import ModelUnsupported


def read_config(folder: Path, id: str) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelUnsupported(
                f"{shown(id)} holds an adapter, not a model.",
                hint="Name the base model, or merge the adapter first: tunesmith merge RUN",
            )
        raise ModelUnsupported(
            f"{shown(id)} has no config.json.", hint="Give the folder written by save_pretrained, or a .gguf file."
        )
    config = read_json(folder / "config.json")
    refuse_custom_code(config, id)
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        refuse_custom_code(read_json(tokenizer), id)
    return config


def refuse_custom_code(config: dict[str, Any], id: str) -> None:
    """A config with auto_map asks for Python files of the model's author to be run; that stays off."""
    if config.get("auto_map"):
        raise ModelUnsupported(
            f"{shown(id)} needs its author's own Python code (auto_map), which is never run.",
            hint="Use a model whose architecture is built into transformers.",
        )


def weight_files(folder: Path, id: str) -> list[Path]:
    """The safetensors files of a model folder; complete, and no pickles instead."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted({str(name) for name in (read_json(index).get("weight_map") or {}).values()})
        missing = [name for name in names if not (folder / Path(name).name).is_file()]
        if missing:
            raise ModelUnsupported(
                f"{shown(id)} lacks {len(missing)} of {len(names)} weight files, first {missing[0][:80]!r}.",
                hint="Copy or download the folder again.",
            )
        return [folder / Path(name).name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted(
        path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt") for path in folder.glob(pattern)
    )
    if pickles:
        raise ModelUnsupported(
            f"{shown(id)} holds pickled weights only ({pickles[0]}); a pickle can run any code when opened.",
            hint="Where you trust its author: AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW); use NEW.",
        )
    raise ModelUnsupported(f"{shown(id)} has no *.safetensors.", hint="Copy or download the weights into the folder.")


def count_weights(path: Path) -> int:
    """Number of weights in a safetensors file, from its header (8 bytes length, then JSON)."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:  # the format's own limit
                raise ValueError("header too long")
            header = json.loads(file.read(length))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(shape) for shape in shapes)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnsupported(f"{path.name} is not a complete safetensors file.", hint="Copy it again.") from error


def shape(config: dict[str, Any], id: str) -> dict[str, Any]:
    """Sizes from a config; models with several parts keep those of the language model under text_config."""
    nested = config.get("text_config")
    text = nested if isinstance(nested, dict) else config
    try:
        return {
            "model_type": str(config["model_type"]),
            "layers": int(text.get("num_hidden_layers") or text["n_layer"]),
            "hidden": int(text.get("hidden_size") or text["n_embd"]),
            "vocab": int(text["vocab_size"]),
            "max_positions": text.get("max_position_embeddings") or text.get("n_positions"),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnsupported(
            f"The config of {shown(id)} names no {error}: not a causal language model.",
            hint="Give a decoder model such as Llama, Qwen, Gemma or SmolLM.",
        ) from error


def has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    tokenizer = folder / "tokenizer_config.json"
    return tokenizer.is_file() and bool(read_json(tokenizer).get("chat_template"))


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnsupported(f"{path.name} is not readable JSON.", hint=f"Replace {path}") from error
    if not isinstance(value, dict):
        raise ModelUnsupported(f"{path.name} is not a JSON object.", hint=f"Replace {path}")
    return value


def shown(text: str) -> str:
    """User text, escaped and cut, for a message."""
    return repr(text if len(text) <= 80 else text[:77] + "…")
