"""Closed forms: the peak of a step beyond its fixed bytes as the largest of a few dozen polynomials in batch, length,
widths, vocabulary, rank and depth, compiled from the ledger (`make memory-forms`) and shipped as JSON. A
form answers for
the mode it was compiled for and for nothing else; the fixed bytes come from the same arithmetic as the ledger's.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from skill.memory.job import Job
from skill.memory.shapes import DATA

FORMS = DATA / "forms.json"
TILE = 4096  # tokens of a tile of TRL's chunked loss
MIN_VOCAB = 30000  # its tiles are 32768 wide; far below, they are narrower than the forms know
# A form holds for the defaults of these fields and for the listed variants of the others.
SYMBOLIC = ("shape", "batch", "length", "rank", "padded", "lengths_vary")
MODE = ("method", "dtype", "quant", "adapter_dtype", "autocast", "checkpointing")


@functools.cache
def _default() -> dict[str, Any]:
    return {name: field.default for name, field in Job.__dataclass_fields__.items() if name != "shape"}


def mode(job: Job) -> str | None:
    """Name of the form for this job, or None when it is of a kind that has none."""
    s = job.shape
    defaults = _default()
    skip = {*SYMBOLIC, *MODE, "method"}
    if any(getattr(job, name) != value for name, value in defaults.items() if name not in skip):
        return None
    if s.moe or s.overrides or s.unexplained or s.vocab < MIN_VOCAB or s.layers < 4 or s.rotary_fraction != 1:
        return None
    if not s.family.exact or s.tower_params or s.positions:
        return None
    grouped = "gqa" if s.heads != s.kv_heads else "mha"
    parts = [s.model_type, grouped, "tied" if s.tied else "untied", job.method, job.dtype, job.quant]
    return "/".join([*parts, job.adapter_dtype, str(job.autocast), "checkpointing" if job.checkpointing else "plain"])


@functools.cache
def _forms() -> dict[str, Any]:
    return json.loads(FORMS.read_text(encoding="utf-8")) if FORMS.is_file() else {}


def beyond_static(job: Job) -> tuple[float, str] | None:
    """(bytes beyond the fixed ones at the peak, where it lies), or None without a form for this job."""
    name = mode(job)
    compiled = _forms()
    index = compiled.get("names", {}).get(name) if name else None
    if index is None:
        return None
    form = compiled["forms"][index]
    s = job.shape
    value = {
        "B": job.batch,
        "S": job.length,
        "T": min(TILE, job.tokens),
        "h": s.hidden,
        "i": s.intermediate,
        "n": s.heads,
        "k": s.kv_heads,
        "d": s.head_dim,
        "V": s.vocab,
        "r": job.rank,
        "L": s.layers,
    }
    monomials = []
    for key in form["monomials"]:
        product = 1.0
        for symbol in key:
            product *= value[symbol]
        monomials.append(product)
    best, at = -1.0, ""
    for where, row in form["polynomials"]:
        total = 0.0
        for index, coefficient in row:
            total += coefficient * monomials[index]
        if total > best:
            best, at = total, where
    return best, at
