"""The files that clients read at the root of the repository: one version, commands that exist, one manual for all."""

from __future__ import annotations

import json
import re
import struct
import tomllib
from pathlib import Path

from skill import __version__

ROOT = Path(__file__).resolve().parent.parent
FILES = [".claude-plugin/plugin.json", ".claude-plugin/marketplace.json", "gemini-extension.json", ".mcp.json"]


def load(name: str) -> dict:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def test_one_name_and_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plugin, market, gemini = (load(name) for name in FILES[:3])
    front = (ROOT / "SKILL.md").read_text(encoding="utf-8").split("---")[1]
    versions = {
        project["version"],
        plugin["version"],
        market["plugins"][0]["version"],
        gemini["version"],
        re.search(r'version: "(.+)"', front)[1],  # type: ignore[index]
    }
    assert versions == {__version__}
    assert {plugin["name"], market["plugins"][0]["name"], gemini["name"], project["name"]} == {"tunesmith"}
    assert (ROOT / gemini["contextFileName"]).is_file()


def test_every_server_command_is_a_script_of_the_package():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    for name in ("gemini-extension.json", ".mcp.json"):
        for server in load(name)["mcpServers"].values():
            assert server["command"] in scripts


def test_plugin_finds_the_skill_at_the_root():
    for folder in load(".claude-plugin/plugin.json")["skills"]:
        assert (ROOT / folder / "SKILL.md").is_file()


def test_icon_is_a_square_png_of_a_legal_size():
    head = (ROOT / ".claude-plugin" / "icon.png").read_bytes()
    width, height = struct.unpack(">II", head[16:24])
    assert head.startswith(b"\x89PNG") and width == height and 512 <= width <= 2048 and len(head) < 2_000_000
