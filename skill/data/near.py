"""Near-duplicates: MinHash over 5-word shingles, candidates verified by their Jaccard similarity.

Written by hand in numpy: a row costs one vectorised minimum, and the index is two flat arrays (about 80 bytes a row for
the bands, four bytes a shingle for the proof), where a MinHash library keeps Python objects and dictionaries a row.
20 bands of 6 find a pair of similarity 0.8 with probability 1 - (1 - 0.8^6)^20 = 0.998 (Leskovec et al., Mining of
Massive Datasets, 3.4); verification then removes what lies below the threshold.
"""

from __future__ import annotations

import re
import zlib
from array import array
from typing import Any

WORDS = 5
THRESHOLD = 0.8
BANDS, WIDTH = 20, 6
KEPT = 512  # smallest shingle hashes kept a row: exact Jaccard up to 512 shingles, within about 0.02 beyond
COMPARED = 24  # earlier rows a row is compared with at most: bounds the time on files made from one template

# Scripts without spaces count each character as a word; else a whole sentence would be one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


class NearIndex:
    """Add rows, then ask which of them nearly repeat an earlier one."""

    def __init__(self) -> None:
        import numpy as np

        self._np: Any = np
        generator = np.random.default_rng(20_000_611)
        count = BANDS * WIDTH
        # Odd multipliers make x * a + b a permutation of the 32-bit numbers.
        self._factors = generator.integers(0, 2**32, count, dtype=np.uint32)[:, None] | np.uint32(1)
        self._offsets = generator.integers(0, 2**32, count, dtype=np.uint32)[:, None]
        self._mix = generator.integers(0, 2**63, WORDS, dtype=np.uint64) | np.uint64(1)
        self._fold = generator.integers(0, 2**63, WIDTH, dtype=np.uint64) | np.uint64(1)
        self._rows: array[int] = array("Q")
        self._bands: array[int] = array("Q")
        self._shingles: array[int] = array("I")
        self._starts: array[int] = array("Q", [0])
        self._cut: set[int] = set()  # places whose shingles are more than KEPT

    def add(self, row: int, words: list[str]) -> None:
        """One row as words; an empty one is left out."""
        np = self._np
        if not words:
            return
        shingles = self._hashes(words)
        place = len(self._rows)
        self._rows.append(row)
        permuted = shingles[None, :] * self._factors + self._offsets
        lowest = permuted.min(axis=1).reshape(BANDS, WIDTH).astype(np.uint64)
        self._bands.frombytes((lowest * self._fold).sum(axis=1).astype(np.uint64).tobytes())
        if len(shingles) > KEPT:
            shingles = shingles[:KEPT]
            self._cut.add(place)
        self._shingles.frombytes(shingles.tobytes())
        self._starts.append(len(self._shingles))

    def _hashes(self, words: list[str]) -> Any:
        """Sorted distinct 32-bit hashes of the shingles; fewer words than a shingle has make one."""
        np = self._np
        codes = np.fromiter(
            (zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words), np.uint64, len(words)
        )
        count = max(1, len(words) - WORDS + 1)
        mixed = np.full(count, len(words) if len(words) < WORDS else 0, np.uint64)
        for step in range(min(WORDS, len(words))):
            mixed += codes[step : step + count] * self._mix[step]
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        return np.unique((mixed >> np.uint64(32)).astype(np.uint32))

    def later_rows(self) -> list[int]:
        """Rows with an earlier row at Jaccard >= THRESHOLD, in order."""
        np = self._np
        if len(self._rows) < 2:
            return []
        bands = np.frombuffer(self._bands, np.uint64).reshape(-1, BANDS)
        found: set[int] = set()
        compared: dict[int, set[int]] = {}
        for band in range(BANDS):
            column = bands[:, band]
            order = np.argsort(column, kind="stable")
            ordered = column[order]
            edges = np.flatnonzero(np.diff(ordered)) + 1
            starts, ends = np.concatenate(([0], edges)), np.concatenate((edges, [len(order)]))
            big = np.flatnonzero(ends - starts > 1)
            for start, end in zip(starts[big].tolist(), ends[big].tolist(), strict=True):
                self._group(order[start:end].tolist(), found, compared)
        return [self._rows[place] for place in sorted(found)]

    def _group(self, members: list[int], found: set[int], compared: dict[int, set[int]]) -> None:
        """Rows that share a band, in file order: prove each against the nearest earlier ones."""
        for index, later in enumerate(members[1:], start=1):
            if later in found:
                continue
            seen = compared.setdefault(later, set())
            for earlier in reversed(members[max(0, index - COMPARED) : index]):
                if len(seen) >= COMPARED:
                    break
                if earlier not in seen:
                    seen.add(earlier)
                    if self._similarity(earlier, later) >= THRESHOLD:
                        found.add(later)
                        del compared[later]
                        break

    def _similarity(self, one: int, other: int) -> float:
        np = self._np
        first, second = (
            np.frombuffer(self._shingles, np.uint32, self._starts[at + 1] - self._starts[at], 4 * self._starts[at])
            for at in (one, other)
        )
        union = np.union1d(first, second)
        if one in self._cut or other in self._cut:
            union = union[:KEPT]  # the smallest of the union: what both sketches surely know
        both = np.intersect1d(first, second, assume_unique=True)
        return float(np.count_nonzero(both <= union[-1]) / len(union))
