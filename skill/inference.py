"""Running models for proof: rows to token ids as training rendered them, and base and tuned model in memory.

Used by the workers of skill.adapters and skill.evaluation. torch, transformers and peft are imported inside the
functions that need them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skill.errors import ModelNotFound, ModelUnsupported, NotFound
from skill.models import find_model
from skill.spec import QloraMethod, RunSpec
from skill.workspace import RunDir, Workspace

if TYPE_CHECKING:
    import torch

UNVERIFIED = "UNVERIFIED"  # a file in merged/ until the merge is known to answer as base + adapter does
WEIGHTS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")  # never pickles, never code


@dataclass(frozen=True)
class Encoded:
    """One row as token ids: `full[start:]` is what training computes the loss on, `prompt` what generation starts from.

    `prompt == full[:start]` unless the tokenizer merges across the border (plain text) or the template renders the
    prompt alone differently; TRL then trains from where they part, and so does the loss here.
    """

    row: int
    prompt: tuple[int, ...]
    full: tuple[int, ...]
    start: int
    text: str  # the rendered prompt
    reference: str

    @property
    def completion(self) -> tuple[int, ...]:
        return self.full[self.start :]

    @property
    def aligned(self) -> bool:
        return self.full[: self.start] == self.prompt


def read_rows(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """Canonical rows (prompt, completion) of a data file of a run.

    Raises:
        NotFound: no such file, or no rows in it.
    """
    rows = list(_rows(path, limit)) if path.is_file() else []
    if not rows:
        raise NotFound(
            f"No held-out rows in {path}.",
            hint="Name a file of your own with eval_path, or render the run with data.eval or data.eval_fraction.",
        )
    return rows


def _rows(path: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        count = 0
        for line in stream:
            if limit is not None and count >= limit:
                return
            if line.strip():
                count += 1
                yield json.loads(line)


def encode(tokenizer: Any, row: Mapping[str, Any], index: int = 0) -> Encoded:
    """A canonical row as TRL's SFTTrainer tokenises it (trl 1.16, sft_trainer.py, tokenize_fn)."""
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str):
        end = tokenizer.eos_token or ""
        answer = completion if completion.endswith(end) else completion + end
        before, full = tokenizer(prompt)["input_ids"], tokenizer(prompt + answer)["input_ids"]
        text, reference = prompt, completion
    else:
        before = _template(tokenizer, prompt, add_generation_prompt=True)
        full = _template(tokenizer, [*prompt, *completion], add_generation_prompt=False)
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        reference = "".join(turn["content"] for turn in completion)
    start = 0
    while start < min(len(before), len(full)) and before[start] == full[start]:
        start += 1
    return Encoded(index, tuple(before), tuple(full), start, text, reference)


def _template(tokenizer: Any, messages: list[Any], *, add_generation_prompt: bool) -> list[int]:
    out = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=add_generation_prompt, return_dict=True
    )
    return list(out["input_ids"])


def stop_tokens(tokenizer: Any, model: Any, examples: Iterable[Encoded]) -> frozenset[int]:
    """Ids that end an answer: the model's end tokens, and the special token that ends the answers of the data."""
    found: set[int] = set()
    for config in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(config, "eos_token_id", None)
        found |= set(value) if isinstance(value, list | tuple) else {value} if value is not None else set()
    special = set(tokenizer.all_special_ids)
    for example in examples:
        found |= set([t for t in example.completion if t in special][-1:])
    return frozenset(found)


def base_folder(ws: Workspace, spec: RunSpec) -> Path:
    """The base model's folder with weights; fetched from the hub when they are only there.

    Raises:
        ModelNotFound: neither here nor on a hub in reach.
    """
    info = find_model(ws, spec.model.id, spec.model.revision)
    if info.path and any(Path(info.path).glob("*.safetensors")):
        return Path(info.path)
    if not info.hub_id:
        raise ModelNotFound(f"{spec.model.id!r} has no weights on this machine.", hint="Convert or download it first.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(info.hub_id, revision=info.revision, allow_patterns=list(WEIGHTS)))
    except OSError as error:
        raise ModelNotFound(
            f"The weights of {info.hub_id!r} could not be fetched: {error}",
            hint="Check the connection and try again.",
        ) from error


def trained_output(run: RunDir) -> Path | None:
    """What the run trained: adapter/ or model/; None before the training has ended."""
    if (run.adapter / "adapter_config.json").is_file():
        return run.adapter
    return run.model if (run.model / "config.json").is_file() else None


def pick_device(spec: RunSpec) -> str:
    import torch

    return "cuda" if spec.launch.device != "cpu" and torch.cuda.is_available() else "cpu"


def use_threads(spec: RunSpec) -> int:
    """One pool of as many threads as the run was given, or as there are cores."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = spec.launch.num_threads or cores
    torch.set_num_threads(count or 1)
    return count or 1


def fast_dtype(stored: str, device: str) -> str:
    """Dtype to compute in: the stored one, but float32 for 16-bit weights on a CPU without bfloat16 instructions.

    On an AVX-512-BF16 CPU bfloat16 generates 1.8 times as fast as float32 (SmolLM2-135M, batch 32, measured).
    """
    if device != "cpu" or stored == "float32":
        return stored
    import torch

    native = torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _has_bf16()
    return "bfloat16" if stored == "bfloat16" and native else "float32"


def _has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model or adapter folder, set for generation: left padding, a pad token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenizer_folder(trained: Path, base: Path) -> Path:
    """The trained folder where it carries a tokenizer, else the base."""
    return trained if (trained / "tokenizer_config.json").is_file() else base


def load_plain(folder: Path, dtype: str, device: str, *, attn: str = "sdpa") -> Any:
    """A model folder in memory, for inference."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=getattr(torch, dtype),
        attn_implementation=attn,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model.to(device).eval()


def quantisation(spec: RunSpec, dtype: str) -> Any:
    """The BitsAndBytesConfig a QLoRA run trains with."""
    import torch
    from transformers import BitsAndBytesConfig

    method = spec.method
    assert isinstance(method, QloraMethod)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=method.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=method.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def load_trained_base(spec: RunSpec, base: Path, device: str) -> Any:
    """The base as the adapter saw it while training, in `spec.dtype`. A 4-bit base is dequantised, value for value what
    its layers compute with."""
    if spec.method.type != "qlora":
        return load_plain(base, spec.dtype, device, attn=spec.model.attn_implementation)
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(base),
        dtype=getattr(torch, spec.dtype),
        quantization_config=quantisation(spec, spec.dtype),
        attn_implementation=spec.model.attn_implementation,
        trust_remote_code=False,
        use_safetensors=True,
        device_map={"": device},
    )
    return model.dequantize(dtype=getattr(torch, spec.dtype)).eval()


def with_adapter(model: Any, adapter: Path) -> Any:
    """A PeftModel for inference around a loaded base; `disable_adapter()` gives the base back.

    Raises:
        ModelUnsupported: pickled adapter weights.
    """
    from peft import PeftModel

    if not (adapter / "adapter_model.safetensors").is_file():
        raise ModelUnsupported(f"{adapter} has no adapter_model.safetensors.", hint="Save the adapter again.")
    return PeftModel.from_pretrained(model, str(adapter), is_trainable=False).eval()


def nll(model: Any, examples: list[Encoded], *, pad: int, batch_size: int = 8) -> list[tuple[float, int]]:
    """(sum of negative log-likelihoods in nats, tokens) of each row's completion, right-padded batches by length."""
    import torch

    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].full))
    out: list[tuple[float, int]] = [(0.0, 0)] * len(examples)
    with torch.inference_mode():
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            width = max(len(examples[i].full) for i in chosen)
            ids = torch.full((len(chosen), width), pad, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for line, i in enumerate(chosen):
                ids[line, : len(examples[i].full)] = torch.tensor(examples[i].full)
                mask[line, : len(examples[i].full)] = 1
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
            for line, i in enumerate(chosen):
                out[i] = row_nll(logits[line], examples[i])
    return out


def row_nll(logits: torch.Tensor, example: Encoded) -> tuple[float, int]:
    """NLL of one row's completion from logits (positions, vocab) over its full sequence."""
    import torch

    start = max(example.start, 1)  # nothing predicts the first token
    target = torch.tensor(example.full[start:], device=logits.device)
    if not len(target):
        return 0.0, 0
    part = logits[start - 1 : len(example.full) - 1].float()
    return float(torch.nn.functional.cross_entropy(part, target, reduction="sum").double()), len(target)
