"""Fixtures shared by all tests: an empty workspace, a tiny random model, the real embedded one, public data."""

from __future__ import annotations

import contextlib
import os

# Before any library reads them: tests never ask a hub, and two busy-waiting thread pools would only disturb each other.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TQDM_DISABLE", "1")

from pathlib import Path

import pytest

from skill.models import EMBEDDED, ModelInfo, find_model
from skill.workspace import Workspace, cache_dir


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace that is also what TUNESMITH_WORKSPACE names."""
    root = tmp_path / "ws"
    root.mkdir()
    monkeypatch.setenv("TUNESMITH_WORKSPACE", str(root))
    monkeypatch.delenv("TUNESMITH_READ_DIRS", raising=False)
    return Workspace.open(root)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    """The embedded SmolLM2-135M-Instruct, converted once into the user's normal cache."""
    return find_model(Workspace.open(tmp_path_factory.mktemp("ws")), EMBEDDED)


@pytest.fixture(scope="session")
def tiny_model(smollm2: ModelInfo) -> ModelInfo:
    """A random Llama of 1.6 M parameters (2 layers, hidden 32) with SmolLM2's tokenizer and template, for mechanics.

    It lies in the cache, so that every workspace may read it; its `id` is the absolute path.
    """
    folder = cache_dir().resolve() / "models" / "test-tiny-llama"
    if not (folder / "model.safetensors").is_file():
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49152,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        )
        work = folder.with_name(f".{folder.name}.{os.getpid()}")
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(work)
        AutoTokenizer.from_pretrained(str(smollm2.path)).save_pretrained(work)
        with contextlib.suppress(OSError):  # another test process was first
            work.rename(folder)
    return find_model(Workspace.open(folder.parent), str(folder))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of public datasets beside a developer checkout (or named by TUNESMITH_SHARED)."""
    configured = os.environ.get("TUNESMITH_SHARED")
    folder = Path(configured) if configured else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data" / "manifest.json").is_file():
        pytest.skip("no public datasets here (TUNESMITH_SHARED names their folder)")
    return folder
