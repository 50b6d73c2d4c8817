"""PyTorch's CUDA caching allocator, replayed: what `max_memory_reserved` and nvidia-smi see beyond the live tensors.
Source: c10/cuda/CUDACachingAllocator.cpp with default settings (no expandable segments, no garbage collection)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

SMALL = 1 << 20  # requests up to here come from 2 MiB segments
SMALL_SEGMENT = 2 << 20
LARGE_SEGMENT = 20 << 20
MIN_OWN_SEGMENT = 10 << 20  # from here on a request gets its own segment, rounded to 2 MiB
ROUND = 2 << 20


class _Block:
    __slots__ = ("addr", "after", "before", "free", "size", "small")

    def __init__(self, addr: int, size: int, small: bool) -> None:
        self.addr, self.size, self.small = addr, size, small
        self.free = True
        self.before: _Block | None = None
        self.after: _Block | None = None


class Allocator:
    """Best fit with splitting and coalescing; counts reserved and allocated bytes. `capacity` (bytes): when a segment
    does not fit, cached segments are released first, as the real one does before it gives up."""

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.reserved = self.peak_reserved = self.allocated = self.peak_allocated = 0
        self.out_of_memory = False
        self._pools: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._at: dict[int, _Block] = {}
        self._live: dict[object, _Block] = {}
        self._next = 0

    def allocate(self, key: object, nbytes: int) -> None:
        if nbytes <= 0:
            return
        size = (nbytes + 511) & ~511
        small = size <= SMALL
        pool = self._pools[small]
        i = bisect_left(pool, (size, 0))
        block = self._at[pool.pop(i)[1]] if i < len(pool) else self._segment(size, small)
        rest = block.size - size
        if rest >= 512 if small else rest > SMALL:
            tail = _Block(block.addr + size, rest, small)
            tail.before, tail.after = block, block.after
            if block.after is not None:
                block.after.before = tail
            block.after = tail
            block.size = size
            self._at[tail.addr] = tail
            insort(pool, (rest, tail.addr))
        block.free = False
        self._live[key] = block
        self.allocated += block.size
        if self.allocated > self.peak_allocated:
            self.peak_allocated = self.allocated

    def _segment(self, size: int, small: bool) -> _Block:
        if small:
            nbytes = SMALL_SEGMENT
        elif size < MIN_OWN_SEGMENT:
            nbytes = LARGE_SEGMENT
        else:
            nbytes = (size + ROUND - 1) // ROUND * ROUND
        if self.capacity is not None and self.reserved + nbytes > self.capacity:
            self.release_cached()
            self.out_of_memory |= self.reserved + nbytes > self.capacity
        block = _Block(self._next, nbytes, small)
        self._at[block.addr] = block
        self._next += nbytes + ROUND
        self.reserved += nbytes
        if self.reserved > self.peak_reserved:
            self.peak_reserved = self.reserved
        return block

    def free(self, key: object) -> None:
        block = self._live.pop(key, None)
        if block is None:
            return
        self.allocated -= block.size
        pool = self._pools[block.small]
        block.free = True
        after, before = block.after, block.before
        if after is not None and after.free:
            del pool[bisect_left(pool, (after.size, after.addr))]
            del self._at[after.addr]
            block.size += after.size
            block.after = after.after
            if after.after is not None:
                after.after.before = block
        if before is not None and before.free:
            del pool[bisect_left(pool, (before.size, before.addr))]
            del self._at[block.addr]
            before.size += block.size
            before.after = block.after
            if block.after is not None:
                block.after.before = before
            block = before
        insort(pool, (block.size, block.addr))

    def release_cached(self) -> None:
        """torch.cuda.empty_cache(): segments that are wholly free go back to the driver."""
        for pool in self._pools.values():
            kept = []
            for item in pool:
                block = self._at[item[1]]
                if block.before is None and block.after is None:
                    self.reserved -= block.size
                    del self._at[block.addr]
                else:
                    kept.append(item)
            pool[:] = kept

    def replay(self, events: Iterable[tuple[int, int]], label: object) -> None:
        """(id, bytes) allocates, (id, 0) frees; ids are told apart by label."""
        for key, nbytes in events:
            if nbytes:
                self.allocate((label, key), nbytes)
            else:
                self.free((label, key))
