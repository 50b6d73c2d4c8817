"""A tensor library that only keeps accounts: storages have a size and a lifetime, autograd has nodes and saved tensors,
and nothing is computed. Python's own reference counting frees a storage when the last tensor that needs it
dies, exactly
as PyTorch's does, so a model written on it (layers.py) shows the live bytes of the real one. Needs no torch; a step of
three layers takes about two milliseconds.

Sources: torch/csrc/autograd/engine.cpp (order of nodes, accumulation in place when nobody else holds the buffer),
c10/cuda/CUDACachingAllocator.cpp (block sizes).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from sys import getrefcount
from typing import Any

SMALL, LARGE_SEGMENT, ROUND = 1 << 20, 10 << 20, 2 << 20


def block_bytes(n: int) -> int:
    """What torch.cuda.memory_allocated() counts for a fresh request of n bytes: 512-byte rounding, and the tail of a
    2 MiB-rounded segment when it is too small to split off (kSmallSize)."""
    if n <= 0:
        return 0
    if n.__class__ is not int:  # a symbolic size (skill.memory.forms): compiled forms do not round
        return n
    n = (n + 511) & ~511
    if n < LARGE_SEGMENT:
        return n
    segment = (n + ROUND - 1) // ROUND * ROUND
    return segment if segment - n <= SMALL else n


class Ledger:
    """Live and peak bytes, and at the peak what each label held. `events` (when kept) feeds the allocator replay."""

    __slots__ = ("events", "keep_events", "label", "live", "marks", "next_id", "peak", "peak_label", "trail")

    def __init__(self, *, keep_events: bool = False) -> None:
        self.live = 0
        self.trail: list[tuple[str, int]] | None = None  # live bytes at each symbolic allocation
        self.peak = 0
        self.peak_label = ""
        self.label = ""
        self.keep_events = keep_events
        self.events: list[tuple[int, int]] = []  # (id, bytes) allocates; (id, 0) frees
        self.marks: dict[str, int] = {}
        self.next_id = 0

    def mark(self, label: str) -> None:
        """Name what follows; remembers the live bytes at this point."""
        self.label = label
        self.marks[label] = self.live


class Storage:
    __slots__ = ("block", "id", "ledger")

    def __init__(self, ledger: Ledger, nbytes: int) -> None:
        if nbytes.__class__ is int:
            n = (nbytes + 511) & ~511
            if n >= 10485760:
                segment = (n + 2097151) & ~2097151
                if segment - n <= 1048576:
                    n = segment
        else:
            n = nbytes
            if ledger.trail is not None:
                ledger.trail.append((ledger.label, ledger.live + n))
        self.block = n
        self.ledger = ledger
        ledger.live += n
        if ledger.live > ledger.peak:
            ledger.peak = ledger.live
            ledger.peak_label = ledger.label
        if ledger.keep_events:
            self.id = ledger.next_id
            ledger.next_id += 1
            ledger.events.append((self.id, nbytes))

    def __del__(self) -> None:
        ledger = self.ledger
        ledger.live -= self.block
        if ledger.keep_events:
            ledger.events.append((self.id, 0))


class Tensor:
    """n elements of w bytes in a storage; node is set when it requires grad."""

    __slots__ = ("n", "node", "storage", "w")

    def __init__(self, storage: Storage | None, n: int, w: int, node: Node | Leaf | None = None) -> None:
        self.storage, self.n, self.w, self.node = storage, n, w, node

    def view(self) -> Tensor:
        """Another tensor on the same storage, same history."""
        return Tensor(self.storage, self.n, self.w, self.node)


class Leaf:
    """AccumulateGrad of a trained parameter, or a detached input of a recomputed block."""

    __slots__ = ("grad", "keep", "seq", "step_bytes")

    def __init__(self, *, keep: bool = True, step_bytes: float = 0) -> None:
        self.grad: Tensor | None = None
        self.step_bytes = step_bytes  # an element
        self.keep = keep  # False: the gradient is consumed at once (optimizer in backward)
        self.seq = -(1 << 60)  # runs before anything else that is ready


Backward = Callable[[Tensor], Sequence["Tensor | None"]]


class Node:
    __slots__ = ("fn", "inputs", "seq")

    def __init__(self, seq: int, inputs: tuple[Node | Leaf | None, ...], fn: Backward) -> None:
        self.seq, self.inputs, self.fn = seq, inputs, fn


class Tape:
    """Records nodes while `grad` is on."""

    __slots__ = ("cache_on", "grad", "ledger", "phantom", "seq", "stops_early")

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.grad = True
        self.stops_early = False  # this recomputation ends once everything backward needs is back
        self.phantom = False  # it has ended: what follows is only there for the graph
        self.cache_on = False  # autocast caches its weight copies
        self.seq = 0

    def new(self, n: int, w: int) -> Tensor:
        """A fresh tensor without history."""
        if self.phantom:
            return Tensor(None, n, w)
        return Tensor(Storage(self.ledger, n * w), n, w)

    def static(self, n: int, w: int) -> Tensor:
        """A tensor whose bytes are counted elsewhere (weights)."""
        return Tensor(None, n, w)

    def parameter(self, n: int, w: int, *, keep: bool = True) -> Tensor:
        """A trained parameter; its own bytes are counted elsewhere, its gradient is allocated by backward."""
        return Tensor(None, n, w, Leaf(keep=keep))

    def record(self, out: Tensor, inputs: tuple[Tensor | None, ...], fn: Backward) -> Tensor:
        """Give `out` a history if any input has one. What `fn` closes over is what autograd saves."""
        nodes = tuple([None if x is None else x.node for x in inputs])
        if self.grad and any(node is not None for node in nodes):
            self.seq += 1
            out.node = Node(-self.seq, nodes, fn)
        return out

    def backward(self, root: Tensor, gradient: Tensor) -> None:
        """Run the graph as torch's engine does: latest node first, gradients of leaves at once."""
        node = root.node
        if node is None:
            return
        needed: dict[Node | Leaf, int] = {}
        stack: list[Any] = [node]
        seen = {node}
        while stack:
            for nxt in stack.pop().inputs:
                if nxt is None:
                    continue
                needed[nxt] = needed.get(nxt, 0) + 1
                if nxt not in seen and isinstance(nxt, Node):
                    seen.add(nxt)
                    stack.append(nxt)
        del seen, stack
        buffers: dict[Node | Leaf, Tensor] = {node: gradient}
        ready = [(node.seq, id(node), node)]
        del gradient, node
        while ready:
            current = heapq.heappop(ready)[2]
            incoming = buffers.pop(current)
            if isinstance(current, Leaf):
                self._accumulate(current, incoming)
                del incoming, current
                continue
            outputs = list(current.fn(incoming))
            del incoming
            nodes = current.inputs
            current.fn = _released  # frees what was saved
            for i, nxt in enumerate(nodes):
                value = outputs[i]
                outputs[i] = None
                if nxt is None:
                    continue
                if value is not None:
                    held = buffers.get(nxt)
                    if held is None:
                        buffers[nxt] = value
                    else:
                        # held: dict + local; its storage: this tensor only
                        alone = getrefcount(held) <= 3 and held.storage is not None and getrefcount(held.storage) <= 2
                        if not alone:
                            buffers[nxt] = self.new(held.n, max(held.w, value.w))
                        del held
                del value
                needed[nxt] -= 1
                if needed[nxt] == 0 and nxt in buffers:
                    heapq.heappush(ready, (nxt.seq, id(nxt), nxt))
            del outputs, nodes, current

    def _accumulate(self, leaf: Leaf, value: Tensor) -> None:
        if not leaf.keep:
            if leaf.step_bytes:  # optimizer in backward: its temporaries exist for this parameter alone
                scratch = Storage(self.ledger, int(value.n * leaf.step_bytes))
                del scratch
            return
        if leaf.grad is None:
            # AccumulateGrad steals the buffer when nobody else holds it, else it clones.
            shared = value.storage is None or getrefcount(value.storage) > 2
            leaf.grad = self.new(value.n, value.w) if shared else value
        # else: added in place


def _released(gradient: Tensor) -> Sequence[Tensor | None]:
    raise RuntimeError("this node ran already")
