"""From the last hidden state to a scalar, per implementation. Each returns the loss node's tensor and what the caller
keeps (the logits, where the loop holds its outputs during backward)."""

from __future__ import annotations

from collections.abc import Sequence

from skill.memory.job import Job
from skill.memory.ledger.layers import Weights, _amp_linear
from skill.memory.ledger.ops import cast, linear, scale
from skill.memory.ledger.tape import Tape, Tensor

TILE_TOKENS, TILE_VOCAB = 4096, 32768  # trl/kernels/chunked_logprob.py TOKEN_CHUNK_SIZE, trainer/utils.py chunk size


def head_logits(t: Tape, job: Job, x: Tensor, head: Tensor, weights: Weights) -> Tensor:
    """lm_head (with LoRA when it is a target) on all rows."""
    s = job.shape
    if job.head_autocast_off and x.w != head.w:
        x = cast(t, x, head.w)
    logits = _amp_linear(t, x, head, s.hidden, s.vocab, weights)
    if s.family.logit_scale:
        logits = scale(t, logits)
    if s.family.softcap:  # logits / cap, tanh, * cap
        n, w = logits.n, logits.w
        logits = scale(t, logits)
        tanh = t.new(n, w)
        t.record(tanh, (logits,), lambda g, _keep=tanh.storage: (t.new(n, w),))
        logits = scale(t, tanh)
    return logits


def cross_entropy(t: Tape, logits: Tensor, *, upcast: bool, shift: bool) -> Tensor:
    """torch cross entropy: log_softmax keeps its output; backward writes the nll gradient, then log_softmax's."""
    x = cast(t, logits, 4) if upcast else logits
    del logits
    shifted = x
    if shift:
        n, w = x.n, x.w
        # x[..., :-1, :].contiguous(); backward of the slice fills a zero tensor of full size
        shifted = t.record(t.new(n, w), (x,), lambda g: (t.new(n, w),))
    n, w = shifted.n, shifted.w
    log_probabilities = t.new(n, w)
    t.record(log_probabilities, (shifted,), lambda g, _keep=log_probabilities.storage: (t.new(n, w),))
    return t.record(t.new(1, 4), (log_probabilities,), lambda g, _keep=log_probabilities.storage: (t.new(n, w),))


def compiled_cross_entropy(t: Tape, logits: Tensor) -> Tensor:
    """torch.compile fuses the upcast and both softmax passes: 16-bit logits and two numbers a row are kept."""
    n, w = logits.n, logits.w
    return t.record(t.new(1, 4), (logits,), lambda g, _keep=logits.storage: (t.new(n, w),))


def fused_cross_entropy(t: Tape, logits: Tensor, *, upcast: bool, shift: bool) -> Tensor:
    """Unsloth's Triton kernel behind transformers' float32 logits and shifted copy: the gradient overwrites
    the copy."""
    x = cast(t, logits, 4) if upcast else logits
    del logits
    if shift:
        n, w = x.n, x.w
        x = t.record(t.new(n, w), (x,), lambda g: (t.new(n, w),))
    n, w = x.n, x.w

    def backward(g: Tensor, _keep: object = x.storage) -> Sequence[Tensor]:
        return (Tensor(_keep, n, w),)  # type: ignore[arg-type]

    return t.record(t.new(1, 4), (x,), backward)


def liger(t: Tape, job: Job, x: Tensor, head: Tensor) -> Tensor:
    """LigerFusedLinearCrossEntropy: gradients computed in the forward, chunk by chunk.
    chunk = next_power_of_2(ceil(tokens / ceil(vocab / hidden)))."""
    s = job.shape
    rows = x.n // s.hidden
    factor = -(-s.vocab // s.hidden)
    chunk = min(rows, 1 << max(0, (-(-rows // factor) - 1).bit_length()))
    compute = 2 if job.autocast else x.w
    weight = cast(t, head, 2) if job.autocast and head.w == 4 else head
    grad_weight = t.new(head.n, head.w) if head.node is not None else None
    grad_input = t.new(x.n, x.w)
    losses = t.new(rows, 4)
    low = cast(t, Tensor(None, chunk * s.hidden, x.w), compute) if compute != x.w else None
    logits = t.new(chunk * s.vocab, compute)
    wide = t.new(chunk * s.vocab, 4)
    del logits
    logits = t.new(chunk * s.vocab, compute)
    del wide
    part = t.new(chunk * s.hidden, compute)
    if grad_weight is not None:
        product = t.new(head.n, compute)
        del product
    del logits, part, losses, low, weight
    keep_weight = grad_weight
    keep_input = grad_input

    def backward(g: Tensor, _keep: object = (keep_input, keep_weight)) -> Sequence[Tensor | None]:
        return _keep  # type: ignore[return-value]

    return t.record(t.new(1, 4), (x, head), backward)


def trl_chunked(t: Tape, job: Job, x: Tensor, head: Tensor) -> Tensor:
    """TRL 1.16 _ChunkedLogProbFunction: [4096, 32768] tiles, float32 gradient accumulators, rows gathered by
    the mask."""
    s = job.shape
    rows = x.n // s.hidden
    compute = 2 if job.autocast else x.w
    mask_bytes = rows * 8
    n, w = x.n, x.w

    def gather_backward(g: Tensor) -> Sequence[Tensor]:
        out = t.new(n, w)  # index_put into zeros
        scratch = t.new(mask_bytes * 4, 1)
        del scratch
        return (out,)

    gathered = t.record(t.new(n, w), (x,), gather_backward)
    del x
    tile, width = min(rows, TILE_TOKENS), min(s.vocab, TILE_VOCAB)
    needs_w, head_n, head_w = head.node is not None, head.n, head.w

    def scratch(*, backward: bool) -> list[Tensor]:
        """Local variables of one pass: the tile, the chunk of hidden states, the chunk of the head in compute dtype. A
        loop variable's old chunk lives until the new one is there; the forward binds no head chunk."""
        out = [t.new(tile * TILE_VOCAB, compute)]
        if compute != w:
            out += [t.new(tile * s.hidden, compute) for _ in range(2 if rows > TILE_TOKENS else 1)]
        if compute != head_w:
            out += [t.new(width * s.hidden, compute) for _ in range(2 if backward and s.vocab > TILE_VOCAB else 1)]
        return out

    statistics = [t.new(rows, 4) for _ in range(7)]
    buffers = scratch(backward=False)
    results = [t.new(rows, 4) for _ in range(3)]  # log_z, log-probabilities, entropy
    del statistics, buffers
    kept = (gathered.storage, t.new(rows, 8).storage, results[0].storage, results[2].storage)

    def backward(g: Tensor, _keep: object = kept) -> Sequence[Tensor | None]:
        grad_hidden = t.new(n, 4)
        grad_weight = t.new(head_n, 4) if needs_w else None
        buffers = scratch(backward=True)
        gx = grad_hidden if w == 4 else t.new(n, w)
        gw = grad_weight if grad_weight is None or head_w == 4 else t.new(head_n, head_w)
        del buffers
        return (gx, gw)

    out = t.record(t.new(1, 4), (gathered, head), backward)
    del results
    return out


def chunked_torchtune(t: Tape, job: Job, x: Tensor, head: Tensor, chunks: int = 8) -> Tensor:
    """torchtune CEWithChunkedOutputLoss: lm_head on each of 8 chunks gives 16-bit logits that stay for
    backward; float32
    cross entropy chunk by chunk."""
    s = job.shape
    n, total_n, w = x.n // chunks, x.n, x.w
    whole = t.record(Tensor(x.storage, 0, w), (x,), lambda g: (t.new(total_n, w),))
    pieces: list[Tensor] = []
    part: Tensor | None = None
    for _ in range(chunks):
        part = t.record(Tensor(x.storage, n, w), (whole,), lambda g: (g,))
        pieces.append(linear(t, part, head, s.hidden, s.vocab))
    part = None
    del x
    total: Tensor | None = None
    compiled = job.mlp_kernel == "compiled"
    while pieces:
        if compiled:
            loss = compiled_cross_entropy(t, pieces.pop(0))
        else:
            loss = cross_entropy(t, pieces.pop(0), upcast=True, shift=False)
        total = loss if total is None else t.record(t.new(1, 4), (total, loss), lambda g: (g, g))
    assert total is not None
    return total
