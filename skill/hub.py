"""The Hugging Face hub: what its local cache holds, whether it is in reach, and the small files of a model.

huggingface_hub is imported only to download; the cache layout read here is its documented one
(`models--OWNER--NAME/refs/REVISION`, `…/snapshots/COMMIT/`).
"""

from __future__ import annotations

import os
import re
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from skill.errors import ModelNotFound, ModelUnsupported

PROBE_SECONDS = 1.0  # a hub that does not answer within this is not in reach
PROBE_VALID_SECONDS = 300.0
# huggingface_hub.utils.validate_repo_id: letters, digits, '-', '_', '.'; at most 96 a part; no '--' or '..'
HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
SMALL_FILES = ["*.json", "*.jinja", "tokenizer.model", "*.txt"]


def offline() -> bool:
    """HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE, read at the time of the call."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


_probed: dict[str, tuple[float, bool]] = {}


def in_reach() -> bool:
    """Whether the hub answers within one second; the answer holds for five minutes. Never asks when offline is set."""
    if offline():
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    known = _probed.get(endpoint)
    if known and time.monotonic() - known[0] < PROBE_VALID_SECONDS:
        return known[1]
    answer: list[bool] = []
    # In a thread, because the name lookup of a dead network has no timeout of its own.
    probe = threading.Thread(target=lambda: answer.append(_answers(endpoint)), daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)
    _probed[endpoint] = (time.monotonic(), bool(answer and answer[0]))
    return _probed[endpoint][1]


def _answers(endpoint: str) -> bool:
    if not endpoint.startswith(("https://", "http://")):
        return False
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500 and error.code not in (403, 407)  # a proxy that refuses is not the hub
    except (OSError, ValueError):
        return False


def hub_cache() -> Path:
    """Where huggingface_hub keeps models (its documented environment variables, without its import)."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or user_cache / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def cached_models() -> list[str]:
    """Hub ids whose weights are in the cache."""
    repos = [repo for repo in hub_cache().glob("models--*") if any(repo.glob("snapshots/*/*.safetensors"))]
    return sorted(repo.name.removeprefix("models--").replace("--", "/") for repo in repos)


def cached_snapshot(hub_id: str, revision: str | None) -> Path | None:
    """The cached snapshot folder of a hub id that has a config.json, None when there is none."""
    wanted = revision or "main"
    if not re.fullmatch(r"[\w./-]{1,100}", wanted, re.ASCII) or ".." in wanted or wanted.startswith("/"):
        raise ModelNotFound(f"Revision {wanted[:80]!r} is not valid.", hint="Use a commit, tag or branch name.")
    repo = hub_cache() / ("models--" + hub_id.replace("/", "--"))
    reference = repo / "refs" / wanted
    commit = reference.read_text().strip() if reference.is_file() else wanted
    snapshot = repo / "snapshots" / commit
    return snapshot if (snapshot / "config.json").is_file() else None


def download_small_files(hub_id: str, revision: str | None) -> Path:
    """Config, tokenizer and template of a hub model (no weights), into the hub cache; the snapshot folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    at = f" at revision {revision!r}" if revision else ""
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=SMALL_FILES))
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{hub_id!r} is gated and this machine has no access.",
            hint=f"Accept its terms on the hub page of {hub_id}, then run: hf auth login",
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFound(
            f"The hub has no {hub_id!r}{at} that you can read.", hint="Check the name; if it is private: hf auth login"
        ) from error


def parameter_count(hub_id: str, revision: str) -> int | None:
    """Weights of a hub model, from the safetensors headers on the hub; None when they cannot be read now."""
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError

    try:
        return sum(get_safetensors_metadata(hub_id, revision=revision).parameter_count.values())
    except NotASafetensorsRepoError as error:
        raise ModelUnsupported(
            f"{hub_id!r} has pickled weights only; a pickle can run any code when opened.",
            hint="Choose a revision or a copy of the model with safetensors.",
        ) from error
    except (HfHubHTTPError, OSError):
        return None
