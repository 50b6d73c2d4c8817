"""What validate_dataset and convert_dataset return."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["error", "warning", "info"]
Verdict = Literal["ready", "usable_with_warnings", "not_usable"]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Finding(Part):
    """One kind of fault: its stable code, how many rows have it, the first of them, and what to do."""

    code: str
    severity: Severity
    count: int = Field(description="Rows that have it; 0 for a fault of the whole dataset")
    rows: list[int] = Field(description="The first five rows, 0-based, in file order")
    detail: str = Field("", description="What was seen in the first row, with its line where the file has lines")
    fix: str


class TokenReport(Part):
    """Token counts with the model's own tokenizer and chat template; rows longer than max_length included."""

    total: int
    trained: int
    trained_share: float
    longest: int
    p50: int
    p95: int
    max_length: int
    over_max_length: int
    recommended_max_length: int
    stop_token: str | None
    stop_token_trained: bool


class DatasetReport(Part):
    path: str
    format: str
    conversion: str = Field(description="How a row becomes prompt and completion")
    rows: int
    sampled: bool = Field(False, description="True when only the first `sample` rows were read")
    examples: int = Field(description="Training examples: one an assistant turn")
    usable_rows: int
    findings: list[Finding]
    tokens: TokenReport | None
    preview: list[str] = Field(description="⟦trained⟧ and context of the first rows, cut and escaped")
    verdict: Verdict
    next_step: str


class SourceFile(Part):
    path: str
    sha256: str
    bytes: int


class Manifest(Part):
    """What convert_dataset wrote, and why each row that is missing is missing."""

    sources: list[SourceFile]
    format: str
    conversion: str
    rows_read: int
    rows_kept: int
    rows_dropped: dict[str, int]
    first_dropped: dict[str, list[int]] = Field(description="Up to 20 row numbers a reason, 0-based")
    train_rows: int = Field(description="Lines of train.jsonl: one an assistant turn")
    eval_rows: int
    eval_source: Literal["file", "split", "none"]
    seed: int
    files: dict[str, str] = Field(description="Written file -> sha256")
