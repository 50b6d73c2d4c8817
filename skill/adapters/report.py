"""What a merge says of itself: merged/merge_report.json and the results of the verbs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Route = Literal["original", "dequantised"]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Thresholds(Part):
    """What a merge must keep to; they scale with the dtype the weights are stored in."""

    kl_mean_max: float = Field(description="nats a token")
    top1_agreement_min: float
    loss_change_max: float = Field(description="nats a token, merged against base+adapter")


class Verification(Part):
    """The merged model against base+adapter, on the run's own rows. KL and losses in nats a token."""

    verdict: Literal["verified", "not_verified"]
    reasons: list[str] = Field(description="What failed; empty when verified")
    rows: int
    positions: int = Field(description="Token positions compared")
    compute_dtype: str
    kl_mean: float
    kl_max: float
    top1_agreement: float
    max_logit_diff: float
    loss_base_adapter: float
    loss_merged: float
    greedy_equal: int
    greedy_compared: int
    thresholds: Thresholds
    checked: list[str] = Field(description="What else was compared and found equal")
    wall_s: float


class MergeReport(Part):
    run_id: str
    verdict: Literal["verified", "not_verified"]
    out: str
    method: str
    base: str
    route: Route
    dtype: str
    tensors: int
    tensors_changed: int
    head_untied: bool
    size_gib: float
    merge_s: float
    verification: Verification
    next_step: str


class MergeStarted(Part):
    """A merge job. Its result: merge_result, or merged/merge_report.json."""

    run_id: str
    state: str
    attempt: int
    route: Route
    dtype: str
    out: str
    next_step: str
