"""What an evaluation says: eval/report.json and the results of the verbs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Candidate = Literal["adapter", "merged", "model", "base"]
REPORTS = {  # (report, predictions) in eval/, by whether only the base was judged: its report replaces no tuned verdict
    False: ("report.json", "predictions.jsonl"),
    True: ("base_report.json", "base_predictions.jsonl"),
}


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Loss(Part):
    """Nats a trained token, token-weighted, over the reference answers only."""

    base: float
    tuned: float
    difference: float
    ci95: tuple[float, float]
    base_perplexity: float
    tuned_perplexity: float


class Contrast(Part):
    """A further metric, base against tuned, with its interval; it does not decide the verdict."""

    base: float
    tuned: float
    difference: float
    ci95: tuple[float, float]


class Side(Part):
    """How one model answered."""

    stop_rate: float = Field(description="Share of answers that ended by themselves")
    mean_answer_tokens: float
    repetition_rate: float = Field(description="Share of answers in which half of the 4-grams repeat")
    tokens_per_s: float | None = Field(description="Generated; None when all answers came from an earlier run")
    scores: dict[str, float] = Field(description="Figures over all rows that have no score a row, such as macro_f1")


class Sample(Part):
    """A row, before and after. Untrusted text of the dataset and the models, cut and cleaned."""

    row: int
    kind: Literal["gain", "regression", "same"]
    prompt: str
    reference: str
    base: str
    tuned: str
    base_score: float
    tuned_score: float


class EvalReport(Part):
    """Base against tuned on held-out rows; with candidate "base" nothing was trained: the zero-shot base (`base`)
    against the same base with examples in its prompt (`tuned`)."""

    run_id: str
    verdict: Literal["better", "worse", "not_distinguishable"]
    words: str = Field(description="The verdict with its figures, in a sentence")
    metric: str
    metric_reason: str
    n: int
    base: float
    tuned: float
    difference: float
    ci95: tuple[float, float] = Field(description="95 % interval of tuned - base, paired bootstrap")
    p_value: float
    test: str
    wins: int
    losses: int
    minimum_detectable_effect: float
    more_rows_to_settle: int | None
    loss: Loss
    also: dict[str, Contrast] = Field(description="Further metrics of the same answers")
    base_answers: Side
    tuned_answers: Side
    candidate: Candidate = Field(description="base: no tuned model was judged, only a few-shot prompt")
    judged: str = Field(default="", description="What the scores named `tuned` are of")
    compared_with: str = Field(description="What the scores named `base` are of")
    few_shot: int = Field(default=0, description="Training examples in the prompt of the few-shot side")
    few_shot_rows: list[int] = Field(default=[], description="Which: their lines in data/train.jsonl, from 0")
    compute_dtype: str
    device: str
    max_new_tokens: int
    rows_in_file: int
    rows_leaked: int = Field(description="Also in the training data, left out")
    rows_near_duplicate: int = Field(description="Nearly the same question as a training row; kept")
    predictions: str
    wall_s: float
    warnings: list[str]
    samples: list[Sample]
    next_step: str


class EvalStarted(Part):
    """An evaluation job. Its result: eval_result, or the file `report`."""

    run_id: str
    state: str
    attempt: int
    candidate: Candidate
    report: str
    next_step: str
