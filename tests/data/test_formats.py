import pytest

from skill.data.conversation import Example, RowFault
from skill.data.formats import detect, from_columns, suggestion
from skill.errors import DataError

U, A, S = "user", "assistant", "system"


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


@pytest.mark.parametrize(
    ("row", "name", "expected"),
    [
        ({"instruction": "i", "input": "x", "output": "o"}, "alpaca", chat((U, "i\n\nx"), (A, "o"))),
        ({"instruction": "i", "input": "", "response": "o"}, "alpaca", chat((U, "i"), (A, "o"))),
        (
            {"instruction": "i", "output": "o", "system": "s", "history": [["q", "a"]]},
            "alpaca",
            chat((S, "s"), (U, "q"), (A, "a"), (U, "i"), (A, "o")),
        ),
        ({"messages": chat((S, "s"), (U, "u"), (A, "a"))}, "messages", chat((S, "s"), (U, "u"), (A, "a"))),
        (
            {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
            "sharegpt",
            chat((U, "u"), (A, "a")),
        ),
        (
            {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}], "system": "s"},
            "sharegpt",
            chat((S, "s"), (U, "u"), (A, "a")),
        ),
        ({"prompt": chat((U, "u")), "completion": chat((A, "a"))}, "prompt_completion", chat((U, "u"), (A, "a"))),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                          {"role": "assistant", "content": "c"}]},
            "messages",
            chat((U, "ab"), (A, "c")),
        ),
    ],
)  # fmt: skip
def test_chat_formats(row: dict, name: str, expected: list) -> None:
    form = detect(row)
    assert form is not None and form.name == name
    assert form.convert(row).messages == expected


@pytest.mark.parametrize(
    ("row", "name", "pair"),
    [
        ({"prompt": "p", "completion": "c"}, "prompt_completion", ("p", "c")),
        ({"question": "p", "answer": "c", "id": 3}, "prompt_completion", ("p", "c")),
        ({"text": "p", "category": "c"}, "classification", ("p", "c")),
        ({"text": "p", "label": 3}, "classification", ("p", "3")),
        ({"text": "c"}, "text", ("", "c")),
    ],
)
def test_pair_formats(row: dict, name: str, pair: tuple[str, str]) -> None:
    form = detect(row)
    assert form is not None and form.name == name
    assert form.convert(row) == Example(prompt=pair[0], completion=pair[1])


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "preference"),
        ({"chosen": chat((U, "u"), (A, "a")), "rejected": chat((U, "u"), (A, "b"))}, "preference"),
        ({"prompt": "p", "completion": "c", "label": True}, "kto"),
        ({"prompt": "p", "completions": ["a"], "labels": [True]}, "stepwise"),
        ({"input_ids": [1], "labels": [1]}, "tokenized"),
    ],
)
def test_formats_of_other_objectives_are_named(row: dict, name: str) -> None:
    form = detect(row)
    assert form is not None and form.name == name and not form.trainable


GOOD = chat((U, "u"), (A, "a"))


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"instruction": "i", "output": "  "}, "empty_output"),
        ({"instruction": " ", "output": "o"}, "empty_prompt"),
        ({"instruction": "i", "output": 5}, "wrong_type"),
        ({"instruction": "i", "output": None}, "missing_field"),
        ({"prompt": "", "completion": "c"}, "empty_prompt"),
        ({"messages": []}, "no_assistant_turn"),
        ({"messages": chat((U, "u"))}, "no_assistant_turn"),
        ({"messages": chat((A, "a"), (U, "u"))}, "bad_role_order"),
        ({"messages": chat((U, "u"), (U, "v"), (A, "a"))}, "bad_role_order"),
        ({"messages": [*GOOD, *chat((S, "s"))]}, "bad_role_order"),
        ({"messages": [*GOOD, {"role": "critic", "content": "x"}]}, "bad_role_order"),
        ({"messages": chat((U, ""), (A, "a"))}, "empty_prompt"),
        ({"messages": chat((U, "u"), (A, ""))}, "empty_output"),
        ({"messages": [{"role": "user"}, *GOOD]}, "missing_field"),
        ({"messages": [{"content": "x"}, *GOOD]}, "missing_field"),
        ({"messages": ["x", *GOOD]}, "wrong_type"),
        ({"messages": [{"role": "user", "content": 5}, GOOD[1]]}, "wrong_type"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, GOOD[1]]}, "wrong_type"),
        ({"messages": [GOOD[0], {"role": "assistant", "tool_calls": [{}]}]}, "tool_calls_unsupported"),
        ({"messages": [GOOD[0], GOOD[1] | {"weight": 0}]}, "no_assistant_turn"),
    ],
)
def test_row_faults(row: dict, code: str) -> None:
    form = detect(row)
    assert form is not None
    with pytest.raises(RowFault) as caught:
        form.convert(row)
    assert caught.value.code == code


def test_conversation_may_end_with_the_user() -> None:
    form = detect({"messages": [*GOOD, GOOD[0]]})
    assert form is not None and len(form.convert({"messages": [*GOOD, GOOD[0]]}).messages) == 3


def test_own_columns() -> None:
    form = from_columns({"frage": "prompt", "antwort": "completion", "rolle": "system"}, ["frage", "antwort", "rolle"])
    example = form.convert({"frage": "q", "antwort": "a", "rolle": "s"})
    assert example.messages == chat((S, "s"), (U, "q"), (A, "a"))
    assert from_columns({"talk": "messages"}, ["talk"]).convert({"talk": GOOD}).messages == GOOD
    assert from_columns({"body": "text"}, ["body"]).convert({"body": "b"}).completion == "b"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"questoin": "prompt"}, "Did you mean 'question'"),
        ({"question": "input"}, "Targets: prompt, completion, system, messages, text"),
        ({"question": "prompt"}, "no pair of prompt and completion"),
        ({"question": "prompt", "answer": "prompt"}, "two columns to one target"),
    ],
)
def test_wrong_mappings_say_what_to_write(columns: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_columns(columns, ["question", "answer"])


def test_near_names_get_a_mapping() -> None:
    assert '{"user_question": "prompt", "model_answer": "completion"}' in suggestion(["user_question", "model_answer"])
    assert '{"promt": "prompt", "compleetion": "completion"}' in suggestion(["promt", "compleetion"])
    assert "Columns here: 'a', 'question_id'" in suggestion(["a", "question_id"])
