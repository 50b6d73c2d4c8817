"""A model folder that appears whole or not at all.

Weights are written into a hidden sibling folder; `config.json`, without which nothing takes a folder for a model, is
written last there; then the folder is renamed. A killed process leaves a hidden folder that does not load and that the
next merge removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from skill.errors import ConflictError, ResourceError

MARK = ".partial-"
SPARE_BYTES = 64 * 2**20  # left free on the disk beside the weights: tokenizer, reports, file system overhead


@contextlib.contextmanager
def staged(out: Path, nbytes: int, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, that becomes `out` when the block ends well and vanishes when it does not.

    Args:
        nbytes: what will be written; the disk is asked before.
        overwrite: replace an `out` that exists.

    Raises:
        ConflictError: `out` exists and must not be replaced.
        ResourceError: the disk is too small, before or while writing.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists() and not overwrite:
        raise ConflictError(f"{out} exists.", hint="Remove it, or merge into another folder.")
    sweep(out)
    free = shutil.disk_usage(out.parent).free
    if free < nbytes + SPARE_BYTES:
        raise ResourceError(
            f"{out.parent} has {free / 2**30:.1f} GiB free; this needs {(nbytes + SPARE_BYTES) / 2**30:.1f} GiB.",
            hint="Free disk space, for example old runs/*/checkpoints, and try again.",
        )
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}{MARK}", dir=out.parent))
    try:
        yield folder
        _sync(folder)
        os.chmod(folder, 0o755)
        _swap(folder, out)
        _sync(out.parent)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if error.errno is not None and os.strerror(error.errno) == os.strerror(28):  # ENOSPC
            raise ResourceError(
                f"The disk filled up while writing {out}; nothing of it was kept.",
                hint="Free disk space and try again.",
            ) from error
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def sweep(out: Path) -> None:
    """Remove what killed merges into `out` left behind."""
    for stale in out.parent.glob(f".{out.name}{MARK}*"):
        shutil.rmtree(stale, ignore_errors=True)


def _swap(folder: Path, out: Path) -> None:
    """Put `folder` in the place of `out`. A whole old version stays until the new one is there."""
    if not out.exists():
        os.rename(folder, out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}{MARK}", dir=out.parent))
    os.rename(out, old / "old")
    os.rename(folder, out)
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
