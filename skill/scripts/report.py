"""What render_run answers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RenderedRun(BaseModel):
    """A run folder that was written and checked; nothing has been started."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    run_dir: str
    script: str = Field(description="Path of train.py; show it to the person who owns the run")
    script_head: str = Field(description="Its first lines")
    files: list[str] = Field(description="Files of the run folder, relative to it")
    rows_train: int
    rows_eval: int
    rows_dropped: int = Field(description="Rows of the source that cannot be trained on; reasons in data/manifest.json")
    total_steps: int | None = Field(description="Optimizer steps on one device; None with packing")
    eval_steps: int | None = Field(description="Optimizer steps between evaluations; None without held-out rows")
    trainable_params: int | None = Field(description="None when the model's config is only on the hub")
    trainable_percent: float | None
    adapted_modules: list[str] = Field(description="Kinds of module that an adapter was put on")
    checks: list[str] = Field(description="What was checked before this was offered")
    already_there: bool = Field(description="The same run was rendered before; nothing was changed")
    run_by_hand: str
    next_step: str
