"""Objective, method and hyper-parameters of a fine-tune, from tables/methods.yaml and our own memory figures."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from skill.advise.advice import Choice, Hardware, Samples
from skill.advise.tables import holds, source, step, table
from skill.errors import TunesmithError
from skill.memory import Span
from skill.workspace import Workspace

Facts = dict[str, Any]


@dataclass(frozen=True)
class Base:
    """The base model that figures are for."""

    params_b: float
    say: str
    memory_model: str  # whose shape is estimated
    scale: float  # parameters of the base over those of memory_model
    named: bool


@dataclass
class Plan:
    objective: str
    objective_why: str
    method: str = ""
    method_why: str = ""
    base: Base | None = None
    memory: dict[str, Hardware] = field(default_factory=dict)


def choose(ws: Workspace, facts: Facts, verdict: str) -> Plan:
    """Objective, base size, memory by method, and the method."""
    tables = table("methods")
    rows = facts.get("examples")
    shown = {**facts, "verdict": verdict}
    if facts.get("demonstrations") and not facts.get("no_demonstrations"):
        shown["has_demonstrations"] = True
    elif rows is not None and rows >= tables["demonstrations_from"]:
        # Rows of unknown kind: on a hard task they are problems to be solved, else they hold the answers.
        hard = facts.get("reasoning") or facts.get("reasoning_task") or facts.get("no_demonstrations")
        shown["has_demonstrations"] = None if hard else True
    rule = next(item for item in tables["objectives"] if holds(item["when"], shown))
    plan = Plan(rule["objective"], f"{rule['because']} [{source(rule['source'])}]")
    plan.base = base_model(ws, facts)
    plan.memory = {name: figure(ws, plan.base, name, facts.get("gpu_gib")) for name in ("qlora", "lora", "full")}
    plan.method, plan.method_why = _method(facts, plan)
    return plan


def base_model(ws: Workspace, facts: Facts) -> Base:
    """The named model, or a size class that suits the task and the card."""
    tables = table("methods")
    params, model = facts.get("model_params_b"), facts.get("model")
    if model:
        found = _shape_params_b(ws, model)
        if found:
            return Base(found, f"{model} ({found:.3g}B)", model, 1.0, True)
        match = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)\s?([bm])(?![a-z])", model.lower())
        if params is None and match:
            params = float(match.group(1)) / (1000 if match.group(2) == "m" else 1)
    say = model or (f"{params:g}B, as given" if params else "")
    if params is None:
        row = next(item for item in tables["size_classes"] if holds(item["when"], facts))
        params = row["params_b"]
        say = f"{model}; its size is unknown, figures are for {params:g}B" if model else row["say"]
    near = min(tables["representatives"], key=lambda size: abs(size - params) / size)
    return Base(params, say, tables["representatives"][near], params / near, bool(model))


def _shape_params_b(ws: Workspace, model: str) -> float | None:
    from skill.memory.resolve import resolve_shape

    try:
        shape = resolve_shape(ws, model)
    except TunesmithError:  # not here and no hub: the size class serves
        return None
    return shape.params / 1e9 if shape.params else None


@lru_cache(maxsize=128)
def _process_peak(ws: Workspace, model: str, method: str) -> tuple[float, float, float]:
    """(low, value, high) GiB of estimate_vram at micro-batch 1, 1,024 tokens, rank 16, checkpointing."""
    from skill.memory import estimate_vram

    process = estimate_vram(ws, model=model, method=method).device_peak.process_gib  # type: ignore[arg-type]
    return process.low, process.value, process.high


def figure(ws: Workspace, base: Base, method: str, gpu_gib: float | None) -> Hardware:
    """Our own estimate; scaled by parameters when the base is only a size."""
    from skill.memory.gpus import known_gpus

    # A named model may be a folder that changes under a long-lived server; the catalogue does not.
    peak = _process_peak.__wrapped__ if base.named else _process_peak
    low, value, high = (round(x * base.scale, 1) for x in peak(ws, base.memory_model, method))
    share = table("methods")["usable_share"]
    fitting = [gpu for gpu in known_gpus() if gpu.usable_gib * share >= value]
    fits = None if gpu_gib is None else value <= gpu_gib * share
    return Hardware(
        method=method,  # type: ignore[arg-type]
        peak_gib=value,
        low_gib=low,
        high_gib=high,
        smallest_gpu=fitting[0].name if fitting else None,
        fits_yours=fits,
    )


@lru_cache(maxsize=256)
def _hours_a_mtoken(ws: Workspace, model: str, method: str, gpu: str) -> Span:
    """Hours for 1,000,000 tokens, as estimate_vram tells them for the settings of _process_peak."""
    from skill.memory import estimate_vram

    time = estimate_vram(ws, model=model, method=method, gpu=gpu, tokens=1_000_000).time  # type: ignore[arg-type]
    assert time is not None
    return time.hours


def timed(ws: Workspace, base: Base, option: Hardware, facts: Facts, epochs: float) -> Hardware:
    """The option with its hours: for the data at hand where it was looked at, else for a million tokens."""
    if option.smallest_gpu is None:
        return option
    mtokens = facts.get("mtokens") or facts.get("raw_mtokens")
    total = mtokens * epochs if mtokens else 1.0
    say = f"{mtokens:.2g}M tokens (by file size) x {epochs:g} epochs" if mtokens else "each 1M tokens trained on"
    hours = _hours_a_mtoken.__wrapped__ if base.named else _hours_a_mtoken
    one = hours(ws, base.memory_model, option.method, option.smallest_gpu)
    low, value, high = (float(f"{x * total * base.scale:.2g}") for x in (one.low, one.value, one.high))
    return option.model_copy(update={"hours": Span(value=value, low=low, high=high), "hours_for": say})


def _method(facts: Facts, plan: Plan) -> tuple[str, str]:
    tables = table("methods")
    base, memory = plan.base, plan.memory
    assert base is not None
    if facts.get("soft_prompt"):
        return "prompt_tuning", "a learned soft prompt is asked for [Lester et al., arXiv 2104.08691]"
    if facts.get("prefix_tuning"):
        return "prefix", "prefix tuning is asked for [Li & Liang, arXiv 2101.00190]"
    gpu = facts.get("gpu_gib")
    card = gpu if gpu else tables["default_gpu_gib"]
    room = card * tables["usable_share"]
    where = f"{gpu:g} GiB" if gpu else f"{card} GiB assumed" if gpu is None else "the CPU"
    rows = facts.get("examples") or 0
    wanted = step(tables["full_from_rows"], base.params_b)
    enough = plan.objective == "cpt" or (plan.objective == "sft" and rows >= wanted)
    if enough and not facts.get("many_adapters") and gpu != 0:
        whole = memory["full"].peak_gib
        if whole <= room and (gpu is not None or plan.objective == "cpt"):
            what = "raw text at scale" if plan.objective == "cpt" else f"{rows:,} rows (full from {wanted:,})"
            return "full", f"{what}, and {whole:g} GiB fit {where} [{source(tables['full_source'])}]"
    if gpu == 0:
        return "lora", "no GPU: 16-bit LoRA on a small base trains on a CPU"
    lora, qlora = memory["lora"].peak_gib, memory["qlora"].peak_gib
    if lora <= room:
        return "lora", f"16-bit LoRA needs {lora:g} GiB and fits {where}; it trains faster and merges exactly"
    if qlora <= room:
        return "qlora", f"16-bit LoRA needs {lora:g} GiB, more than {where}; 4-bit needs {qlora:g}"
    return "qlora", (
        f"even 4-bit needs {qlora:g} GiB, more than {where}: take a smaller base, shard over several GPUs, or rent "
        f"{memory['qlora'].smallest_gpu or 'several GPUs'}"
    )


def hyperparameters(facts: Facts, plan: Plan) -> dict[str, Choice]:
    """Starting values, each with its why. Keys are RunSpec's names where it has them."""
    tables = table("methods")
    base, objective, method = plan.base, plan.objective, plan.method
    assert base is not None
    rows = facts.get("examples")
    known = 1000 if rows is None else rows
    out: dict[str, Choice] = {}
    adapter = method in ("lora", "qlora")
    if adapter:
        r = step(tables["rank"][objective], known)
        out["r"] = Choice(value=r, why=source(tables["rank_source"][objective]))
        out["lora_alpha"] = Choice(
            value=r * tables["alpha_over_rank"], why="2r: a convention, it only rescales the rate"
        )
        out["target_modules"] = Choice(value="all-linear", why=f"attention alone is weaker [{source('lora_regret')}]")
    rates = tables["learning_rate"][objective]
    shown = method if method in rates else "lora"
    rate, why = rates[shown], [source(rates["source"][shown])]
    if objective == "sft" and method in ("full", "lora", "qlora"):
        for name, at in (("learning_rate_by_size", base.params_b), ("learning_rate_by_rows", known)):
            row = step(tables[name], at)
            if row["factor"] != 1.0:
                rate *= row["factor"]
                what = "size" if name.endswith("size") else "rows"
                why.append(f"x{row['factor']:g} for {what}: {source(row['source'])}")
    out["learning_rate"] = Choice(value=float(f"{rate:.1e}"), why="; ".join(why))
    epochs = step(tables["epochs"][objective], known)
    out["num_train_epochs"] = Choice(
        value=epochs,
        why=("rows unknown; " if rows is None else "")
        + source(tables["epochs_source"][objective])
        + "; early stopping",
    )
    batch = step(tables["effective_batch"]["adapter" if method != "full" else "full"], known)
    micro = min(batch, step(tables["micro_batch"], base.params_b))
    out["batch"] = Choice(
        value=f"{micro} x {batch // micro} accumulated = {batch}",
        why=source(tables["effective_batch_source"]) + ": under 32 for LoRA",
    )
    out["lr_scheduler_type"] = Choice(value="cosine", why="with warmup_steps 0.03 [community guides, QLoRA]")
    packing = objective == "cpt"
    out["packing"] = Choice(
        value=packing,
        why="raw text is cut into full blocks"
        if packing
        else "true only if validate_dataset shows p95 far below max_length",
    )
    out["precision"] = Choice(value="bf16", why="fp16 only on cards before Ampere (T4, V100)")
    return out


def samples(facts: Facts, plan: Plan) -> Samples:
    """Rows needed: the community guides' base x complexity x capability, and the least that was seen to help."""
    tables = table("methods")["samples"]
    assert plan.base is not None
    objective = plan.objective
    recommended = tables["recommended"].get(objective)
    if objective == "cpt":
        return Samples(
            minimum=0, recommended=0, at_hand=None, why="raw text: from about 10M tokens, better 100M+ [DAPT]"
        )
    if recommended is None:
        complexity = tables["complexity"][facts.get("complexity") or "medium"]
        recommended = int(tables["base"] * complexity * step(tables["capability"], plan.base.params_b))
    return Samples(
        minimum=tables["minimum"][objective],
        recommended=recommended,
        at_hand=facts.get("examples"),
        why=tables["source"][objective],
    )
