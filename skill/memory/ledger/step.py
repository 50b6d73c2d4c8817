"""One training step on the ledger: weights, forward, loss, backward, clipping, optimizer. The result is the peak of
allocated bytes of the steady state (optimizer states exist), with a breakdown that sums to it.

A uniform stack is walked with three layers (first, middle, last): memory between them is linear in depth, so the peak
lies at one end; what the skipped layers save is booked as one storage. `full=True` walks every layer and keeps the
events for the allocator replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skill.memory.job import Job
from skill.memory.ledger import litgpt, losses
from skill.memory.ledger.layers import Layer, Norm, Weights
from skill.memory.ledger.ops import cast, dropout, scale
from skill.memory.ledger.shard import Unsharded, plan
from skill.memory.ledger.static import CUBLAS_WORKSPACE, state_bytes, step_temporary
from skill.memory.ledger.tape import Leaf, Ledger, Storage, Tape, Tensor, block_bytes
from skill.memory.shapes import Linear


@dataclass(frozen=True)
class Step:
    """Bytes. `parts` sums to allocated; `events` for the allocator replay when asked for."""

    allocated: int
    parts: dict[str, float]
    peak_at: str
    static: int
    events: list[tuple[int, int]]

    @property
    def alive(self) -> set[int]:
        """Ids of the events that were never freed."""
        freed = {key for key, nbytes in self.events if not nbytes}
        return {key for key, nbytes in self.events if nbytes} - freed


def run(job: Job, *, full: bool = False) -> Step:
    """Walk one step of `job`."""
    return Walk(job, full=full).step()


class Walk:
    """The state of one walk; `run` is the way in."""

    def __init__(self, job: Job, *, full: bool) -> None:
        self.job, s = job, job.shape
        self.ledger = ledger = Ledger(keep_events=full)
        self.tape = Tape(ledger)
        self.tape.cache_on = job.autocast is not None
        self.plan = plan(job)
        self.parts: dict[str, float] = {}
        self.fixed: list[Storage] = []
        make = litgpt.LitLayer if job.engine == "litgpt" else Layer
        self.layers = [make(job) for _ in range(3 if s.layers >= 3 and not full else s.layers)]
        self.skipped = s.layers - len(self.layers)
        self.middle = self.layers[min(1, len(self.layers) - 1)]
        self.outer = outer = Weights(job)
        self.embedding = outer.base(s.embedding)
        if s.positions:
            outer.base(s.positions * s.hidden)
        self.norm = Norm(outer, s.hidden)
        self.head = self.embedding if s.tied else outer.base(s.embedding)
        if job.kbit_embeddings_low:
            self.embedding.w = self.head.w = job.width
        if job.head_width and self.head.node is None:
            self.head = Tensor(None, self.head.n, job.head_width)
        if job.engine == "litgpt":
            lora = not isinstance(job.targets, tuple) or "lm_head" in job.targets
            self.lit_head = litgpt.LitLinear(outer, Linear("lm_head", s.hidden, s.vocab, s.family.head_bias), lora=lora)
        self.logits: object = None
        self.retained: list[object] = []

    def _book(self, name: str, *sizes: int) -> None:
        before = self.ledger.live
        self.fixed += [Storage(self.ledger, size) for size in sizes]
        self.parts[name] = self.parts.get(name, 0) + self.ledger.live - before

    def begin(self) -> int:
        """Book what is there before the step; its bytes."""
        ledger, job, split = self.ledger, self.job, self.plan
        workspace = CUBLAS_WORKSPACE if job.workspace is None else job.workspace
        self._book("cublas_workspace", workspace, workspace)
        explicit = [p for k in self.layers for p in k.weights.trained] + self.outer.trained

        def total(size: Callable[[Tensor], int]) -> int:
            """Over all trained parameters: those walked, and the skipped layers' by the middle one's."""
            middle = sum(size(p) for p in self.middle.weights.trained)
            return sum(size(p) for p in explicit) + middle * self.skipped

        self._fixed("weights", split.weights)
        adapters = total(lambda p: block_bytes(p.n * p.w)) if job.method != "full" else 0
        self._fixed("adapters", adapters // split.parameter_shards)
        states = total(lambda p: state_bytes(p.n, split.master(p.w), job))
        self._fixed("optimizer", split.states(states, total(lambda p: p.n)))
        self.gradients = 0 if job.optimizer_in_backward else split.gradients(total(lambda p: block_bytes(p.n * p.w)))
        self.middle_gradients = split.gradients(sum(block_bytes(p.n * p.w) for p in self.middle.weights.trained))
        self.persistent = job.accumulation > 1 and not job.optimizer_in_backward
        if self.persistent:
            ledger.live += self.gradients
            for parameter in [p for k in self.layers for p in k.weights.trained] + self.outer.trained:
                parameter.node.keep = False  # type: ignore[union-attr]  # added in place to what exists
        ledger.peak, ledger.peak_label = ledger.live, "static"
        self.temporary = total(lambda p: block_bytes(step_temporary(p, job)))
        return ledger.live

    def known(self, beyond: float, at: str) -> Step:
        """The step whose peak a closed form gives: `beyond` the fixed bytes, in phase `at`."""
        base = self.begin()
        self.ledger.peak, self.ledger.peak_label = base + int(beyond), at
        return self._result(base)

    def step(self) -> Step:
        """Walk it."""
        ledger, job, split = self.ledger, self.job, self.plan
        base = self.begin()
        buffers = Storage(ledger, split.buffers)
        root = Storage(ledger, split.root)
        loss = self._forward()
        self._backward(loss)
        del loss, root
        ledger.mark("optimizer")
        if split.step_factor and not job.optimizer_in_backward:
            whole = self.temporary
            scratch = Storage(ledger, whole if split.step_factor == 1 else int(whole * split.step_factor))
            del scratch
        del buffers
        return self._result(base)

    def _fixed(self, name: str, nbytes: int) -> None:
        self.ledger.live += nbytes
        self.parts[name] = nbytes

    def _forward(self) -> Tensor:
        job, s, t, ledger = self.job, self.job.shape, self.tape, self.ledger
        ledger.mark("forward")
        tokens = job.tokens
        self.inputs = t.new(tokens * (3 if job.padded else 2), 8)
        x = t.new(tokens * s.hidden, self.embedding.w)
        if self.embedding.node is not None:
            n, w = self.embedding.n, self.embedding.w
            x = t.record(x, (self.embedding,), lambda g: (t.new(n, w),))
        elif job.checkpointing and job.method != "full":
            x.node = Leaf(keep=False)  # enable_input_require_grads
            self.retained.append(x.storage)  # AccumulateGrad of the embedding's output holds it
        if s.family.embedding_scale:
            x = scale(t, x)
        embeddings = x = dropout(t, x, job.embedding_dropout)  # a local variable of the model's forward
        table = job.length * int(s.head_dim * s.rotary_fraction)
        tables = (t.new(table, x.w), t.new(table, x.w))
        self.mask = t.new(job.batch * job.length * job.length, x.w) if job.materialised_mask else None
        self.bulk: Storage | None = None
        self.copies: Storage | None = None
        for i, layer in enumerate(self.layers):
            before = ledger.live
            x = self._layer(layer, x, tables)
            if layer is self.middle and self.skipped and not job.checkpointing:
                x = t.record(x.view(), (x,), self._reached_middle)
            if i == 1 and self.skipped:
                # autocast's weight copies die with the forward unless backward needs them
                copies = sum(c.storage.block for c in layer.weights.cache.values() if c.storage)
                copies = copies if job.checkpointing else 0
                self.copies = Storage(ledger, copies * self.skipped)
                self.bulk = Storage(ledger, (ledger.live - copies * self.skipped - before - copies) * self.skipped)
        ledger.mark("loss")
        x = self.norm(t, x)
        del embeddings
        return self._loss(x)

    def _loss(self, x: Tensor) -> Tensor:
        """x (the last hidden state) stays alive until the loss is there, as the model's local variable does."""
        job, t = self.job, self.tape
        if job.loss == "liger":
            return losses.liger(t, job, x, self.head)
        if job.loss == "trl_chunked":
            return losses.trl_chunked(t, job, x, self.head)
        if job.loss == "torchtune_chunked":
            return losses.chunked_torchtune(t, job, x, self.head)
        if job.loss == "litgpt_chunked":
            loss, self.logits = litgpt.head_and_loss(t, job, x, self.lit_head)
            return loss
        logits = losses.head_logits(t, job, x, self.head, self.outer)
        if job.logits == "rebind":
            logits = cast(t, logits, 4)
        if job.outputs_alive:
            self.logits = logits
        upcast, shift = job.logits != "half", job.logits != "modern"
        if job.loss == "fused_ce":
            return losses.fused_cross_entropy(t, logits, upcast=upcast, shift=shift)
        return losses.cross_entropy(t, logits, upcast=upcast, shift=shift)

    def _backward(self, loss: Tensor) -> None:
        ledger = self.ledger
        self.outer.cache.clear()
        self.copies = None
        for layer in self.layers:
            layer.weights.cache.clear()
        ledger.mark("backward")
        self.middle.on_backward = self._release
        self.tape.backward(loss, self.tape.new(1, 4))
        self._release()
        self.middle.on_backward = None  # it refers back to this object
        self.logits = self.inputs = self.mask = None
        for parameter in self.outer.trained:
            self._settle(parameter)
        self.retained.clear()

    def _reached_middle(self, g: Tensor) -> tuple[Tensor]:
        self._release()
        return (g,)

    def _release(self) -> None:
        """Between the last and the middle layer's backward the skipped layers' saved tensors go and their gradients
        come (under FSDP with frozen weights the inputs stay and their gradients come as well)."""
        job, ledger = self.job, self.ledger
        if self.bulk is None:
            return
        if self.plan.retains_inputs:
            self.retained.append(self.bulk)
            self.retained.append(Storage(ledger, self.skipped * job.tokens * job.shape.hidden * self.embedding.w))
        self.bulk = None
        if not self.persistent and not job.optimizer_in_backward:
            ledger.live += self.middle_gradients * self.skipped
            ledger.peak = max(ledger.peak, ledger.live)

    def _layer(self, layer: Layer | litgpt.LitLayer, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        if self.job.checkpointing:
            return self._checkpointed(layer, x, tables)
        if not self.plan.unit:
            return layer(self.tape, x, tables)
        # FSDP around the layer: gathered in forward, freed, gathered again when its backward begins
        t, unit = self.tape, Unsharded(self.ledger, self.plan.unit)

        def close(g: Tensor) -> tuple[Tensor]:
            unit.free()
            self._settle_layer(layer)
            return (g,)

        def reopen(g: Tensor) -> tuple[Tensor]:
            unit.gather()
            return (g,)

        unit.gather()
        x = t.record(x.view(), (x,), close)
        out = layer(t, x, tables)
        unit.free()
        return t.record(out.view(), (out,), reopen)

    def _checkpointed(self, layer: Layer | litgpt.LitLayer, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """torch.utils.checkpoint: forward without a graph, recomputed in backward. Reentrant keeps the recomputed
        output alive through the nested backward; the other kind stops once everything saved is back."""
        t, job, split = self.tape, self.job, self.plan
        unit = Unsharded(self.ledger, split.unit)
        unit.gather()
        t.grad = False
        out = layer(t, Tensor(x.storage, x.n, x.w), tables)
        t.grad = True
        unit.free()
        n, w = x.n, x.w
        needs = x.node is not None
        kept = None if job.offload_activations else x.storage

        def backward(g: Tensor, _keep: Storage | None = kept) -> tuple[Tensor | None]:
            leaf = Leaf()
            if job.offload_activations:
                _keep = t.new(n, w).storage
            layer.before_backward()
            unit.gather()
            t.stops_early = not job.reentrant
            again = layer(t, Tensor(_keep, n, w, leaf if needs else None), tables)
            t.stops_early = t.phantom = False
            if not job.reentrant:
                again.storage = None
            layer.weights.cache.clear()
            t.backward(again, g)
            unit.free()
            self._settle_layer(layer)
            if split.retains_inputs:
                self.retained += [_keep, leaf.grad]
            return (leaf.grad,)

        anchor = x if needs else Tensor(None, 0, 4, Leaf(keep=False))
        return t.record(out, (anchor,), backward)

    def _settle_layer(self, layer: Layer | litgpt.LitLayer) -> None:
        for parameter in layer.weights.trained:
            self._settle(parameter)

    def _settle(self, parameter: Tensor) -> None:
        """Reduce-scatter: the full gradient becomes this rank's share."""
        leaf, split = parameter.node, self.plan
        if split.gradient_factor == 1 or not isinstance(leaf, Leaf) or leaf.grad is None or leaf.grad.storage is None:
            return
        share = Storage(self.ledger, int(leaf.grad.n * leaf.grad.w * split.gradient_factor))
        leaf.grad = Tensor(share, leaf.grad.n, leaf.grad.w)

    def _result(self, base: int) -> Step:
        ledger, job, parts = self.ledger, self.job, self.parts
        peak, at = ledger.peak, ledger.peak_label
        grown = peak - base
        has_gradients = self.persistent or at == "optimizer" or (at == "backward" and job.method != "full")
        gradients = 0 if job.optimizer_in_backward or not has_gradients else self.gradients
        parts["gradients"] = float(gradients if self.persistent else min(gradients, grown))
        rest = peak - sum(parts.values())
        name = {"optimizer": "optimizer_step", "loss": "logits_and_loss"}.get(at, "activations")
        if at in ("loss", "backward") and job.checkpointing:
            saved = min(rest, job.shape.layers * job.tokens * job.shape.hidden * self.embedding.w)
            parts["checkpoints"], rest = saved, rest - saved
        parts[name] = rest
        self.trail = ledger.trail or []
        ledger.trail = None
        events, ledger.events, ledger.keep_events = ledger.events, [], False  # what dies later is not of this step
        return Step(peak, parts, at, base, events)
