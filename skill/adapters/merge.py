"""merge_folder: base + adapter -> a model folder, streaming.

Tensors are read in row blocks, `W + scale * (B @ A)` is computed in float32 in PEFT's order of operations, rounded to
the stored dtype and written at its place in the output shard. Memory is a few blocks a thread, whatever the model's
size. Nothing here imports torch for plain LoRA of rank up to 128 (see skill.adapters.blocks).
"""

from __future__ import annotations

import json
import math
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skill.adapters.bits import STORED
from skill.adapters.blocks import Output, Requantise, Worker
from skill.adapters.lora import Change, MergePlan, plan_merge
from skill.adapters.shards import (
    FLOATS,
    INDEX,
    WIDTH,
    Shard,
    Tensor,
    header_bytes,
    read_model,
    write_from,
)
from skill.adapters.staging import staged
from skill.errors import ModelUnsupported
from skill.workspace import write_json

UNIT = 1 << 24  # elements a thread takes at a time
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
BASE_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE",
    "LICENSE.txt",
)


@dataclass(frozen=True)
class Merged:
    """What a merge did. Sizes in bytes, time in seconds."""

    out: Path
    kind: str
    dtype: str
    tensors: int
    changed: int
    modules: int
    untied: bool
    bytes_written: int
    wall_s: float


def merge_folder(
    base: Path,
    adapter: Path,
    out: Path,
    *,
    dtype: str | None = None,
    base_dtype: str | None = None,
    requantise: tuple[frozenset[str], Requantise] | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    finish: Callable[[Path], None] | None = None,
) -> Merged:
    """Merge a LoRA adapter into a base model on disk.

    Args:
        base: folder with config.json and safetensors weights.
        adapter: folder that PEFT's save_pretrained wrote; its tokenizer, if any, goes into the result.
        out: the new folder; it appears whole or not at all.
        dtype: float32, bfloat16 or float16 of the result; None keeps each tensor's.
        base_dtype: dtype the base had in memory while the adapter trained; values are rounded to it before the
            update is added, as `from_pretrained(dtype=…)` does. None: the same as `dtype`.
        requantise: names of the tensors that were 4-bit in training, and the round trip through that form.
        progress: called with (bytes done, bytes in all).
        finish: called with the hidden folder when all else is in it, for checks that must pass before it appears.

    Returns:
        What was merged. Equal to PEFT's `merge_and_unload()` bit for bit on the same CPU (tests/adapters).

    Raises:
        ModelUnsupported: no merged form, the adapter does not fit, or values are not finite.
        NeedsPeft: mergeable, but only by PEFT itself (skill.adapters.via_peft).
        ResourceError: the disk is too small.
        ConflictError: `out` exists and `overwrite` is false.
    """
    started = time.perf_counter()
    config = read_config(base)
    shards = read_model(base)
    plan = plan_merge(shards, adapter, tied=is_tied(config, shards))
    layout = _layout(shards, plan, FLOATS[dtype] if dtype else None)
    total = sum(math.prod(change.source.shape) * WIDTH[kind] for _, outs in layout for _, kind, change in outs)
    rounding = FLOATS[base_dtype] if base_dtype else None
    with staged(out, total, overwrite=overwrite) as folder:
        _write_weights(folder, layout, rounding, requantise, threads or os.cpu_count() or 1, progress, total)
        if len(layout) > 1 or (base / INDEX).is_file():
            weight_map = {name: file for file, outs in layout for name, _, _ in outs}
            write_json(
                folder / INDEX,
                {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
            )
        carry_over(base, adapter, folder)
        if finish:
            finish(folder)
        write_json(folder / "config.json", _result_config(config, plan, dtype))  # last: it makes the folder a model
    outputs = [entry for _, outs in layout for entry in outs]
    return Merged(
        out=out,
        kind=plan.kind,
        dtype=dtype or next((k for k, v in FLOATS.items() if v == outputs[0][1]), outputs[0][1]),
        tensors=len(outputs),
        changed=len(plan.changes),
        modules=plan.modules,
        untied=plan.untied,
        bytes_written=total,
        wall_s=round(time.perf_counter() - started, 3),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a base that can be merged into.

    Raises:
        ModelUnsupported: none there, or the weights on disk are already quantised.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnsupported(f"{folder} has no readable config.json: {error}", hint="Name a model folder.") from error
    if config.get("quantization_config"):
        raise ModelUnsupported(
            f"The base in {folder} is stored quantised.",
            hint="Set model.id to the 16-bit version of this model.",
        )
    return config


def is_tied(config: dict[str, Any], shards: list[Shard]) -> bool:
    """Whether the head shares the embedding's weight: the config says, or no head lies in the files."""
    text = config.get("text_config") or {}
    said = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    stored = any(tensor.name.endswith("lm_head.weight") for shard in shards for tensor in shard.tensors)
    return bool(said) if said is not None else not stored


def _result_config(config: dict[str, Any], plan: MergePlan, dtype: str | None) -> dict[str, Any]:
    out = {key: value for key, value in config.items() if key not in ("_name_or_path", "torch_dtype")}
    if dtype or "torch_dtype" in config:
        out["dtype"] = dtype or config["torch_dtype"]
    if plan.untied:
        out["tie_word_embeddings"] = False
        if isinstance(out.get("text_config"), dict):
            out["text_config"] = {**out["text_config"], "tie_word_embeddings": False}
    return out


def carry_over(base: Path, adapter: Path, out: Path) -> list[str]:
    """Copy tokenizer and template (the adapter's, being what was trained, else the base's) and the base's settings."""
    own = any((adapter / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"))
    wanted = [((adapter if own else base), name) for name in TOKENIZER_FILES] + [(base, name) for name in BASE_FILES]
    copied = []
    for folder, name in wanted:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
            copied.append(name)
    return copied


Layout = list[tuple[str, list[tuple[str, str, Change]]]]


def _layout(shards: list[Shard], plan: MergePlan, dtype: str | None) -> Layout:
    """Files of the result: the base's shards with the same tensors in the same order, new tensors in the last."""

    def stored(tensor: Tensor) -> str:
        return dtype if dtype and tensor.dtype in STORED else tensor.dtype

    layout: Layout = []
    for shard in shards:
        outs = [(t.name, stored(t), plan.changes.get(t.name, Change(t))) for t in shard.tensors]
        layout.append((shard.file.name, outs))
    for name in plan.added:
        reference = next(t for shard in shards for t in shard.tensors if t.shape == plan.changes[name].source.shape)
        layout[-1][1].append((name, stored(reference), plan.changes[name]))
    return layout


def _write_weights(
    folder: Path,
    layout: Layout,
    rounding: str | None,
    requantise: tuple[frozenset[str], Requantise] | None,
    threads: int,
    progress: Callable[[int, int], None] | None,
    total: int,
) -> None:
    descriptors: list[int] = []
    workers: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for _ in range(threads):
        workers.put(Worker(rounding, requantise))
    stop = threading.Event()
    done = 0
    try:
        with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as syncer:
            synced: list[Future[None]] = []
            pending: dict[Future[int], int] = {}
            left: dict[int, int] = {}
            for file, outs in layout:
                descriptor = os.open(folder / file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
                descriptors.append(descriptor)
                header, starts = header_bytes([(name, kind, change.source.shape) for name, kind, change in outs], {})
                end = len(header) + sum(math.prod(c.source.shape) * WIDTH[kind] for _, kind, c in outs)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(descriptor, 0, end)  # a full disk shows here, before the work
                write_from(descriptor, memoryview(header), 0)
                for (name, kind, change), start in zip(outs, starts, strict=True):
                    output = Output(name, kind, change, descriptor, start)
                    whole = requantise is not None and name in requantise[0]
                    for first, last in _units(change, whole):
                        pending[pool.submit(_run, workers, stop, output, first, last)] = descriptor
                        left[descriptor] = left.get(descriptor, 0) + 1
            try:
                for future in as_completed(pending):
                    done += future.result()
                    if progress:
                        progress(done, total)
                    left[pending[future]] -= 1
                    if not left[pending[future]]:
                        synced.append(syncer.submit(os.fsync, pending[future]))
            except BaseException:
                stop.set()
                raise
            for future in synced:
                future.result()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _units(change: Change, whole: bool) -> Iterator[tuple[int, int]]:
    """Row ranges that threads take one by one."""
    source = change.source
    whole = whole or bool(change.delta and change.delta.magnitude and change.delta.transposed)
    step = source.rows if whole else max(1, UNIT // max(1, source.row_elements))
    for first in range(0, max(source.rows, 1), max(step, 1)):
        yield first, min(first + step, source.rows)


def _run(workers: queue.SimpleQueue[Worker], stop: threading.Event, output: Output, first: int, last: int) -> int:
    if stop.is_set():
        return 0
    worker = workers.get()
    try:
        worker.write(output, first, last)
    finally:
        workers.put(worker)
    return (last - first) * output.change.source.row_elements * WIDTH[output.dtype]
