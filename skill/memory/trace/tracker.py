"""Follow every storage that lives on the meta device through one step: when it appears, when its last owner lets go.

A TorchDispatchMode sees each operator call; a weak reference on the storage reports its death. What CUDA
kernels allocate
inside an operator is invisible at this level and is added from `WORKSPACES` (read in aten/src/ATen/native/cuda).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skill.memory.ledger.tape import block_bytes

_aten = torch.ops.aten


def _bytes(t: torch.Tensor) -> int:
    return t.numel() * t.element_size()


WORKSPACES: dict[Any, Callable[..., int]] = {
    _aten._softmax_backward_data.default: lambda grad, *rest: _bytes(grad),  # SoftMax.cu: tmp = grad * output
    _aten.embedding_dense_backward.default: lambda grad, indices, *rest: indices.numel() * 32,  # Embedding.cu: sort
    _aten.sort.default: lambda x, *rest: x.numel() * (x.element_size() + 8),
    _aten.masked_scatter.default: lambda x, mask, *rest: mask.numel() * 8,
}


class Tracker(TorchDispatchMode):
    """Live bytes in allocator blocks, the peak of each phase, and the event list for a replay."""

    def __init__(self, experts: int = 1) -> None:
        super().__init__()
        self.live = 0
        self.label = "static"
        self.phases: dict[str, int] = {"static": 0}
        self.events: list[tuple[int, int]] = []
        self.experts = max(1, experts)
        self._known: dict[int, tuple[int, Any]] = {}
        self._count = 0

    def adopt(self, tensor: torch.Tensor) -> None:
        """Count a tensor that exists already (weights, optimizer states)."""
        if tensor.device.type != "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        nbytes, number = storage.nbytes(), self._count
        self._count += 1
        block = block_bytes(nbytes)

        def gone(_: object) -> None:
            self._known.pop(key, None)
            self.live -= block
            self.events.append((number, 0))

        self._known[key] = (number, weakref.ref(storage, gone))
        self.live += block
        self.events.append((number, nbytes))
        if self.live > self.phases[self.label]:
            self.phases[self.label] = self.live

    def enter(self, label: str) -> None:
        """What follows belongs to the phase `label`."""
        self.label = label
        self.phases[label] = max(self.live, self.phases.get(label, 0))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        special = _data_dependent(func, args, self.experts)
        if special is not None:
            if isinstance(special, torch.Tensor):
                self.adopt(special)
            return special
        if func is _aten.add.Tensor and self._accumulates(args):
            return args[0]
        workspace = WORKSPACES.get(func)
        scratch = None
        if workspace is not None and isinstance(args[0], torch.Tensor) and args[0].device.type == "meta":
            scratch = torch.empty(max(1, workspace(*args)), dtype=torch.uint8, device="meta")
            self.adopt(scratch)
        out = func(*args, **kwargs)
        self._adopt_all(out)
        del scratch
        return out

    def _accumulates(self, args: Any) -> bool:
        """The engine's sum of two gradients: in place when nobody else holds the first (torch/csrc/autograd/
        input_buffer.cpp), which it does not do under a dispatch mode. Two owners: the tensor and the object asked."""
        if not self.label.startswith("backward") or torch.is_grad_enabled() or not isinstance(args[1], torch.Tensor):
            return False
        held, value = args[0], args[1]
        if held.shape != value.shape or held.dtype != value.dtype or held.device.type != "meta":
            return False
        return torch._C._storage_Use_Count(held.untyped_storage()._cdata) <= 2

    def _adopt_all(self, out: Any) -> None:
        if isinstance(out, torch.Tensor):
            self.adopt(out)
        elif isinstance(out, (list, tuple)):
            for item in out:
                self._adopt_all(item)


def _data_dependent(func: Any, args: Any, experts: int) -> Any:
    """Operators whose result depends on values, which meta tensors do not have: sizes as if every position counted and
    tokens were spread evenly over experts."""
    if not args or not isinstance(args[0], torch.Tensor) or args[0].device.type != "meta":
        return None
    x = args[0]
    if func is _aten._local_scalar_dense.default:
        return True if x.dtype == torch.bool else 1.0 if x.dtype.is_floating_point else 1
    if func is _aten.nonzero.default:
        return torch.empty((-(-x.numel() // experts), x.dim()), dtype=torch.long, device="meta")
    if func is _aten.index.Tensor and len(args) > 1 and args[1] and args[1][0] is not None:
        mask = args[1][0]
        if mask.dtype == torch.bool:
            return torch.empty((mask.numel(), *x.shape[mask.dim() :]), dtype=x.dtype, device="meta")
    if func in (_aten.index_put_.default, _aten._index_put_impl_.default):
        return x
    if func is _aten.index_put.default:
        return torch.empty_like(x)
    return None
