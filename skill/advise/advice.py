"""What recommend_approach returns. Short by design: under 2,000 tokens as JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from skill.memory import Span

Approach = Literal[
    "prompting",
    "rag",
    "fine_tuning",
    "hybrid",
    "preference_tuning",
    "distillation",
    "continued_pretraining",
]
Objective = Literal["sft", "dpo", "kto", "grpo", "cpt"]
MethodName = Literal["full", "lora", "qlora", "prefix", "prompt_tuning"]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Question(Part):
    ask: str
    would_change: dict[str, str] = Field(description="Answer -> the verdict it would lead to")


class Call(Part):
    """A tool call that can be made as it stands."""

    tool: str
    arguments: dict[str, Any]


class CheaperFirst(Part):
    """The cheaper alternative, and how to measure it before training anything."""

    what: str
    call: Call | None = Field(default=None, description="Measures it, once the run is rendered")


class Choice(Part):
    value: Any
    why: str


class Hardware(Part):
    method: MethodName
    peak_gib: float = Field(description="Process peak at micro-batch 1, 1,024 tokens, checkpointing; estimate_vram")
    low_gib: float
    high_gib: float
    smallest_gpu: str | None = Field(description="Smallest single GPU that it fits; None: several are needed")
    fits_yours: bool | None = None
    hours: Span | None = Field(None, description="On smallest_gpu, for hours_for")
    hours_for: str | None = None


class Samples(Part):
    minimum: int
    recommended: int
    at_hand: int | None
    why: str


class TuningPlan(Part):
    objective: Objective
    objective_why: str
    method: MethodName
    method_why: str
    base_model: str
    hyperparameters: dict[str, Choice]
    samples: Samples
    hardware: list[Hardware]
    ladder: list[str]
    forgetting_guard: list[str]
    evaluation: list[str]
    risks: list[str]
    render: Call | None = Field(description="Ready call, checked against RunSpec; None: no recipe for it yet")
    render_note: str | None = None


class Advice(Part):
    verdict: Approach
    confidence: Literal["low", "medium", "high"]
    scores: dict[str, float] = Field(description="0..1 by approach, each for itself, best first")
    understood: dict[str, str] = Field(description="Facts used, and where each comes from")
    reasons_for: list[str]
    reasons_against: list[str]
    reverse_when: list[str]
    questions: list[Question] = Field(description="At most 3 open facts, each of which would change the verdict")
    cheaper_first: CheaperFirst | None
    do: list[str] = Field(description="Steps of the part that is not training")
    tuning: TuningPlan | None
    sources_disagree: list[str]
    next_step: str
