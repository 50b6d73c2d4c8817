"""The house rules: rooms import only from lower ones, and nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = [
    {"errors"},
    {"spec"},
    {"assets", "child"},
    {"workspace"},
    {"gguf", "hub", "model_folder"},
    {"models", "recipes"},
    {"environment", "memory", "data"},
    {"advise"},
    {"scripts"},
    {"runs"},
    {"inference"},
    {"adapters", "evaluation", "registry"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "pandas",
    "pyarrow",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
}


def rooms() -> set[str]:
    return {path.stem for path in (ROOT / "skill").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it they stand."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def test_every_room_has_a_layer():
    assert rooms() - {"__init__"} <= set(LEVEL), "put the new room into LAYERS"


def test_rooms_import_only_from_lower_ones():
    wrong = []
    for path in sorted((ROOT / "skill").rglob("*.py")):
        room = path.relative_to(ROOT / "skill").parts[0].removesuffix(".py")
        for name in imports(path):
            package, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if package in ("mcp", "mcp_server", "mcp_types"):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}: the engine knows nothing of MCP")
            elif package == "skill" and other in LEVEL and other != room and LEVEL[other] >= LEVEL.get(room, 0):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}: {other} is not below {room}")
    assert not wrong, "\n".join(wrong)


ROOMS = [
    "spec",
    "models",
    "environment",
    "advise",
    "memory",
    "data",
    "scripts",
    "runs",
    "adapters",
    "evaluation",
    "cli",
]


@pytest.mark.parametrize("module", [*(f"skill.{room}" for room in ROOMS), "mcp_server.server"])
def test_imports_stay_light(module):
    """torch alone takes seconds; the server must list its tools within 1.5."""
    code = "import importlib, json, sys; importlib.import_module(sys.argv[1]); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, module], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & (HEAVY | {"numpy"})


def test_help_imports_nothing_of_the_engine():
    code = (
        "import contextlib, json, sys\nfrom skill.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr): main(['--help'])\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = json.loads(done.stdout)
    assert "usage: tunesmith" in done.stderr
    assert not {"pydantic", "yaml", "skill.spec", "mcp"} & set(loaded)
