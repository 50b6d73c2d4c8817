"""render_run: a RunSpec becomes a run folder that a person can read, own and run without Tunesmith."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skill import __version__
from skill.data import Manifest, convert_dataset
from skill.errors import ConflictError, NotFound, ResourceError, ScriptError
from skill.models import ModelInfo, find_model
from skill.scripts.context import DISTRIBUTIONS, eval_steps, has_chat_rows, installed, script_context, total_steps
from skill.scripts.literals import environment
from skill.scripts.report import RenderedRun
from skill.scripts.verify import Verified, verify
from skill.spec import RunSpec
from skill.workspace import RunDir, Workspace, write_json, write_spec

TEMPLATES = {"sft": "train_sft.py.j2"}
HEAD_LINES = 40


def render_run(ws: Workspace, spec: RunSpec, *, overwrite: bool = False) -> RenderedRun:
    """Write runs/<name>/ (run.yaml, train.py, data/, provenance.json), checked before anything of it is visible.

    The same spec under the same name changes nothing, so that a script edited by hand stays edited.

    Args:
        overwrite: replace what was rendered under this name, also an edited script; never a run that was started.

    Raises:
        ConflictError: the name belongs to a different spec, or to a run that was started.
        ScriptError: the script does not pass its checks; all problems at once.
        DataError, ModelNotFound, ModelUnsupported, WorkspaceError: see convert_dataset and find_model.
        ResourceError: the disk is full.
    """
    run = ws.run(spec.name)
    if run.spec_file.is_file() and not _may_write(run, spec, overwrite=overwrite):
        return _answer(run, verify(run.script, _facts(run)["model"]["path"]), already_there=True)
    model = find_model(ws, spec.model.id, spec.model.revision)
    with _staging(ws) as folder:
        staged = RunDir(folder / spec.name)
        manifest = convert_dataset(ws, spec.data, staged.data, chat=model.has_chat_template, seed=spec.training.seed)
        staged.script.write_text(render_script(spec, model, staged.data, manifest), encoding="utf-8")
        verified = verify(staged.script, model.path)
        if verified.problems:
            raise ScriptError(
                "train.py does not pass its checks:\n- " + "\n- ".join(verified.problems),
                hint="Change the fields named there and render again.",
            )
        write_json(staged.path / "provenance.json", _provenance(spec, model, manifest, staged.script))
        write_spec(spec, staged.spec_file)
        _publish(staged.path, run)
    return _answer(run, verified, already_there=False)


def render_script(spec: RunSpec, model: ModelInfo, data: Path, manifest: Manifest) -> str:
    """The text of train.py for rows that lie in `data`."""
    context = script_context(
        spec, model, chat_rows=has_chat_rows(data), rows=manifest.train_rows, eval_rows=manifest.eval_rows
    )
    return environment().get_template(TEMPLATES[spec.objective]).render(context)


def _may_write(run: RunDir, spec: RunSpec, *, overwrite: bool) -> bool:
    """False when the very same run is there already; an error when a different one must not be replaced."""
    same = run.spec().fingerprint == spec.fingerprint
    if same and not overwrite and run.script.is_file():
        return False
    if _started(run):
        raise ConflictError(
            f"Run {run.name!r} was started already, so its script and data stay as they are.",
            hint="Render under another name, e.g. " + repr(_next_name(run)) + ".",
        )
    if not same and not overwrite:
        raise ConflictError(
            f"Run {run.name!r} exists with a different spec.",
            hint="Give overwrite=true to replace it (it was not started), or another name.",
        )
    return True


def _started(run: RunDir) -> bool:
    return (run.jobs / "train.json").exists() or run.metrics.exists() or run.checkpoints.exists()


def _next_name(run: RunDir) -> str:
    taken = {path.name for path in run.path.parent.iterdir()}
    return next(name for number in range(2, 10_000) if (name := f"{run.name[:57]}-{number}") not in taken)


@contextmanager
def _staging(ws: Workspace) -> Iterator[Path]:
    """A hidden folder beside the runs, so that the finished run can be moved into place in one step."""
    ws.runs_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".render-", dir=ws.runs_dir))
    try:
        yield folder
    except OSError as error:
        if error.errno is not None and type(error) is OSError:
            raise ResourceError(
                f"Cannot write into {ws.runs_dir}: {error.strerror}.", hint="Free space there, or mend its permissions."
            ) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(staged: Path, run: RunDir) -> None:
    """Move a finished folder into place; what was there before is gone only when the new one stands."""
    staged.chmod(0o755)
    old = staged.parent / "old"
    with suppress(FileNotFoundError):
        run.path.rename(old)
    try:
        staged.rename(run.path)
    except OSError:
        with suppress(OSError):
            old.rename(run.path)
        raise


def _provenance(spec: RunSpec, model: ModelInfo, manifest: Manifest, script: Path) -> dict[str, Any]:
    total = total_steps(spec, manifest.train_rows)
    return {
        "fingerprint": spec.fingerprint,
        "script_sha256": hashlib.sha256(script.read_bytes()).hexdigest(),
        "rendered_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "tunesmith": __version__,
        "versions": installed([*DISTRIBUTIONS, "bitsandbytes"]),
        "model": model.model_dump(mode="json"),
        "data": manifest.files,
        "rows_train": manifest.train_rows,
        "rows_eval": manifest.eval_rows,
        "rows_dropped": sum(manifest.rows_dropped.values()),
        "total_steps": total,
        "eval_steps": eval_steps(spec, total, manifest.eval_rows),
    }


def _facts(run: RunDir) -> dict[str, Any]:
    """provenance.json of a run."""
    try:
        return json.loads((run.path / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotFound(
            f"Run {run.name!r} is not whole: {error}", hint="Render it again with overwrite=true."
        ) from error


def _answer(run: RunDir, verified: Verified, *, already_there: bool) -> RenderedRun:
    """The report of a rendered folder, from what lies in it."""
    facts = _facts(run)
    text = run.script.read_text(encoding="utf-8")
    edited = hashlib.sha256(text.encode()).hexdigest() != facts["script_sha256"]
    checks = ["parses and lints", "every argument binds to the installed libraries", "config objects construct"]
    if verified.problems:
        checks = [f"problem: {problem}" for problem in verified.problems]
    elif verified.adapted_modules:
        checks.append("adapter fits the model's modules")
    if edited:
        checks.append("train.py was edited since it was rendered; it is kept as it is")
    share = None
    if verified.trainable_params and verified.total_params:
        share = round(100 * verified.trainable_params / verified.total_params, 3)
    return RenderedRun(
        run_id=run.name,
        run_dir=str(run.path),
        script=str(run.script),
        script_head="\n".join(text.splitlines()[:HEAD_LINES]),
        files=sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()),
        rows_train=facts["rows_train"],
        rows_eval=facts["rows_eval"],
        rows_dropped=facts["rows_dropped"],
        total_steps=facts["total_steps"],
        eval_steps=facts["eval_steps"],
        trainable_params=verified.trainable_params,
        trainable_percent=share,
        adapted_modules=verified.adapted_modules,
        checks=checks,
        already_there=already_there,
        run_by_hand=f"cd {run.path} && python train.py   (two steps first: python train.py --smoke)",
        next_step=f"Show {run.script} to the user, then call launch_training(run_id={run.name!r}): a preview first.",
    )
