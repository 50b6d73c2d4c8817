"""safetensors without a tensor library: read the headers, plan the files of a copy, move bytes.

The format: 8 bytes little-endian header length, a JSON header `{name: {dtype, shape, data_offsets}}`, then the
tensors without gaps (https://github.com/huggingface/safetensors#format). Reading is by `pread`, never by mapping, so
that what has been read does not count as resident memory.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from skill.errors import ModelUnsupported, NotFound

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
         "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip
FLOATS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_HEADER_LIMIT = 100_000_000  # bytes; the limit of the reference implementation


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: `start` is its first byte in `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * WIDTH[self.dtype]

    @property
    def row_elements(self) -> int:
        """Elements of one row, the first axis counted off; a scalar or vector has rows of one element."""
        return math.prod(self.shape[1:]) if len(self.shape) > 1 else 1

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1


@dataclass(frozen=True)
class Shard:
    file: Path
    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str]


def read_shard(file: Path) -> Shard:
    """The header of one safetensors file, tensors in file order.

    Raises:
        ModelUnsupported: the file is not whole or not safetensors.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
            raise ModelUnsupported(f"{file} is not a safetensors file.", hint="Download or save it again.")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise ModelUnsupported(f"{file} has no valid header: {error}", hint="Download or save it again.") from error
    metadata = header.pop("__metadata__", {})
    tensors = []
    for name, entry in header.items():
        if entry["dtype"] not in WIDTH:
            raise ModelUnsupported(f"{file}: {name} has dtype {entry['dtype']}.", hint=f"Known: {', '.join(WIDTH)}.")
        start, end = entry["data_offsets"]
        tensor = Tensor(name, entry["dtype"], tuple(entry["shape"]), file, 8 + length + start)
        if end - start != tensor.nbytes or 8 + length + end > size:
            raise ModelUnsupported(f"{file} is cut short or damaged at {name}.", hint="Download or save it again.")
        tensors.append(tensor)
    return Shard(file, tuple(sorted(tensors, key=lambda tensor: tensor.start)), metadata)


def read_model(folder: Path) -> list[Shard]:
    """All shards of a model folder, in the order of their names.

    Raises:
        NotFound: no safetensors weights there.
        ModelUnsupported: a shard that the index names is missing or damaged.
    """
    if (folder / INDEX).is_file():
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    elif (folder / SINGLE).is_file():
        names = [SINGLE]
    else:
        raise NotFound(
            f"No {SINGLE} or {INDEX} in {folder}.",
            hint="Only safetensors weights are read. Convert the model with save_pretrained(folder).",
        )
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise ModelUnsupported(f"{folder} lacks {', '.join(missing)}.", hint="Download the missing shards.")
    return [read_shard(folder / name) for name in names]


def by_name(shards: Iterable[Shard]) -> dict[str, Tensor]:
    return {tensor.name: tensor for shard in shards for tensor in shard.tensors}


def header_bytes(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, list[int]]:
    """Header of a file with these (name, dtype, shape), and the file offset of each tensor."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    offset, starts = 0, []
    for name, dtype, shape in tensors:
        end = offset + math.prod(shape) * WIDTH[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        starts.append(offset)
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, [8 + len(text) + start for start in starts]


def read_into(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer` from `offset` of an open file."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            raise ModelUnsupported("A weights file ended early.", hint="Download or save it again.")
        done += count


def write_from(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Write all of `buffer` at `offset` of an open file."""
    done = 0
    while done < len(buffer):
        done += os.pwrite(descriptor, buffer[done:], offset + done)


def copy_range(source: int, start: int, target: int, offset: int, count: int, buffer: memoryview) -> None:
    """Move bytes from file to file, in the kernel where it can, through `buffer` where it cannot."""
    done = 0
    if hasattr(os, "copy_file_range"):
        try:
            while done < count:
                moved = os.copy_file_range(source, target, count - done, start + done, offset + done)
                if moved == 0:
                    break
                done += moved
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
    while done < count:
        part = buffer[: min(len(buffer), count - done)]
        read_into(source, part, start + done)
        write_from(target, part, offset + done)
        done += len(part)


def _no_kernel_copy() -> set[int]:
    import errno

    return {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


_NO_KERNEL_COPY = _no_kernel_copy()
