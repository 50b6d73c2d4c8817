"""recommend_approach itself: the verdict, argued, with the plan that follows from it."""

from __future__ import annotations

import re
from typing import Any, get_args

from skill.advise.advice import Advice, Call, CheaperFirst, Question, TuningPlan
from skill.advise.evidence import Reading
from skill.advise.look import look
from skill.advise.method import Plan, choose, hyperparameters, samples, timed
from skill.advise.query import ApproachQuery
from skill.advise.tables import holds, table
from skill.advise.verdict import Decision, decide, gather, reversals, turning_answers
from skill.recipes import recipe_names, resolve
from skill.spec import RunSpec
from skill.workspace import Workspace

TRAINED = ("fine_tuning", "hybrid", "preference_tuning", "distillation", "continued_pretraining")
Facts = dict[str, Any]

_SHOWN = (
    *("examples", "raw_mtokens", "knowledge_update", "needs_format", "needs_tone", "needs_domain_knowledge"),
    *(
        "complexity",
        "latency_ms",
        "budget_usd_month",
        "gpu_gib",
        "model_params_b",
        "preferences",
        "verifiable",
        "teacher",
    ),
)
_DULL = re.compile(
    r"^(?:an?|the|of|to|in|on|for|and|or|our|we|i|my|is|are|be|with|that|this|it|want|have|need|from|as|by|at)$"
)


def recommend_approach(ws: Workspace, query: ApproachQuery) -> Advice:
    """Whether to prompt, retrieve or train, why, what would change that, and for training a plan that can be rendered.

    Deterministic. Facts of the query win over what a dataset shows, which wins over what the task's words say.

    Raises:
        WorkspaceError, NotFound, DataError: dataset_path cannot be looked at.
    """
    facts, reading = gather(query)
    origin = {name: f'"{words.strip()[:60]}"' for name, words in reading.quotes.items()}
    if query.dataset_path:
        seen = look(ws.read_path(query.dataset_path, what="dataset"))
        for name, value in seen.items():
            if name == "examples" and query.examples is not None:
                continue
            facts[name] = value
            origin[name] = "the dataset"
    decision = decide(facts)
    plan = choose(ws, facts, decision.verdict) if decision.verdict in TRAINED else None
    tuning = _tuning(ws, facts, plan, decision.verdict, query) if plan else None
    turning = turning_answers(facts, decision)
    questions: dict[str, dict[str, str]] = {}
    for _, ask, answer, other in turning:
        questions.setdefault(ask, {})[answer] = other
    pro, contra = _reasons(decision)
    shown = {**facts, "verdict": decision.verdict}
    if plan and plan.base:
        shown |= {"objective": plan.objective, "method": plan.method, "params_b": plan.base.params_b}
    return Advice(
        verdict=decision.verdict,  # type: ignore[arg-type]
        confidence="high" if decision.margin >= 2 else "medium" if decision.margin >= 0.8 else "low",
        scores=decision.scores,
        understood=_understood(query, facts, reading, origin),
        reasons_for=pro,
        reasons_against=contra,
        reverse_when=[f"{change} -> {other}" for change, other in reversals(facts, decision)][:3]
        or [f"{answer} to {ask!r} -> {other}" for _, ask, answer, other in turning[:2]],
        questions=[Question(ask=ask, would_change=answers) for ask, answers in list(questions.items())[:3]],
        cheaper_first=_cheaper(decision.verdict, tuning),
        do=table("methods")["instead"].get(decision.verdict, []),
        tuning=tuning,
        sources_disagree=[r["say"] for r in table("methods")["disagreements"] if holds(r["when"], shown)][:2]
        if plan
        else [],
        next_step=_next_step(decision.verdict, tuning, query),
    )


def _reasons(decision: Decision) -> tuple[list[str], list[str]]:
    """The strongest rules for and against the verdict, with their sources; bans of better-scoring approaches."""
    parts = {
        "fine_tuning": ("fine_tuning", "behaviour"),
        "rag": ("rag", "knowledge"),
        "hybrid": ("knowledge", "behaviour", "hybrid"),
        "distillation": ("distillation", "behaviour", "fine_tuning"),
    }.get(decision.verdict, (decision.verdict,))
    weighed = [(sum(rule.add.get(part, 0.0) for part in parts), rule) for rule in decision.fired]
    weighed.sort(key=lambda pair: -abs(pair[0]))
    pro = [f"{rule.because} [{rule.source}]" for points, rule in weighed if points > 0]
    contra = [f"{rule.because} [{rule.source}]" for points, rule in weighed if points < 0]
    for name, why in decision.banned.items():
        if decision.raw[name] > decision.raw[decision.verdict]:
            pro.insert(0, f"not {name}: {why}")
    if not pro:
        pro = ["nothing said so far speaks for more than a good prompt; it is the cheapest thing to try"]
    best = next((n for n in decision.scores if n != decision.verdict and n not in decision.banned), None)
    if best and not contra:
        rivals = [rule.because for rule in decision.fired if rule.add.get(best, 0) > 0]
        if rivals:
            contra = [f"{best} is next: {rivals[0]}"]
    return pro[:4], contra[:3]


def _understood(query: ApproachQuery, facts: Facts, reading: Reading, origin: dict[str, str]) -> dict[str, str]:
    """Facts in use with where they come from. Signals are quoted from the task, so that a misreading shows."""
    words = {"needs_format": "format", "needs_tone": "tone"}
    stated = query.model_dump(exclude_none=True)
    stated |= {"preferences": stated.get("has_preferences"), "verifiable": stated.get("verifiable_reward")}
    stated |= {"teacher": stated.get("teacher_model")}
    out = {}
    for name in _SHOWN:
        if facts.get(name) is None:
            continue
        value = f"{facts[name]:g}" if isinstance(facts[name], float) else str(facts[name])
        told = stated.get(name) is not None
        where = (
            "stated"
            if told
            else origin.get(name)
            or origin.get(words.get(name, ""))
            or origin.get({"paired": "pairs", "unpaired": "thumbs"}.get(str(facts[name]), ""), "the task")
        )
        out[name] = f"{value} ({where})"
        if told and name in reading.facts and reading.facts[name] != facts[name]:
            out[name] += f"; the words say {origin[name]}"
    return out


def _tuning(ws: Workspace, facts: Facts, plan: Plan, verdict: str, query: ApproachQuery) -> TuningPlan:
    assert plan.base is not None
    tables = table("methods")
    shown = {**facts, "verdict": verdict, "objective": plan.objective, "method": plan.method}
    shown |= {"rows": facts.get("examples"), "params_b": plan.base.params_b}

    def said(name: str, most: int) -> list[str]:
        return [row["say"] for row in tables[name] if holds(row["when"], shown)][:most]

    values = hyperparameters(facts, plan)
    render, note = _render(plan, values, query)
    own = plan.memory.get(plan.method)
    options = [own] if own else []
    options += [h for name, h in plan.memory.items() if name != plan.method][: 2 if own else 1]
    if plan.objective in ("sft", "cpt"):  # others make several passes a row, or generate
        options = [timed(ws, plan.base, option, facts, values["num_train_epochs"].value) for option in options]
    return TuningPlan(
        objective=plan.objective,  # type: ignore[arg-type]
        objective_why=plan.objective_why,
        method=plan.method,  # type: ignore[arg-type]
        method_why=plan.method_why,
        base_model=plan.base.say,
        hyperparameters=values,
        samples=samples(facts, plan),
        hardware=options,
        ladder=[line.format(method=plan.method) for line in tables["ladder"]],
        forgetting_guard=said("forgetting", 2),
        evaluation=said("evaluation", 3),
        risks=said("risks", 3),
        render=render,
        render_note=note,
    )


def _render(plan: Plan, values: dict[str, Any], query: ApproachQuery) -> tuple[Call | None, str | None]:
    """The render_training_script call, proved by resolving it to a RunSpec; or why there is none yet."""
    assert plan.base is not None
    recipe = f"{plan.objective}-{plan.method}"
    if plan.objective not in get_args(RunSpec.model_fields["objective"].annotation) or recipe not in recipe_names():
        have = ", ".join(recipe_names())
        return None, f"No recipe {recipe!r} yet (have: {have}). The settings above are TRL's and PEFT's own names."
    micro, _, rest = str(values["batch"].value).partition(" x ")
    overrides = [f"training.gradient_accumulation_steps={rest.split(' ')[0]}"]
    if plan.base.params_b >= 1:
        overrides.append("training.activation_checkpointing=true")
    if "lora_alpha" in values:
        overrides.append(f"method.lora_alpha={values['lora_alpha'].value}")
    arguments: dict[str, Any] = {
        "run_name": run_name(query.task),
        "model": query.model or plan.base.memory_model,
        "train_path": query.dataset_path or "data/train.jsonl",
        "recipe": recipe,
        "learning_rate": values["learning_rate"].value,
        "epochs": values["num_train_epochs"].value,
        "batch_size": int(micro),
    }
    if "r" in values:
        arguments["lora_rank"] = values["r"].value
    arguments["overrides"] = overrides
    resolve(
        recipe,
        {
            "name": arguments["run_name"],
            "model": {"id": arguments["model"]},
            "data": {"train": arguments["train_path"]},
            "method": {"r": arguments.get("lora_rank")},
            "training": {
                "learning_rate": arguments["learning_rate"],
                "num_train_epochs": arguments["epochs"],
                "per_device_train_batch_size": arguments["batch_size"],
            },
        },
        overrides,
    )
    missing = [name for name, given in (("model", query.model), ("train_path", query.dataset_path)) if not given]
    return Call(tool="render_training_script", arguments=arguments), (
        f"Placeholders to replace: {', '.join(missing)}." if missing else None
    )


def run_name(task: str) -> str:
    """A valid run name from the first telling words of a task."""
    words = [word for word in re.findall(r"[a-z0-9]+", task.lower()) if not _DULL.match(word)]
    return "-".join(words[:4])[:40].strip("-") or "fine-tune"


def _cheaper(verdict: str, tuning: TuningPlan | None) -> CheaperFirst | None:
    if verdict == "prompting":
        return None
    if tuning is None:
        return CheaperFirst(
            what="Paste the right passage into the prompt by hand for 20 questions: if that answers them, "
            "only retrieval is missing; if all sources fit the context window, no index is needed."
        )
    if tuning.render is None:
        return CheaperFirst(
            what="Score the untuned model with a few-shot prompt on 50-100 held-out rows first; if that meets the "
            "target, stop."
        )
    arguments = {"run_id": tuning.render.arguments["run_name"], "candidate": "base", "few_shot": 4}
    return CheaperFirst(
        what="A few-shot prompt on the untuned model. After tuning.render and before training, this call scores the "
        "base with and without 4 training examples on the held-out rows; if that meets the target, stop.",
        call=Call(tool="run_eval", arguments=arguments),
    )


def _next_step(verdict: str, tuning: TuningPlan | None, query: ApproachQuery) -> str:
    if tuning is None:
        how = "prompt" if verdict == "prompting" else "retrieve"
        return f"Do not train yet: {how} as in `do`. Answer the questions and call recommend_approach again to refine."
    if tuning.render is None:
        return "Gather the data, measure the few-shot baseline, and use the settings in `tuning` with TRL directly."
    if not query.dataset_path:
        return "Call validate_dataset(dataset_path=...) on your rows, then recommend_approach again with dataset_path."
    check = f"validate_dataset(dataset_path={query.dataset_path!r})"
    return f"Call {check}, then the calls in tuning.render and in cheaper_first."
