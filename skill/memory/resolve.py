"""From a model's name to its Shape, without network where possible: local config.json, catalogue, then skill.models."""

from __future__ import annotations

import json
from pathlib import Path

from skill.errors import ModelNotFound, ModelUnsupported, did_you_mean
from skill.memory.shapes import Shape, catalogue, from_catalogue, from_config
from skill.workspace import Workspace

EMBEDDED = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}


def resolve_shape(ws: Workspace, model: str, revision: str | None = None) -> Shape:
    """Shape of a local folder, an embedded name, a catalogue id or whatever skill.models finds.

    Raises:
        ModelNotFound: nowhere; the nearest catalogue name is given.
        ModelUnsupported: a config.json that describes no decoder.
    """
    shape = from_catalogue(EMBEDDED.get(model, model)) if revision is None else None
    local = ws.root / model
    if shape is not None and not local.is_dir():
        return shape
    if local.is_dir() or Path(model).is_absolute():
        folder = ws.read_path(model, what="model folder")
        config = folder / "config.json" if folder.is_dir() else None
        if config is not None and config.is_file():
            return _shape(json.loads(config.read_text(encoding="utf-8")), model)
    try:
        from skill.models import find_model, model_config
    except ImportError:
        raise _missing(model) from None
    try:
        info = find_model(ws, model, revision, convert=False)
    except ModelNotFound as error:
        raise _missing(model, str(error)) from error
    return _shape(model_config(info), model)


def _shape(config: dict, model: str) -> Shape:
    try:
        return from_config(config, source=f"config.json of {model}")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnsupported(
            f"{model!r}: its config.json describes no decoder language model ({error}).",
            hint="Estimates are for causal language models; choose one with a config.json of that kind.",
        ) from error


def _missing(model: str, why: str = "") -> ModelNotFound:
    near = did_you_mean(model, catalogue())
    hint = near if near.startswith("Did") else "Give a local folder with config.json, or a hub id of the catalogue."
    return ModelNotFound(f"No shape of model {model[:120]!r} at hand. {why}".strip(), hint=hint)
