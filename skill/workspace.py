"""The one root that may be read and written, and where things lie in it.

Root: `TUNESMITH_WORKSPACE`, else the current folder. Extra folders that may be read (models, shared data):
`TUNESMITH_READ_DIRS`, separated like PATH. Cache (converted models, compiled forms): `TUNESMITH_CACHE`,
else `~/.cache/tunesmith`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from skill.errors import NotFound, SpecError, WorkspaceError, did_you_mean
from skill.spec import NAME_PATTERN, RunSpec, parse


def cache_dir() -> Path:
    """The cache folder, created on first use."""
    configured = os.environ.get("TUNESMITH_CACHE")
    path = Path(configured) if configured else Path.home() / ".cache" / "tunesmith"
    path.mkdir(parents=True, exist_ok=True)
    return path


@dataclass(frozen=True)
class RunDir:
    """A run folder and the names of what lies in it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def spec_file(self) -> Path:
        return self.path / "run.yaml"

    @property
    def script(self) -> Path:
        return self.path / "train.py"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def train_log(self) -> Path:
        return self.path / "train.log"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def merged(self) -> Path:
        return self.path / "merged"

    @property
    def evaluation(self) -> Path:
        return self.path / "eval"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    def spec(self) -> RunSpec:
        """The RunSpec of this run, read from run.yaml."""
        return read_spec(self.spec_file)


@dataclass(frozen=True)
class Workspace:
    root: Path
    read_dirs: tuple[Path, ...] = ()

    @classmethod
    def open(cls, root: str | Path | None = None) -> Workspace:
        """The workspace at `root`, at TUNESMITH_WORKSPACE, or at the current folder."""
        chosen = Path(root or os.environ.get("TUNESMITH_WORKSPACE") or Path.cwd()).expanduser()
        if not chosen.is_dir():
            raise WorkspaceError(f"The workspace {chosen} is not a folder.", hint=f"Create it: mkdir -p {chosen}")
        extra = os.environ.get("TUNESMITH_READ_DIRS", "")
        return cls(
            chosen.resolve(),
            tuple(Path(part).expanduser().resolve() for part in extra.split(os.pathsep) if part),
        )

    def read_path(self, text: str | Path, *, what: str = "file") -> Path:
        """An existing file or folder inside the workspace (or a read folder), symlinks resolved.

        Raises:
            WorkspaceError: it lies outside.
            NotFound: it does not exist; the nearest name beside it is given.
        """
        path = self._inside(text, (self.root, *self.read_dirs, cache_dir().resolve()))
        if not path.exists():
            near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise NotFound(f"No {what} at {str(text)!r} (workspace {self.root}).", hint=did_you_mean(path.name, near))
        return path

    def write_path(self, text: str | Path) -> Path:
        """A path inside the workspace that may be written; it need not exist."""
        return self._inside(text, (self.root,))

    def _inside(self, text: str | Path, roots: tuple[Path, ...]) -> Path:
        if "\0" in str(text):
            raise WorkspaceError("A path holds a NUL byte.", hint="Remove it.")
        path = (self.root / Path(text).expanduser()).resolve()
        if not any(path == root or path.is_relative_to(root) for root in roots):
            raise WorkspaceError(
                f"{str(text)!r} lies outside the workspace {self.root}.",
                hint="Copy it into the workspace, or start the server with TUNESMITH_READ_DIRS naming its folder.",
            )
        return path

    @property
    def runs_dir(self) -> Path:
        return self.root / "runs"

    def run(self, name: str) -> RunDir:
        """The run folder of a valid name; it need not exist."""
        if not re.fullmatch(NAME_PATTERN, name):
            raise SpecError(
                f"Run name {name[:80]!r} is not valid.", hint="Use a-z, 0-9 and '-', at most 63 characters."
            )
        return RunDir(self.runs_dir / name)

    def existing_run(self, name: str) -> RunDir:
        """The run folder of a run that was rendered before."""
        run = self.run(name)
        if not run.spec_file.is_file():
            raise NotFound(f"No run {name!r} in {self.runs_dir}.", hint=did_you_mean(name, self.run_names()))
        return run

    def run_names(self) -> list[str]:
        if not self.runs_dir.is_dir():
            return []
        return sorted(p.name for p in self.runs_dir.iterdir() if (p / "run.yaml").is_file())


def read_spec(path: Path) -> RunSpec:
    """RunSpec from a YAML file."""
    return parse(read_yaml(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, with a named error when it is not one."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not valid YAML: {error}", hint="Mend the line it names.") from error
    if not isinstance(data, dict):
        raise SpecError(f"{path} holds no mapping.", hint="Start from a recipe: tunesmith render --recipe sft-lora")
    return data


def write_spec(spec: RunSpec, path: Path) -> None:
    """run.yaml: the whole spec, defaults included, so that it means the same under a later version."""
    write_atomic(path, yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def write_atomic(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader or a crash never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
