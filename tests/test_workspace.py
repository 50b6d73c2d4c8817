"""Nothing outside the root is read or written, whatever the path looks like."""

import os

import pytest

from skill.errors import NotFound, SpecError, WorkspaceError
from skill.spec import parse
from skill.workspace import Workspace, write_json, write_spec

SPEC = {"name": "r", "model": {"id": "m"}, "data": {"train": "t"}, "method": {"type": "full"}}


@pytest.fixture
def ws(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    return Workspace.open(tmp_path / "work")


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../secret", "link/passwd", "a\0b"])
def test_paths_outside_are_refused(ws, path):
    (ws.root / "link").symlink_to("/etc")
    for check in (ws.read_path, ws.write_path):
        with pytest.raises(WorkspaceError):
            check(path)


def test_a_missing_file_names_the_nearest(ws):
    (ws.root / "train.jsonl").touch()
    with pytest.raises(NotFound, match=r"Did you mean 'train.jsonl'"):
        ws.read_path("trian.jsonl")


def test_read_dirs_are_read_only(ws, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x").touch()
    monkeypatch.setenv("TUNESMITH_READ_DIRS", str(other))
    opened = Workspace.open(ws.root)
    assert opened.read_path(other / "x") == other / "x"
    with pytest.raises(WorkspaceError):
        opened.write_path(other / "y")


@pytest.mark.parametrize("name", ["", "../x", "A", "a b", "x" * 64, '"; import os', "a\n"])
def test_run_names_are_plain(ws, name):
    with pytest.raises(SpecError):
        ws.run(name)


def test_runs_are_found_by_their_run_yaml(ws):
    assert ws.run_names() == []
    write_spec(parse(SPEC), ws.run("r").spec_file)
    assert ws.run_names() == ["r"]
    assert ws.existing_run("r").spec() == parse(SPEC)
    with pytest.raises(NotFound, match=r"(Did you mean|Known)"):
        ws.existing_run("rr")


def test_a_failed_write_leaves_the_old_file(ws):
    path = ws.root / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Circular"):
        loop = {}
        loop["self"] = loop
        write_json(path, loop)
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert os.listdir(ws.root) == ["x.json"]
