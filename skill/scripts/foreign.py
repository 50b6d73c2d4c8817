"""A script that someone else wrote, read but never run: `python -m skill.scripts.foreign SCRIPT`.

Imports the libraries the script names (not the script), and prints its findings as a JSON list.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skill.errors import did_you_mean
from skill.scripts.binding import OWNERS, Finding, check_calls
from skill.scripts.compat import MODULES_GONE, NAMES_GONE
from skill.scripts.habits import habits

WELL_KNOWN = ("trl", "peft", "transformers", "datasets")  # where a capitalised name that nobody imported is looked up
NOT_FOUND = object()


def inspect_script(text: str) -> list[Finding]:
    """Everything wrong with a script that can be seen without running it, in order of lines."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        return [Finding(getattr(error, "lineno", None) or 1, f"No Python: {error.args[0]}.", "Mend the syntax.")]
    names, found = imported(tree)
    found += undefined(tree, names)
    found += check_calls(tree, names)
    found += habits(tree, names)
    return sorted(set(found))


def imported(tree: ast.Module) -> tuple[dict[str, Any], list[Finding]]:
    """What the imported names of the libraries stand for, and the imports that fail."""
    names: dict[str, Any] = {}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = _module(alias.name)
                if module is NOT_FOUND:
                    found += _gone(node.lineno, alias.name)
                elif module is not None:
                    top = alias.name if alias.asname else alias.name.partition(".")[0]
                    names[alias.asname or top] = _module(top)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            module = _module(node.module)
            if module is NOT_FOUND:
                found += _gone(node.lineno, node.module)
                continue
            for alias in node.names if module is not None else ():
                value = _member(module, alias.name)
                if value is NOT_FOUND:
                    found.append(_missing(node.lineno, node.module, alias.name, module))
                else:
                    names[alias.asname or alias.name] = value
    return names, found


def _module(name: str) -> Any:
    """A library module; None for modules that are not checked, NOT_FOUND for one that cannot be imported."""
    top = name.partition(".")[0]
    if name in MODULES_GONE or top in MODULES_GONE:
        return NOT_FOUND
    if top not in OWNERS:
        return None
    try:
        return importlib.import_module(name)
    except Exception:  # an optional dependency of the library is missing, or the module is gone
        return NOT_FOUND


def _member(module: Any, name: str) -> Any:
    if hasattr(module, name):
        return getattr(module, name)
    submodule = _module(f"{module.__name__}.{name}")
    return NOT_FOUND if submodule is None else submodule


def _gone(line: int, module: str) -> list[Finding]:
    fix = MODULES_GONE.get(module) or MODULES_GONE.get(module.partition(".")[0], "Remove the import.")
    return [Finding(line, f"There is no module {module!r} any more, or it does not import here.", fix)]


def _missing(line: int, module: str, name: str, owner: Any) -> Finding:
    fix = NAMES_GONE.get((module.partition(".")[0], name)) or did_you_mean(name, _near(owner, name))
    return Finding(line, f"{module} has no {name!r}.", fix)


def _near(owner: Any, name: str) -> list[str]:
    return [other for other in dir(owner) if other[:1] == name[:1]] or dir(owner)


def undefined(tree: ast.Module, names: dict[str, Any]) -> list[Finding]:
    """Names that are used but nowhere imported or bound. Those of well-known classes are looked up all the same."""
    bound = set(_bindings(tree)) | set(dir(builtins)) | {"__file__", "__name__", "__doc__"}
    used: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in bound:
            used.setdefault(node.id, node.lineno)
    found = []
    for name, line in used.items():
        fix = "Import or define it."
        for package in WELL_KNOWN if name[:1].isupper() else ():
            if (package, name) in NAMES_GONE:
                fix = NAMES_GONE[package, name]
                break
            if hasattr(importlib.import_module(package), name):
                names[name] = getattr(importlib.import_module(package), name)
                fix = f"Add: from {package} import {name}"
                break
        found.append(Finding(line, f"{name!r} is used but never imported or defined.", fix))
    return found


def _bindings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    print(json.dumps([finding._asdict() for finding in inspect_script(Path(sys.argv[1]).read_text(encoding="utf-8"))]))
