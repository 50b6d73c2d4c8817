"""Values reach a script as literals and as nothing else."""

from __future__ import annotations

import ast
import math
import subprocess
import sys

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skill.scripts.literals import Code, assignment, environment, literal

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(scalars | st.lists(scalars))
def test_a_literal_evaluates_to_the_value(value):
    assert ast.literal_eval(literal(value)) == value


@given(st.text() | st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Zp"]))
def test_a_string_is_one_printable_line(text):
    written = literal(text)
    assert written.isprintable()
    assert ast.literal_eval(written) == text


@given(st.text())
def test_only_our_own_source_text_passes_as_it_is(text):
    assert literal(Code(text)) == text
    rendered = environment().from_string("x = {{ value }}").render(value=text)
    assert ast.literal_eval(rendered.removeprefix("x = ")) == text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_has_no_literal_is_refused(value):
    with pytest.raises(ValueError, match="has no literal"):
        literal(value)


@pytest.mark.parametrize("value", [object(), {"a": 1}, b"x", print])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="has no literal"):
        literal(value)


def test_a_misspelt_name_in_a_template_is_an_error():
    with pytest.raises((TypeError, jinja2.UndefinedError)):
        environment().from_string("{{ missing }}").render()


@pytest.mark.parametrize("size", [3, 90, 108, 110, 113, 115, 116, 120, 400])
@pytest.mark.parametrize("char", ["a", '"', "'", "\\", "\n"])
def test_assignments_are_formatted_as_ruff_would(size, char):
    text = assignment("MODEL", char * size) + "\n" + assignment("NAMES", [char * size, "b"]) + "\n"
    argv = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length=120", "--diff", "-"]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
