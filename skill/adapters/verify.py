"""Prove that a merged folder is the model that was trained: same tokens, nearly the same probabilities.

Both models compute in float32 where memory allows, so that what differs is the stored weights and not the arithmetic.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from skill.adapters.report import Thresholds, Verification
from skill.inference import (
    Encoded,
    encode,
    load_plain,
    load_tokenizer,
    load_trained_base,
    read_rows,
    row_nll,
    stop_tokens,
    tokenizer_folder,
    with_adapter,
)
from skill.spec import RunSpec
from skill.workspace import RunDir

ROWS = 16
BATCH = 8
POSITIONS = 1024
LOGITS_BYTES = 256 * 2**20  # of the reference's log-probabilities held in memory
GREEDY_ROWS, GREEDY_TOKENS = 4, 24

# Measured on SmolLM2-135M: rounding W + delta to bfloat16 costs a mean KL of 0.0023 and 1.5 % of the likeliest tokens;
# merging a QLoRA adapter onto weights it was not trained on 0.037 and 5.5 %. The bounds for bfloat16 lie between;
# float16 has 8 times finer steps.
THRESHOLDS = {
    "float32": Thresholds(kl_mean_max=1e-5, top1_agreement_min=0.999, loss_change_max=1e-3),
    "float16": Thresholds(kl_mean_max=2e-3, top1_agreement_min=0.98, loss_change_max=0.01),
    "bfloat16": Thresholds(kl_mean_max=0.01, top1_agreement_min=0.96, loss_change_max=0.02),
}


def verify(
    run: RunDir,
    spec: RunSpec,
    *,
    base: Path,
    adapter: Path,
    merged: Path,
    dtype: str,
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Compare `merged` with base+adapter as trained, on held-out rows (training rows where none were held out).

    Args:
        dtype: what the merged weights are stored in; chooses the thresholds.
        progress: called with (steps done, steps in all).
    """
    started = time.perf_counter()
    tell = progress or (lambda done, total: None)
    tokenizer = load_tokenizer(tokenizer_folder(adapter, base))
    examples = _examples(run, tokenizer)
    tell(0, 4)

    model = load_trained_base(spec, base, device)
    compute = _compute_dtype(model, spec.dtype)
    model = with_adapter(_cast(model, compute), adapter)
    stops = stop_tokens(tokenizer, model, examples)
    tell(1, 4)
    places = _places(examples, model.config.get_text_config().vocab_size)
    reference = _measure(model, examples, places, None)
    said = _greedy(model, examples, stops, tokenizer)
    del model
    tell(2, 4)

    problems, checked = check_files(tokenizer, merged, base, adapter, examples)
    model = load_plain(merged, compute, device, attn=spec.model.attn_implementation)
    tell(3, 4)
    found = _measure(model, examples, places, reference["logprobs"])
    again = _greedy(model, examples, stops, tokenizer)
    tell(4, 4)

    bounds = THRESHOLDS[dtype]
    problems += judge(found, reference["loss"], bounds)
    return Verification(
        verdict="not_verified" if problems else "verified",
        reasons=problems,
        rows=len(examples),
        positions=found["positions"],
        compute_dtype=compute,
        kl_mean=_significant(found["kl_mean"]),
        kl_max=_significant(found["kl_max"]),
        top1_agreement=round(found["top1"], 4),
        max_logit_diff=_significant(found["max_diff"]),
        loss_base_adapter=round(reference["loss"], 5),
        loss_merged=round(found["loss"], 5),
        greedy_equal=sum(a == b for a, b in zip(said, again, strict=True)),
        greedy_compared=len(said),
        thresholds=bounds,
        checked=checked,
        wall_s=round(time.perf_counter() - started, 1),
    )


def judge(found: dict[str, Any], loss: float, bounds: Thresholds) -> list[str]:
    """What breaks a bound, in words."""
    out = []
    if not found["kl_mean"] <= bounds.kl_mean_max:  # also true for NaN
        out.append(f"mean KL to base+adapter is {found['kl_mean']:.2g} nats a token, above {bounds.kl_mean_max:g}")
    if not found["top1"] >= bounds.top1_agreement_min:
        out.append(
            f"the likeliest token agrees at {found['top1']:.1%} of positions, below {bounds.top1_agreement_min:.1%}"
        )
    if not abs(found["loss"] - loss) <= bounds.loss_change_max:
        out.append(f"the loss changes from {loss:.4f} to {found['loss']:.4f}, by more than {bounds.loss_change_max:g}")
    return out


def _examples(run: RunDir, tokenizer: Any) -> list[Encoded]:
    held_out = run.data / "eval.jsonl"
    some = held_out.is_file() and held_out.stat().st_size > 0
    rows = read_rows(held_out if some else run.data / "train.jsonl", limit=4 * ROWS)
    examples = [encode(tokenizer, row, index) for index, row in enumerate(rows)]
    return sorted(examples, key=lambda example: len(example.full))[:ROWS]  # the shortest: more rows for the time


def _compute_dtype(model: Any, trained: str) -> str:
    need = sum(p.numel() for p in model.parameters()) * 4 * 1.5
    return "float32" if model.device.type == "cpu" and need < psutil.virtual_memory().available else trained


def _cast(model: Any, dtype: str) -> Any:
    import torch

    return model.to(getattr(torch, dtype))


def _places(examples: list[Encoded], vocab: int) -> list[range]:
    """Positions compared in each row: those that predict the answer, and up to 16 before."""
    left = min(POSITIONS, LOGITS_BYTES // (4 * vocab))
    out = []
    for index, example in enumerate(examples):
        share = max(1, left // (len(examples) - index))
        first = max(0, example.start - 17)
        last = max(first + 1, min(len(example.full) - 1, first + share))
        out.append(range(first, last))
        left -= len(out[-1])
    return out


def _measure(model: Any, examples: list[Encoded], places: list[range], reference: list[Any] | None) -> dict[str, Any]:
    """Loss over the answers, and against a reference KL(reference || this), agreement and the largest logit difference.

    Logits are compared after log-softmax: a constant shift of all of them means nothing.
    """
    import torch

    total, count, kept = 0.0, 0, []
    kl, agree, largest = [], [], 0.0
    with torch.inference_mode():
        for index, example, logits in _logits(model, examples):
            loss, tokens = row_nll(logits, example)
            total, count = total + loss, count + tokens
            here = torch.log_softmax(logits[places[index].start : places[index].stop].float(), dim=-1).cpu()
            if reference is None:
                kept.append(here)
                continue
            there = reference[index]
            kl.append((there.exp() * (there - here)).sum(-1))
            agree.append((there.argmax(-1) == here.argmax(-1)).float())
            largest = max(largest, float((there - here).abs().max()))
    out: dict[str, Any] = {"loss": total / max(count, 1), "logprobs": kept}
    if reference is not None:
        joined = torch.cat(kl)
        out |= {"kl_mean": float(joined.mean()), "kl_max": float(joined.max()), "positions": len(joined)}
        out |= {"top1": float(torch.cat(agree).mean()), "max_diff": largest}
    return out


def _logits(model: Any, examples: list[Encoded]) -> Iterator[tuple[int, Encoded, Any]]:
    """(index, row, its logits), from right-padded batches; causal attention keeps the padding out."""
    import torch

    for first in range(0, len(examples), BATCH):
        batch = examples[first : first + BATCH]
        width = max(len(example.full) for example in batch)
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for line, example in enumerate(batch):
            ids[line, : len(example.full)] = torch.tensor(example.full)
            mask[line, : len(example.full)] = 1
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        for line, example in enumerate(batch):
            yield first + line, example, logits[line, : len(example.full)]


def _greedy(model: Any, examples: list[Encoded], stops: frozenset[int], tokenizer: Any) -> list[list[int]]:
    import torch

    prompts = [example.prompt for example in examples[:GREEDY_ROWS]]
    width = max(len(prompt) for prompt in prompts)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    with torch.inference_mode():
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=GREEDY_TOKENS,
            do_sample=False,
            eos_token_id=sorted(stops),
            pad_token_id=pad,
        )
    return made[:, width:].tolist()


def check_files(
    tokenizer: Any, merged: Path, base: Path, adapter: Path, examples: list[Encoded]
) -> tuple[list[str], list[str]]:
    """Tokenizer, template, special tokens, generation config of the merged folder: (problems, what is equal)."""
    problems, checked = [], []
    own = load_tokenizer(merged)
    same = {
        "tokenizer: the same ids for the rows": all(
            own(example.text)["input_ids"] == tokenizer(example.text)["input_ids"] for example in examples
        ),
        "chat template": own.chat_template == tokenizer.chat_template,
        "special tokens": own.special_tokens_map == tokenizer.special_tokens_map,
        "generation config": not (base / "generation_config.json").is_file()
        or json.loads((merged / "generation_config.json").read_text(encoding="utf-8"))
        == json.loads((base / "generation_config.json").read_text(encoding="utf-8")),
    }
    for what, equal in same.items():
        (checked if equal else problems).append(what if equal else f"{what} differs from what was trained")
    return problems, checked


def _significant(value: float) -> float:
    return float(f"{value:.3g}")
