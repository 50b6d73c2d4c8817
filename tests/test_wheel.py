"""The wheel, installed away from the checkout, carries all it needs: tools are listed, a script is rendered."""

import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A fresh environment with only the built wheel, and the dependencies of the one that runs the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, timeout=250)
    (wheel,) = folder.glob("tunesmith-*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    own = folder / "env" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(own), str(wheel)]
    subprocess.run(install, check=True, timeout=250)
    (own / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    return folder / "env" / "bin" / "python"


def clean_environment(workspace: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "TUNESMITH_WORKSPACE": str(workspace)}


def test_it_runs_from_the_wheel_not_from_the_checkout(python, tmp_path):
    code = "import skill, mcp_server, json; print(json.dumps([skill.__file__, mcp_server.__file__]))"
    out = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=clean_environment(tmp_path), capture_output=True, check=True, timeout=60
    )
    assert all(str(python.parents[1]) in path for path in json.loads(out.stdout))


@pytest.mark.anyio
async def test_tools_are_listed_and_a_script_is_rendered(python, tiny_model, ws):
    rows = [{"prompt": f"say {i}", "completion": f"it is {i}"} for i in range(40)]
    (ws.root / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    server = StdioServerParameters(
        command=str(python), args=["-m", "mcp_server"], env=clean_environment(ws.root), cwd=str(ws.root)
    )
    async with Client(server, read_timeout_seconds=120) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert {"recommend_approach", "estimate_vram", "validate_dataset", "render_training_script"} <= tools
        result = await client.call_tool(
            "render_training_script",
            {"run_name": "from-wheel", "model": tiny_model.id, "train_path": "train.jsonl", "recipe": "sft-lora"},
        )
    assert not result.is_error, result.content
    assert (ws.root / "runs" / "from-wheel" / "train.py").is_file()
