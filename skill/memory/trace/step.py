"""One traced training step: forward, loss, backward, clipping, optimizer, on meta tensors."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch

from skill.memory.job import Job
from skill.memory.ledger.static import CUBLAS_WORKSPACE, state_bytes, step_temporary
from skill.memory.ledger.tape import Tensor, block_bytes
from skill.memory.trace.build import DTYPES, build
from skill.memory.trace.cuda import Autocast, emulated
from skill.memory.trace.tracker import Tracker


@dataclass(frozen=True)
class Traced:
    """Bytes; label is where in the step the peak lies."""

    allocated: int
    static: int
    label: str
    phases: dict[str, int]


def traced(job: Job) -> dict[str, int | str]:
    """Full depth from two and three layers: what a middle layer adds to the static bytes and to the peak of each phase
    is the same for every layer, so each phase extrapolates linearly; the step's peak is the largest."""
    depth = job.shape.layers
    if depth <= 3:
        only = run(job, depth)
        return {"allocated": only.allocated, "static": only.static, "label": only.label}
    two, three = run(job, 2), run(job, 3)
    phases = {}
    for label in set(two.phases) & set(three.phases):
        phases[label] = two.phases[label] + (depth - 2) * (three.phases[label] - two.phases[label])
    label = max(phases, key=lambda name: phases[name])
    static = two.static + (depth - 2) * (three.static - two.static)
    return {"allocated": phases[label], "static": static, "label": label}


def run(job: Job, layers: int) -> Traced:
    """Trace `job` with `layers` decoder layers."""
    model, _config = build(job, layers)
    tracker = Tracker(job.shape.experts)
    workspaces = [torch.empty(CUBLAS_WORKSPACE, dtype=torch.uint8, device="meta") for _ in range(2)]
    for tensor in [*workspaces, *model.parameters(), *model.buffers()]:
        tracker.adopt(tensor)
    for module in model.modules():
        for tensor in getattr(getattr(module, "tunesmith_state", None), "tensors", ()):
            tracker.adopt(tensor)
    trained = [p for p in model.parameters() if p.requires_grad]
    states = sum(state_bytes(p.numel(), p.element_size(), job) for p in trained)
    tracker.live += states
    static = tracker.live
    autocast = Autocast(DTYPES[job.autocast]) if job.autocast else None
    _mark_layers(model, layers, tracker)
    if autocast is not None and job.checkpointing:
        _recompute_under(model, autocast)
    keep: Any = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(emulated(flash=job.attention == "flash"))
        stack.enter_context(_trl_kernels())
        stack.enter_context(_no_causal_mask())
        stack.enter_context(tracker)
        for _ in range(2 if job.accumulation > 1 else 1):
            tracker.enter("forward")
            ids = torch.zeros((job.batch, job.length), dtype=torch.long, device="meta")
            inputs = {"input_ids": ids, "labels": ids.clone()}
            if job.padded:
                inputs["attention_mask"] = torch.ones((job.batch, job.length), dtype=torch.long, device="meta")
            with autocast.on() if autocast else contextlib.nullcontext():
                out = (
                    model(**inputs, fused_lm_head=True)
                    if job.loss == "trl_chunked"
                    else model(**inputs, use_cache=False)
                )
            loss = out.loss
            keep = out if job.outputs_alive else None
            del out
            tracker.enter("backward")
            loss.backward()
            del loss, inputs, ids
            keep = None
        tracker.enter("optimizer")
        sizes = [step_temporary(Tensor(None, p.numel(), p.element_size()), job) for p in trained]
        top = tracker.live + sum(block_bytes(size) for size in sizes)
        tracker.phases["optimizer"] = max(tracker.phases["optimizer"], top)
    del keep, workspaces
    label = max(tracker.phases, key=lambda name: tracker.phases[name])
    return Traced(tracker.phases[label], static, label, tracker.phases)


def _mark_layers(model: Any, layers: int, tracker: Tracker) -> None:
    """Phases end at the first and last layer, forward and backward, so that depth is linear inside each."""
    stack = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == layers)

    def backward_reached(gradient: torch.Tensor) -> None:
        tracker.enter("backward layers")

    def last_done(module: Any, args: Any, out: Any) -> None:
        if tracker.label.startswith("forward"):
            tracker.enter("forward end")
        value = out[0] if isinstance(out, tuple) else out
        if isinstance(value, torch.Tensor) and value.requires_grad:
            value.register_hook(backward_reached)

    def first_entered(gradient: torch.Tensor) -> None:
        tracker.enter("backward first layer")

    def first_done(module: Any, args: Any, out: Any) -> None:
        value = out[0] if isinstance(out, tuple) else out
        if isinstance(value, torch.Tensor) and value.requires_grad:
            value.register_hook(first_entered)

    stack[layers - 1].register_forward_hook(last_done)
    stack[0].register_forward_hook(first_done)


def _recompute_under(model: Any, autocast: Autocast) -> None:
    """Recomputation runs under the autocast of its forward, as torch.utils.checkpoint arranges on CUDA."""
    for module in model.modules():
        checkpoint = getattr(module, "_gradient_checkpointing_func", None)
        if checkpoint is None:
            continue

        def wrapped(function: Any, *args: Any, _checkpoint: Any = checkpoint, **kwargs: Any) -> Any:
            def inside(*a: Any, **k: Any) -> Any:
                with autocast.on():
                    return function(*a, **k)

            return _checkpoint(inside, *args, **kwargs)

        module._gradient_checkpointing_func = wrapped


@contextlib.contextmanager
def _trl_kernels() -> Any:
    """TRL's Triton path: tiles are folded in place, matrix products add to float32 without a copy, rows are
    gathered."""
    try:
        import trl.kernels.chunked_logprob as kernels
        import trl.trainer.utils as utils
    except ImportError:
        yield
        return
    saved = [
        (kernels, "_forward_tile", kernels._forward_tile),
        (kernels, "_backward_tile", kernels._backward_tile),
        (kernels, "_addmm_fp32", kernels._addmm_fp32),
        (utils, "_use_triton", utils._use_triton),  # pyright: ignore[reportPrivateImportUsage]
    ]
    kernels._forward_tile = kernels._backward_tile = lambda *a, **k: None
    kernels._addmm_fp32 = lambda acc, a, b: None
    utils._use_triton = lambda device: True  # pyright: ignore[reportPrivateImportUsage]
    try:
        yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)


@contextlib.contextmanager
def _no_causal_mask() -> Any:
    """transformers asks the attention mask's values whether it can be dropped; here it can."""
    import transformers.masking_utils as masking

    original = masking._ignore_causal_mask_sdpa

    def ignore(padding_mask: Any, query_length: int, kv_length: int, *rest: Any, **more: Any) -> bool:
        local = more.get("local_attention_size") or (rest[2] if len(rest) > 2 else None)
        return not (local is not None and kv_length >= local)

    masking._ignore_causal_mask_sdpa = ignore
    try:
        yield
    finally:
        masking._ignore_causal_mask_sdpa = original
