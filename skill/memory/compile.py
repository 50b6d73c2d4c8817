"""python -m skill.memory.compile: run the ledger on symbols for each family and mode and write data/forms.json."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

from skill.memory import forms
from skill.memory.forms.symbol import Poly, Sym, poly_of
from skill.memory.job import Job
from skill.memory.ledger import losses
from skill.memory.ledger.step import Walk
from skill.memory.shapes import Shape

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text")
SIZES = {"B": 11, "S": 1153, "h": 2053, "i": 5153, "d": 127, "V": 65537, "r": 17, "L": 37}
MODES: list[dict[str, Any]] = [
    {"method": "lora"},
    {"method": "lora", "quant": "nf4-dq", "adapter_dtype": "bfloat16"},
    {"method": "full", "dtype": "float32"},
]


def compile_form(family: str, *, grouped: bool, tied: bool, keys: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(name, form) of one family and mode."""
    size = {name: Sym.named(name, value) for name, value in SIZES.items()}
    heads = Sym.named("n", 16)
    shape = Shape(
        model_type=family,
        layers=size["L"],
        hidden=size["h"],
        heads=heads,
        kv_heads=Sym.named("k", 4) if grouped else heads,
        head_dim=size["d"],
        intermediate=size["i"],
        vocab=size["V"],
        tied=tied,
    )
    job = Job(shape, batch=size["B"], length=size["S"], rank=size["r"], **keys)
    before = losses.TILE_TOKENS
    losses.TILE_TOKENS = Sym.named("T", forms.TILE)
    try:
        walk = Walk(job, full=False)
        walk.ledger.trail = []
        step = walk.step()
    finally:
        losses.TILE_TOKENS = before
    base = poly_of(step.static)
    trail = [(label, _minus(poly_of(live), base)) for label, live in walk.trail]
    kept = _winners(_undominated(trail), grouped=grouped)
    monomials = sorted({key for _, poly in kept for key in poly}, key=lambda key: (len(key), key))
    index = {key: i for i, key in enumerate(monomials)}
    rows = [[at, [[index[key], round(value, 6)] for key, value in sorted(poly.items())]] for at, poly in kept]
    name = forms.mode(job)
    assert name is not None, (family, keys)
    return name, {"monomials": ["".join(key) for key in monomials], "polynomials": rows}


def _minus(a: Poly, b: Poly) -> Poly:
    out = {key: a.get(key, 0.0) - b.get(key, 0.0) for key in {*a, *b}}
    return {key: value for key, value in out.items() if abs(value) > 1e-6}


def _undominated(polys: list[tuple[str, Poly]]) -> list[tuple[str, Poly]]:
    """Those that no other exceeds in every coefficient (all symbols are positive)."""
    unique = list({tuple(sorted(poly.items())): (label, poly) for label, poly in polys}.values())
    unique.sort(key=lambda item: -sum(item[1].values()))
    kept: list[tuple[str, Poly]] = []
    for label, poly in unique:
        keys = set(poly)
        if not any(all(o.get(k, 0.0) >= poly.get(k, 0.0) - 1e-6 for k in keys | set(o)) for _, o in kept):
            kept.append((label, poly))
    return kept


def _winners(polys: list[tuple[str, Poly]], *, grouped: bool) -> list[tuple[str, Poly]]:
    """Those that are the largest somewhere: at 600 points spread over the shapes and jobs there are."""
    random = Random(0)
    monomials = {key for _, poly in polys for key in poly}
    won: set[int] = set()
    for _ in range(600):
        heads, dim = random.choice((8, 9, 14, 16, 20, 24, 32, 40, 48, 64, 96)), random.choice((64, 80, 96, 128, 256))
        hidden = int(heads * dim * random.choice((0.5, 0.75, 1, 1, 1, 1.5)))
        batch, length = 2 ** random.randint(0, 6), 2 ** random.randint(5, 16)
        point = {
            "B": batch,
            "S": length,
            "T": min(forms.TILE, batch * length),
            "h": hidden,
            "i": int(hidden * random.uniform(1.5, 9)),
            "n": heads,
            "k": max(1, heads // random.choice((2, 3, 4, 8))) if grouped else heads,
            "d": dim,
            "V": int(2 ** random.uniform(14.9, 18.1)),
            "r": 2 ** random.randint(2, 9),
            "L": random.randint(8, 130),
        }
        at = {key: math.prod([point[x] for x in key]) for key in monomials}
        values = [sum([c * at[key] for key, c in poly.items()]) for _, poly in polys]
        won.add(max(range(len(polys)), key=values.__getitem__))
    return [polys[i] for i in sorted(won)]


def main() -> None:
    out: dict[str, Any] = {}
    shared: dict[str, int] = {}  # many families run the same code: one copy of each form
    for family in FAMILIES:
        for grouped in (True, False):
            for tied in (True, False):
                for keys in MODES:
                    for checkpointing in (True, False):
                        name, form = compile_form(
                            family, grouped=grouped, tied=tied, keys={**keys, "checkpointing": checkpointing}
                        )
                        out[name] = shared.setdefault(json.dumps(form, separators=(",", ":")), len(shared))
    about = "Compiled by python -m skill.memory.compile from the ledger for TRL 1.16, transformers 5, PEFT 0.21."
    names = json.dumps(dict(sorted(out.items())), indent=0)
    bodies = ",\n".join(shared)
    text = f'{{"about": {json.dumps(about)},\n"names": {names},\n"forms": [\n{bodies}\n]}}\n'
    forms.FORMS.write_text(text, encoding="utf-8")
    print(f"{len(out)} modes, {len(shared)} forms, {len(text) // 1024} KiB")


if __name__ == "__main__":
    main()
