"""float32 <-> the 16-bit floats, on bit patterns in numpy (numpy knows no bfloat16), rounded as torch rounds.

Every function works in place or into a given buffer: a merge runs them over blocks that stay in the cache.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STORED = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}


def to_float32(raw: NDArray, dtype: str, out: NDArray[np.float32]) -> None:
    """Values of a stored block (`STORED[dtype]`, bfloat16 as its bits) as float32; exact except for F64."""
    if dtype == "BF16":
        bits = out.view(np.uint32)
        np.copyto(bits, raw)
        np.left_shift(bits, 16, out=bits)
    else:
        np.copyto(out, raw, casting="same_kind")


def from_float32(values: NDArray[np.float32], dtype: str, out: NDArray, scratch: NDArray[np.uint32]) -> None:
    """Round a block to nearest, ties to even, into `out` (`STORED[dtype]`); `values` is overwritten for BF16.

    `scratch` has the size of `values`. Finite values only: a NaN's bits would round into another number, so callers
    check before (skill.adapters.merge).
    """
    if dtype != "BF16":
        np.copyto(out, values, casting="same_kind")
        return
    bits = values.view(np.uint32)
    # half to even on the upper 16 bits: add 0x7fff plus the lowest bit that stays
    np.right_shift(bits, 16, out=scratch)
    np.bitwise_and(scratch, 1, out=scratch)
    np.add(bits, scratch, out=bits)
    np.add(bits, 0x7FFF, out=bits)
    np.right_shift(bits, 16, out=bits)
    np.copyto(out, bits, casting="unsafe")  # the values fit: the upper halves are zero
