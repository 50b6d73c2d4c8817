"""Where recipes, templates, references and examples lie: in the wheel beside this file, in a checkout one level up."""

from __future__ import annotations

from pathlib import Path

from skill.errors import NotFound

_PACKAGE = Path(__file__).resolve().parent


def asset(relative: str) -> Path:
    """Path of a shipped file or folder such as `recipes/sft-lora.yaml`, `templates` or `SKILL.md`."""
    for root in (_PACKAGE / "_assets", _PACKAGE.parent):
        if (root / relative).exists():
            return root / relative
    raise NotFound(
        f"The installation lacks {relative!r}.", hint="Reinstall it: pip install --force-reinstall tunesmith"
    )
