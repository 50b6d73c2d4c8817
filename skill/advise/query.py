"""What is asked: a task in words and the facts that are known about it. Everything but the task may be unknown."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from skill.errors import SpecError, did_you_mean

Need = Literal["format", "tone", "domain_knowledge"]
Signal = Literal["preferences", "verifiable_reward", "private_data", "teacher_model"]
Cadence = Literal["never", "yearly", "monthly", "weekly", "daily", "hourly"]
Complexity = Literal["low", "medium", "high"]


class ApproachQuery(BaseModel):
    """A use case. None means unknown: the advice then says which answer would change it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    task: str = Field(min_length=1, max_length=20_000, description="What the model shall do, in words")
    examples: int | None = Field(None, ge=0, description="Good input-output examples at hand")
    dataset_path: str | None = Field(None, max_length=1000, description="Their file; it is counted and looked at")
    knowledge_update: Cadence | None = Field(None, description="How often the facts in the answers change")
    needs_format: bool | None = Field(None, description="A fixed output format every time")
    needs_tone: bool | None = Field(None, description="A tone or style to be held")
    needs_domain_knowledge: bool | None = Field(None, description="Facts the base model does not know")
    complexity: Complexity | None = None
    latency_ms: float | None = Field(None, gt=0, description="Time allowed for an answer")
    budget_usd_month: float | None = Field(None, ge=0)
    gpu_gib: float | None = Field(None, ge=0, description="GPU memory for training, all cards together; 0 = none")
    model: str | None = Field(None, max_length=400, description="Base model, if chosen")
    model_params_b: float | None = Field(None, gt=0, description="Its parameters in billions")
    has_preferences: bool | None = Field(None, description="Judgements on answers: pairs, or good/bad")
    verifiable_reward: bool | None = Field(None, description="A program can check answers")
    private_data: bool | None = Field(None, description="Data may not leave the premises")
    teacher_model: bool | None = Field(None, description="A stronger model's answers may be used for training")

    @classmethod
    def build(cls, **facts: Any) -> ApproachQuery:
        """The query, with every problem named at once.

        Raises:
            SpecError: unknown names or values out of range.
        """
        try:
            return cls(**facts)
        except ValidationError as error:
            lines = []
            for item in error.errors(include_url=False):
                name = ".".join(str(part) for part in item["loc"])
                if item["type"] == "extra_forbidden":
                    lines.append(f"{name}: unknown. {did_you_mean(name, cls.model_fields)}")
                else:
                    lines.append(f"{name}: {item['msg']}; got {str(item.get('input'))[:60]!r}")
            raise SpecError(
                "The question has problems:\n- " + "\n- ".join(lines), hint="Mend them and ask again."
            ) from None

    @classmethod
    def from_signals(
        cls, task: str, *, needs: list[Need] | None = None, signals: list[Signal] | None = None, **facts: Any
    ) -> ApproachQuery:
        """From the flat arguments of the tool. What a list does not name stays unknown: people list what they have."""
        if needs is not None:
            facts |= {f"needs_{name}": True for name in needs}
        if signals is not None:
            named = {"preferences": "has_preferences"}
            facts |= {named.get(name, name): True for name in signals}
        return cls.build(task=task, **facts)
