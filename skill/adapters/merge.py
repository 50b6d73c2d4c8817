"""merge_folder: base + adapter -> a model folder, streaming.

Tensors are read in row blocks, `W + scale * (B @ A)` is computed in float32 in PEFT's order of operations, rounded to
the stored dtype and written at its place in the output shard. Memory is a few blocks a thread, whatever the model's
size. Nothing here imports torch for plain LoRA of rank up to 128 (see `_product`).
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

import numpy as np
from numpy.typing import NDArray

from skill.adapters.bits import STORED, from_float32, to_float32
from skill.adapters.lora import Change, Delta, MergePlan, check_finite, load_float32, plan_merge
from skill.adapters.shards import FLOATS, INDEX, SINGLE, WIDTH, Shard, Tensor, copy_range, header_bytes, read_into
from skill.adapters.shards import read_model, write_from
from skill.adapters.staging import staged
from skill.errors import ModelUnsupported
from skill.workspace import write_json

BLOCK = 1 << 18  # elements of a block: 1 MiB in float32, so that its few arrays stay in a core's cache
UNIT = 1 << 24  # elements a thread takes at a time
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
BASE_FILES = ("generation_config.json", "preprocessor_config.json", "processor_config.json", "LICENSE", "LICENSE.txt")

Requantise = Callable[[str, NDArray, str], NDArray]
"""(tensor name, stored values, dtype) -> stored values after a round trip through the 4-bit form."""


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


@dataclass(frozen=True)
class _Output:
    """One tensor of an output shard: what it becomes and where it goes."""

    name: str
    dtype: str
    change: Change
    descriptor: int
    start: int


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
        requantise: names of the tensors that were 4-bit while the adapter trained, and the round trip through that form.
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
            write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
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
            f"The base in {folder} is stored quantised.", hint="Set model.id to the 16-bit version of this model."
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
    workers: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for _ in range(threads):
        workers.put(_Worker(rounding, requantise))
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
                    output = _Output(name, kind, change, descriptor, start)
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


def _run(workers: queue.SimpleQueue[_Worker], stop: threading.Event, output: _Output, first: int, last: int) -> int:
    if stop.is_set():
        return 0
    worker = workers.get()
    try:
        worker.write(output, first, last)
    finally:
        workers.put(worker)
    return (last - first) * output.change.source.row_elements * WIDTH[output.dtype]


class _Worker:
    """One thread's buffers, grown to the largest block seen, and the arithmetic on them."""

    def __init__(self, rounding: str | None, requantise: tuple[frozenset[str], Requantise] | None) -> None:
        self.rounding = rounding
        self.requantised, self.requantise = requantise or (frozenset(), None)
        self.buffers: dict[str, NDArray] = {}

    def buffer(self, name: str, count: int, dtype: Any) -> NDArray:
        have = self.buffers.get(name)
        if have is None or have.dtype != dtype or have.size < count:
            have = self.buffers[name] = np.empty(max(count, 1), dtype=dtype)
        return have[:count]

    def write(self, output: _Output, first: int, last: int) -> None:
        """Compute rows `first` to `last` of an output tensor and write them."""
        change = output.change
        source, width, row = change.source, WIDTH[output.dtype], change.source.row_elements
        trip = self.requantise is not None and output.name in self.requantised
        plain = not (change.delta or change.rows or change.bias or trip)
        with source.file.open("rb", buffering=0) as stream:
            descriptor = stream.fileno()
            if plain and source.dtype == output.dtype and self.rounding in (None, output.dtype):
                buffer = memoryview(self.buffer("copy", 1 << 20, np.uint8))
                offset, count = first * row * width, (last - first) * row * width
                copy_range(descriptor, source.start + offset, output.descriptor, output.start + offset, count, buffer)
                return
            if source.dtype not in STORED:
                raise ModelUnsupported(f"{source.name} has dtype {source.dtype}.", hint="Use the 16-bit base.")
            given = None
            if trip and self.requantise is not None:
                given = self.requantise(output.name, self._read(descriptor, source, 0, source.rows), source.dtype)
            update = _Update(change, self.rounding or output.dtype, self)
            step = (last - first) if update.whole else max(1, BLOCK // max(1, row))
            for start in range(first, last, max(step, 1)):
                stop = min(start + step, last)
                raw = given[start:stop] if given is not None else self._read(descriptor, source, start, stop)
                block = self._rounded(raw, source.dtype, output.dtype)
                block = update.apply(block, start, stop)
                self._put(output, block, start * row * width)

    def _read(self, descriptor: int, source: Tensor, first: int, last: int) -> NDArray:
        row = source.row_elements
        raw = self.buffer("raw", (last - first) * row, STORED[source.dtype])
        read_into(descriptor, memoryview(raw).cast("B"), source.start + first * row * WIDTH[source.dtype])
        return raw.reshape(last - first, row)

    def _rounded(self, raw: NDArray, stored: str, target: str) -> NDArray[np.float32]:
        """Float32 values of a block, rounded through the dtype the base had in memory."""
        values = self.buffer("values", raw.size, np.float32).reshape(raw.shape)
        to_float32(raw, stored, values)
        through = self.rounding or target
        if through != stored and through != "F32":
            self.round_through(values, through)
        return values

    def round_through(self, values: NDArray[np.float32], dtype: str) -> None:
        """Round float32 values to what `dtype` can hold, in place."""
        to_float32(self._lower(values, dtype), dtype, values)

    def _lower(self, values: NDArray[np.float32], dtype: str) -> NDArray:
        out = self.buffer("lower", values.size, STORED[dtype]).reshape(values.shape)
        scratch = self.buffer("scratch", values.size, np.uint32).reshape(values.shape)
        with np.errstate(over="ignore"):
            from_float32(values, dtype, out, scratch)
        return out

    def _put(self, output: _Output, values: NDArray[np.float32], offset: int) -> None:
        # NaN and infinity survive a sum of squares: one cheap reduction clears nearly every block
        flat = values.reshape(-1)
        if not math.isfinite(float(np.dot(flat, flat))) and not np.isfinite(values).all():
            raise ModelUnsupported(f"{output.name} would hold NaN or infinity.", hint="Check base and adapter.")
        stored = self._lower(values, output.dtype)
        if output.dtype == "F16" and not np.isfinite(stored).all():
            raise ModelUnsupported(f"{output.name} overflows float16.", hint="Merge with dtype='bfloat16'.")
        write_from(output.descriptor, memoryview(stored).cast("B"), output.start + offset)


class _Update:
    """The adapter's part of one tensor, loaded once a unit."""

    def __init__(self, change: Change, base_dtype: str, worker: _Worker) -> None:
        self.change, self.worker, self.delta, self.base_dtype = change, worker, change.delta, base_dtype
        self.whole = bool(self.delta and self.delta.magnitude and self.delta.transposed)
        if self.delta:
            self.a, self.b = load_float32(self.delta.a), load_float32(self.delta.b)
            check_finite(self.a, self.delta.a.name)
            check_finite(self.b, self.delta.b.name)
            self.numpy_equals_torch = self.a.shape[0] <= 128 and min(self.a.shape[1], self.b.shape[0]) >= 64
        if change.row_values:
            self.row_values = load_float32(change.row_values)
            check_finite(self.row_values, change.row_values.name)
        self.bias = load_float32(change.bias[0]) * np.float32(change.bias[1]) if change.bias else None

    def apply(self, values: NDArray[np.float32], start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of the weight, updated."""
        for place, index in enumerate(self.change.rows):
            if start <= index < stop:
                values[index - start] = self.row_values[place]
        if self.bias is not None:
            values += self.bias[start:stop].reshape(values.shape)
        if not self.delta:
            return values
        delta = self._delta(self.delta, start, stop)
        delta *= np.float32(self.delta.scale)
        if self.delta.embedding and self.base_dtype != "F32":
            delta = np.ascontiguousarray(delta)
            self.worker.round_through(delta, self.base_dtype)
        values += delta
        return self._dora(values, self.delta, start, stop) if self.delta.magnitude else values

    def _delta(self, delta: Delta, start: int, stop: int) -> NDArray[np.float32]:
        if delta.transposed:
            return _product(self.b, self.a[:, start:stop], None, self.numpy_equals_torch).T
        rows = self.b[start:stop]
        out = self.worker.buffer("delta", rows.shape[0] * self.a.shape[1], np.float32)
        return _product(rows, self.a, out.reshape(rows.shape[0], self.a.shape[1]), self.numpy_equals_torch)

    def _dora(self, values: NDArray[np.float32], delta: Delta, start: int, stop: int) -> NDArray[np.float32]:
        """DoRA (arXiv 2402.09353, eq. 5): each output row scaled to its trained magnitude. torch's norm, for its bits."""
        import torch

        assert delta.magnitude is not None
        magnitude = torch.from_numpy(load_float32(delta.magnitude).reshape(-1))
        weight = torch.from_numpy(values)
        if delta.transposed:
            factor = (magnitude / torch.linalg.norm(weight.T, dim=1)).view(-1, 1).T
        else:
            factor = (magnitude[start:stop] / torch.linalg.norm(weight, dim=1)).view(-1, 1)
        return (factor * weight).numpy()


def _product(
    b: NDArray[np.float32], a: NDArray[np.float32], out: NDArray[np.float32] | None, numpy_equals_torch: bool
) -> NDArray[np.float32]:
    """`b @ a`, with torch's bits.

    OpenBLAS and MKL add up the inner axis in the same order up to a rank of 192 (measured on AVX-512, blocks of rows or
    columns included) unless the whole matrix is tiny; beyond, torch multiplies.
    """
    if numpy_equals_torch:
        return np.matmul(b, a, out=out) if out is not None else np.matmul(b, a)
    import torch

    product = torch.from_numpy(np.ascontiguousarray(b)) @ torch.from_numpy(np.ascontiguousarray(a))
    return product.numpy()


__all__ = ["SINGLE", "Merged", "merge_folder"]
