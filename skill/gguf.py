"""GGUF files: their header without any library, and their conversion to a plain safetensors folder.

The conversion runs as its own process (`python -m skill.gguf SOURCE DEST`), so that a server that needs a model once
does not carry torch and the weights in memory afterwards.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from skill.child import run_module
from skill.errors import MissingDependency, ModelUnsupported

CONVERSION_FORMAT = 1  # raise it when the files a conversion writes change: older cache folders are then made anew
# Bounds on the logits of the stored bfloat16 folder against the weights as read from the GGUF file in float32.
# SmolLM2-135M Q4_1 measured: KL 1.1e-4, top-1 agreement 1.0. Rounding to bfloat16 (2^-9) is all that may differ.
MAX_KL = 5e-3
MIN_TOP1 = 0.97
PROOF_TEXT = (
    "The capital of France is Paris. def add(a, b):\n    return a + b\n\n"
    '{"intent": "refund", "order_id": 48213, "items": ["kettle", "lamp"]} '
    "Überraschung: 東京の天気は晴れです。 In 1969, two people walked on the Moon; 7 × 8 = 56."
)

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufHeader:
    """Metadata of a GGUF file; long arrays (the vocabulary) are kept as their length only."""

    metadata: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    lengths: dict[str, int] = field(default_factory=dict)

    @property
    def params(self) -> int:
        total = 0
        for shape in self.tensors.values():
            count = 1
            for size in shape:
                count *= size
            total += count
        return total

    def config(self) -> dict[str, Any]:
        """The architecture under Hugging Face's names, for reading before (or without) conversion."""
        arch = str(self.metadata.get("general.architecture", ""))
        heads = self.metadata.get(f"{arch}.attention.head_count")
        names = {
            "hidden_size": "embedding_length",
            "num_hidden_layers": "block_count",
            "intermediate_size": "feed_forward_length",
            "max_position_embeddings": "context_length",
            "num_attention_heads": "attention.head_count",
            "num_key_value_heads": "attention.head_count_kv",
            "head_dim": "attention.key_length",
        }
        out: dict[str, Any] = {"model_type": arch}
        for ours, theirs in names.items():
            value = self.metadata.get(f"{arch}.{theirs}")
            if isinstance(value, int):
                out[ours] = value
        if isinstance(heads, int):
            out.setdefault("num_key_value_heads", heads)
        embedding = self.tensors.get("token_embd.weight")  # GGUF lists the fastest axis first: (hidden, vocab)
        out["vocab_size"] = embedding[-1] if embedding else self.lengths.get("tokenizer.ggml.tokens")
        out["tie_word_embeddings"] = "output.weight" not in self.tensors
        return out


def read_header(path: Path) -> GgufHeader:
    """Metadata and tensor shapes of a GGUF file (version 2 or 3).

    Raises:
        ModelUnsupported: not a GGUF file, or cut off.
    """
    try:
        with path.open("rb") as file:
            return _parse_header(file, path.stat().st_size)
    except (struct.error, UnicodeDecodeError, MemoryError, EOFError, KeyError) as error:
        raise ModelUnsupported(
            f"{path.name} is not a complete GGUF file ({type(error).__name__}).", hint="Download it again."
        ) from error


def _parse_header(file: BinaryIO, size: int) -> GgufHeader:
    magic, version, tensor_count, pair_count = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in (2, 3):
        raise ModelUnsupported(
            "Not a GGUF file of version 2 or 3.", hint="Give a .gguf file of a causal language model."
        )
    if tensor_count > 1_000_000 or pair_count > 100_000:
        raise EOFError("counts beyond any real model")

    def text() -> str:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size:
            raise EOFError("string longer than the file")
        return file.read(length).decode("utf-8", "replace")

    def value(kind: int) -> Any:
        if kind == _STRING:
            return text()
        code = _SCALARS[kind]
        return struct.unpack("<" + code, file.read(struct.calcsize(code)))[0]

    metadata: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for _ in range(pair_count):
        key = text()
        (kind,) = struct.unpack("<I", file.read(4))
        if kind != _ARRAY:
            metadata[key] = value(kind)
            continue
        item_kind, count = struct.unpack("<IQ", file.read(12))
        if count > size:
            raise EOFError("array longer than the file")
        lengths[key] = count
        if item_kind == _STRING:
            for _ in range(count):
                (length,) = struct.unpack("<Q", file.read(8))
                file.seek(length, 1)
        else:
            file.seek(count * struct.calcsize(_SCALARS[item_kind]), 1)
    tensors: dict[str, tuple[int, ...]] = {}
    for _ in range(tensor_count):
        name = text()
        (dims,) = struct.unpack("<I", file.read(4))
        if dims > 8:
            raise EOFError("tensor with more than 8 axes")
        tensors[name] = struct.unpack(f"<{dims}Q", file.read(8 * dims))
        file.seek(12, 1)  # type and offset
    return GgufHeader(metadata, tensors, lengths)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def convert(source: Path, dest: Path) -> dict[str, Any]:
    """Convert a GGUF file into the folder `dest`, once, verified; returns its conversion record.

    Safe against crashes and against a second process: the work happens in a temporary folder under a lock, and `dest`
    appears by rename only after the reloaded model has reproduced the source's logits.

    Raises:
        MissingDependency: the `gguf` package is missing.
        ModelUnsupported: the architecture cannot be read, or the result does not reproduce the source.
    """
    from filelock import FileLock

    dest.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(dest.parent / f".{dest.name}.lock"):
        done = read_record(dest)
        if done:
            return done
        work = dest.parent / f".{dest.name}.partial"
        for leftover in (work, dest):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            _convert_in_process(source, work)
            work.rename(dest)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return read_record(dest) or {}


def read_record(folder: Path) -> dict[str, Any] | None:
    """conversion.json of a finished conversion of the current format, else None."""
    try:
        record = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == CONVERSION_FORMAT else None


def _convert_in_process(source: Path, work: Path) -> None:
    done = run_module("skill.gguf", str(source), str(work))
    if done.returncode == 0:
        return
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:500]
    if "No module named 'gguf'" in done.stderr:
        raise MissingDependency("Reading a GGUF file needs the package 'gguf'.", hint="pip install 'gguf>=0.17'")
    raise ModelUnsupported(
        f"{source.name} could not be converted: {last}",
        hint="Use the model's safetensors folder or hub id instead of the GGUF file.",
    )


def _convert(source: Path, work: Path) -> None:
    """The conversion itself, in the child process."""
    import gguf  # noqa: F401  transformers needs it and names it less clearly
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(min(torch.get_num_threads(), 4))
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model.config.__dict__.pop("quantization_config", None)  # marks left on a model that is dense by now
    for mark in ("hf_quantizer", "quantization_method", "is_quantized"):
        model.__dict__.pop(mark, None)
    tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    ids = tokenizer(PROOF_TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(ids).logits[0]

    work.mkdir(parents=True)
    model = model.bfloat16()
    model.save_pretrained(work)
    tokenizer.save_pretrained(work)
    again = AutoModelForCausalLM.from_pretrained(work, dtype=torch.bfloat16).eval()
    stored = again.state_dict()
    bit_equal = all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        found = again.float()(ids).logits[0]
    reloaded = AutoTokenizer.from_pretrained(work)
    log_p, log_q = expected.log_softmax(-1), found.log_softmax(-1)
    proof = {
        "tokens": int(ids.shape[1]),
        "weights_bit_equal_after_reload": bit_equal,
        "max_abs_logit_difference": round(float((expected - found).abs().max()), 5),
        "mean_kl": float(f"{float((log_p.exp() * (log_p - log_q)).sum(-1).mean()):.3g}"),
        "top1_agreement": round(float((expected.argmax(-1) == found.argmax(-1)).float().mean()), 4),
        "token_ids_equal": reloaded(PROOF_TEXT)["input_ids"] == ids[0].tolist(),
        "chat_template_equal": reloaded.chat_template == tokenizer.chat_template,
        "bounds": {"mean_kl": MAX_KL, "top1_agreement": MIN_TOP1},
    }
    exact = bit_equal and proof["token_ids_equal"] and proof["chat_template_equal"]
    if not exact or not proof["mean_kl"] <= MAX_KL or proof["top1_agreement"] < MIN_TOP1:
        raise SystemExit(f"the converted model does not reproduce the GGUF file: {json.dumps(proof)}")
    record = {
        "format": CONVERSION_FORMAT,
        "source": source.name,
        "source_sha256": sha256_of(source),
        "dtype": "bfloat16",
        "verification": proof,
    }
    (work / "conversion.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for path in work.iterdir():
        path.chmod(0o644)  # save_pretrained leaves weights at 0600


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
