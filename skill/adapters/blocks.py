"""The arithmetic of a merge, on blocks of rows that fit in a core's cache.

PEFT's order of operations in float32: `delta = (B @ A) * scale`, `W + delta`, one rounding to the stored dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skill.adapters.bits import STORED, from_float32, to_float32
from skill.adapters.lora import Change, Delta, check_finite, load_float32
from skill.adapters.shards import WIDTH, Tensor, copy_range, read_into, write_from
from skill.errors import ModelUnsupported

BLOCK = 1 << 18  # elements of a block: 1 MiB in float32

Requantise = Callable[[str, NDArray, str], NDArray]
"""(tensor name, stored values, their dtype) -> float32 values after a round trip through the 4-bit form."""


@dataclass(frozen=True)
class Output:
    """One tensor of an output shard: what it becomes and where it goes."""

    name: str
    dtype: str
    change: Change
    descriptor: int
    start: int


class Worker:
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

    def write(self, output: Output, first: int, last: int) -> None:
        """Compute rows `first` to `last` of an output tensor and write them."""
        change = output.change
        source, width, row = change.source, WIDTH[output.dtype], change.source.row_elements
        trip = self.requantise is not None and output.name in self.requantised
        plain = not (change.delta or change.rows or change.bias or trip)
        with source.file.open("rb", buffering=0) as stream:
            descriptor = stream.fileno()
            if plain and source.dtype == output.dtype and self.rounding in (None, output.dtype):
                buffer = self.buffer("copy", 1 << 20, np.uint8).data
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
                block = self._rounded(raw, "F32" if given is not None else source.dtype, output.dtype)
                block = update.apply(block, start, stop)
                self._put(output, block, start * row * width)

    def _read(self, descriptor: int, source: Tensor, first: int, last: int) -> NDArray:
        row = source.row_elements
        raw = self.buffer("raw", (last - first) * row, STORED[source.dtype])
        read_into(descriptor, raw.data.cast("B"), source.start + first * row * WIDTH[source.dtype])
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

    def _put(self, output: Output, values: NDArray[np.float32], offset: int) -> None:
        # NaN and infinity survive a sum of squares: one cheap reduction clears nearly every block
        flat = values.reshape(-1)
        if not math.isfinite(float(np.dot(flat, flat))) and not np.isfinite(values).all():
            raise ModelUnsupported(f"{output.name} would hold NaN or infinity.", hint="Check base and adapter.")
        stored = self._lower(values, output.dtype)
        if output.dtype == "F16" and not np.isfinite(stored).all():
            raise ModelUnsupported(f"{output.name} overflows float16.", hint="Merge with dtype='bfloat16'.")
        write_from(output.descriptor, stored.data.cast("B"), output.start + offset)


class _Update:
    """The adapter's part of one tensor, loaded once a unit."""

    def __init__(self, change: Change, base_dtype: str, worker: Worker) -> None:
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
        """DoRA (arXiv 2402.09353, eq. 5): each output row scaled to its magnitude; by torch's norm, for its bits."""
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
