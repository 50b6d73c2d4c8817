"""Texts point only at what exists: tools, arguments, files, verbs, options; and they keep their budgets."""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_server.app import slim
from mcp_server.prompts import PLAN
from mcp_server.server import INSTRUCTIONS
from mcp_server.tools import TOOLS, all_tools
from skill.cli import build_parser
from skill.recipes import recipe_names

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "SKILL.md", *sorted((ROOT / "references").glob("*.md"))]
NAMES = [function.__name__ for function, _, _ in TOOLS]
ARGUMENTS = {tool.name: set(tool.parameters["properties"]) for tool in all_tools()}
VERB_WORDS = {name.partition("_")[0] for name in NAMES}


def sources() -> Iterator[Path]:
    for package in ("skill", "mcp_server"):
        yield from sorted((ROOT / package).rglob("*.py"))


def strings(path: Path) -> Iterator[str]:
    """String literals of a module that can reach a user: no docstrings; f-string holes become `{}`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | inside:
            yield node.value


def texts() -> Iterator[tuple[str, str]]:
    """(where, text) of everything an agent or a person is shown."""
    yield "instructions", INSTRUCTIONS
    yield "prompt", PLAN
    for tool in all_tools():
        yield f"tool {tool.name}", tool.description + json.dumps(tool.parameters)
    for page in PAGES:
        yield page.name, page.read_text(encoding="utf-8")
    for path in sources():
        for text in strings(path):
            yield str(path.relative_to(ROOT)), text


def test_calls_in_texts_name_tools_and_arguments_that_exist():
    wrong = []
    for where, text in texts():
        for name, inside in re.findall(r"\b([a-z]+(?:_[a-z]+)+)\(([^()]*)\)?", text):
            if name not in ARGUMENTS:
                continue
            wrong += [
                f"{where}: {name}({argument}=...) has no such argument"
                for argument in re.findall(r"(?:^|[,\s])(\w+)\s*=(?!=)", inside)
                if argument not in ARGUMENTS[name]
            ]
    assert not wrong, "\n".join(wrong)


def test_words_that_look_like_tools_are_tools():
    """`render_script`, `merge_lora`: a name with a tool's verb in backticks that is none would be a dead end."""
    known = set(NAMES) | set().union(*ARGUMENTS.values())
    wrong = []
    for where, text in texts():
        if where.endswith(".py"):
            continue
        for word in re.findall(r"`([a-z]+(?:_[a-z]+)+)(?:\([^`]*\))?`", text):
            if word.partition("_")[0] in VERB_WORDS and word not in known:
                wrong.append(f"{where}: `{word}`")
    assert not wrong, "\n".join(wrong)


def verbs() -> dict[str, argparse.ArgumentParser]:
    actions = build_parser()._subparsers
    assert actions is not None
    (choices,) = [a.choices for a in actions._group_actions if a.choices]
    return dict(choices)  # type: ignore[arg-type]


def test_command_lines_in_texts_can_be_parsed():
    """Every `tunesmith …` of the pages and hints: its verb and options exist, and take what they are given."""
    parsers, wrong = verbs(), []
    for where, text in texts():
        for line in re.findall(r"(?:^|[`$\s])tunesmith ((?:[a-z|]+)(?: [^\n`#]*)?)", text):
            words = line.partition(" && ")[0].split()
            for verb in words[0].split("|"):
                if verb not in parsers:
                    if where.endswith(".py") or "`tunesmith " + line[:20] not in text:
                        continue  # prose: "the tunesmith package"
                    wrong.append(f"{where}: tunesmith {verb} is no verb")
                    continue
                options = {option for action in parsers[verb]._actions for option in action.option_strings}
                wrong += [
                    f"{where}: tunesmith {verb} has no option {word}"
                    for word in re.findall(r"(?<=\s)--?[a-z][a-z-]*", " " + " ".join(words[1:]))
                    if word not in options
                ]
    assert not wrong, "\n".join(wrong)


def test_readme_commands_parse_whole():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(part for part in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL) if "tunesmith render" in part)
    lines = [part for line in block.splitlines() for part in shlex.split(line, comments=True) and
             " ".join(shlex.split(line, comments=True)).split(" && ")]  # fmt: skip
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("tunesmith ")]
    assert len(commands) >= 6
    for words in commands:
        assert build_parser().parse_args(words).verb == words[0]


def test_files_in_texts_exist():
    wrong = []
    for where, text in texts():
        for name in re.findall(r"\b((?:references|recipes|templates|examples|benchmarks)/[\w./-]*\w\.\w+)", text):
            if not (ROOT / name).exists():
                wrong.append(f"{where}: {name}")
        for name in re.findall(r"\b(sft-[a-z]+|dpo-[a-z]+|grpo-[a-z]+)\b", text):
            if name not in recipe_names():
                wrong.append(f"{where}: recipe {name}")
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                wrong.append(f"{page.name}: link {target}")
    assert not wrong, "\n".join(wrong)


def test_every_tool_description_says_when_and_what_next():
    for tool in all_tools():
        assert re.search(r"\bUse\b", tool.description), tool.name
        assert "Next: " in tool.description, tool.name
        assert len(tool.parameters["properties"]) <= 12, tool.name


def test_skill_is_valid(tmp_path):
    skills_ref = pytest.importorskip("skills_ref")
    folder = tmp_path / "tunesmith"
    folder.mkdir()
    shutil.copy(ROOT / "SKILL.md", folder / "SKILL.md")
    assert skills_ref.validate(folder) == []
    assert len((ROOT / "SKILL.md").read_text(encoding="utf-8").splitlines()) < 500


def test_token_budgets(smollm2):
    """Counted with SmolLM2's tokenizer; those of big models, which know more words, need fewer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(smollm2.path) / "tokenizer.json"))

    def count(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    cost = {}
    for tool in all_tools():
        schema = json.dumps(slim(tool.parameters), separators=(",", ":"))
        cost[tool.name] = (count(tool.description), count(schema))
    assert not {name: c for name, c in cost.items() if c[0] > 120}, cost
    assert not {name: c for name, c in cost.items() if c[1] > 300}, cost
    assert sum(sum(pair) for pair in cost.values()) < 3000, cost
    assert count(INSTRUCTIONS) < 400
    assert count((ROOT / "SKILL.md").read_text(encoding="utf-8")) < 5000
