"""The cheap alternative: a prompt with training examples, on the base, before and after a training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from skill.errors import DataError, SpecError, StateError
from skill.evaluation import eval_result, few_shot, run_eval, worker
from skill.evaluation.generate import Answer
from skill.evaluation.report import EvalReport
from skill.evaluation.systems import Answers, batch_size
from skill.inference import Encoded, encode, load_tokenizer, read_rows
from skill.runs.status import next_step
from skill.runs.store import JobRecord
from skill.workspace import write_json


@pytest.fixture
def evaluate(ws, monkeypatch):
    """run_eval with its job done here and now, in this process."""

    class Record:
        state, attempt = "created", 1

    def go(run, **arguments) -> EvalReport:
        given: dict[str, Any] = {}
        monkeypatch.setattr("skill.evaluation.start_job", lambda *a: given.update(a[4]) or Record)
        started = run_eval(ws, run.name, max_new_tokens=4, **arguments)
        write_json(run.jobs / "eval.args.json", given)
        report = worker.main(run, given, lambda *a: None)  # pyright: ignore[reportArgumentType]
        assert json.loads(Path(started.report).read_text())["words"] == report.words
        assert eval_result(ws, run.name) == report
        return report

    return go


def turns(example: dict) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in example["prompt"]]


def test_examples_are_turns_between_system_and_question(rendered):
    run = rendered("chat")
    held, known = read_rows(run.data / "eval.jsonl"), read_rows(run.data / "train.jsonl")
    examples, notes = few_shot.draw(run.data / "train.jsonl", 2, 42, held)
    assert notes == [] and len(set(examples.indices)) == 2
    first, second = (known[index] for index in examples.indices)
    assert turns(examples.before(held[0])) == [
        ("system", "You count."),
        ("user", first["prompt"][1]["content"]),
        ("assistant", first["completion"][0]["content"]),
        ("user", second["prompt"][1]["content"]),
        ("assistant", second["completion"][0]["content"]),
        ("user", "Say 0"),
    ]
    assert examples.before(held[0])["completion"] == held[0]["completion"]
    assert few_shot.draw(run.data / "train.jsonl", 2, 42, held)[0] == examples
    assert few_shot.draw(run.data / "train.jsonl", 2, 7, held)[0] != examples, "the seed draws them"


def test_what_the_examples_lack_is_said(rendered):
    run = rendered("chat")
    held = [{**row, "prompt": row["prompt"][1:]} for row in read_rows(run.data / "eval.jsonl")]
    examples, notes = few_shot.draw(run.data / "train.jsonl", 16, 0, held)
    assert len(examples.rows) == 12
    assert "only 12 rows" in notes[0] and notes[1].startswith("12 examples have another system message")


def test_text_rows_are_blocks_with_a_border_that_no_answer_holds(rendered):
    run = rendered("text", chat=False)
    held = read_rows(run.data / "eval.jsonl")
    examples, _ = few_shot.draw(run.data / "train.jsonl", 1, 0, held)
    block = examples.rows[0]["prompt"] + examples.rows[0]["completion"]
    assert examples.before(held[3])["prompt"] == f"{block}\n\nSay 3:"
    held[0]["completion"] = "one\n\ntwo"
    assert few_shot.draw(run.data / "train.jsonl", 1, 0, held)[0].separator == "\n\n###\n\n"


def test_a_text_answer_ends_where_the_next_block_begins(smollm2):
    tokenizer = load_tokenizer(Path(smollm2.path))
    said = [tokenizer(text)["input_ids"] for text in ("\n\n number 7\n\nSay 8: number 8", " number 9")]
    answers = Answers(
        {i: Answer(i, tuple(ids), False, 1.0, 2) for i, ids in enumerate(said)}, {0: "untouched", 1: "number 9"}, None
    )
    found = few_shot.cut(answers, "\n\n", tokenizer)
    assert found.texts == {0: "number 7", 1: "number 9"}
    assert found.by_row[0].stopped and tokenizer.decode(found.by_row[0].ids).strip() == "number 7"
    assert found.by_row[1] == answers.by_row[1]


def test_examples_that_do_not_fit_go_the_longest_first(rendered, smollm2):
    run = rendered("chat")
    tokenizer = load_tokenizer(Path(smollm2.path))
    rows = read_rows(run.data / "eval.jsonl")
    known = read_rows(run.data / "train.jsonl")
    known[1]["completion"][0]["content"] *= 20
    examples = few_shot.Examples((0, 1, 2), tuple(known[:3]))
    short = few_shot.Examples((0, 2), (known[0], known[2]))
    room = max(len(encode(tokenizer, short.before(row)).prompt) for row in rows) + 8
    found, notes = few_shot.fit(examples, tokenizer, rows, 8, room)
    assert found == short and notes[0].startswith(f"Only 2 of 3 examples fit the model's {room} positions")
    assert few_shot.fit(examples, tokenizer, rows, 8, room - 1)[0].indices != (0, 2)
    assert few_shot.fit(examples, tokenizer, rows, 8, 8192) == (examples, [])
    assert few_shot.fit(examples, tokenizer, rows, 8, None) == (examples, [])


def test_a_prompt_is_judged_before_any_training(rendered, evaluate):
    run = rendered("early")
    found = evaluate(run, candidate="base", few_shot=3)
    assert (found.candidate, found.few_shot, len(found.few_shot_rows)) == ("base", 3, 3)
    assert "few-shot prompt (3 examples)" in found.words and "tuned" not in found.words.lower()
    assert "zero-shot" in found.compared_with and "3 training examples in its prompt" in found.judged
    assert found.loss.tuned != found.loss.base, "the examples were in the prompt"
    assert "launch_training" in found.next_step and "few_shot=3" in found.next_step
    assert not (run.evaluation / "report.json").exists(), "no verdict on a tuned model"


def test_the_prompt_that_was_judged_is_the_one_to_beat(rendered, evaluate):
    run = rendered("late", trained=True)
    alone = evaluate(run, candidate="base", few_shot=3)
    plain = evaluate(run)
    found = evaluate(run, few_shot=3)
    assert (found.candidate, found.few_shot, found.few_shot_rows) == ("model", 3, alone.few_shot_rows)
    assert "the base with a few-shot prompt (3 examples)" in found.words and "tuned model" in found.words.lower()
    assert "3 training examples" in found.compared_with and "model of run late, zero-shot" in found.judged
    assert found.loss.base == alone.loss.tuned and found.base == alone.tuned
    assert plain.loss.base == alone.loss.base and plain.loss.tuned == found.loss.tuned
    assert plain.few_shot == 0 and "zero-shot" in plain.compared_with
    assert found.base_answers.tokens_per_s is None and found.tuned_answers.tokens_per_s is None, "asked before"
    assert "use the prompt" in found.next_step or found.verdict == "better"


def test_text_rows_are_judged_too(rendered, evaluate):
    found = evaluate(rendered("text", chat=False), candidate="base", few_shot=2, max_rows=4)
    assert (found.n, found.few_shot) == (4, 2) and found.loss.tuned != found.loss.base


def test_no_room_for_an_example(rendered, evaluate, monkeypatch):
    monkeypatch.setattr(worker, "positions", lambda folder: 40)
    run = rendered("narrow", trained=True)
    with pytest.raises(DataError, match=r"Only 0 of 2 examples fit the model's 40 positions"):
        evaluate(run, candidate="base", few_shot=2)
    found = evaluate(run, few_shot=2)
    assert found.few_shot == 0 and "Only 0 of 2" in found.warnings[0] and "few-shot" not in found.words


def test_long_prompts_are_asked_in_small_batches():
    lengths = {1: 32, 2048: 32, 8192: 8, 200_000: 1}
    for length, size in lengths.items():
        assert batch_size([Encoded(0, (5,), (5,), 0, "", ""), Encoded(1, (5,) * length, (5,), 0, "", "")]) == size


def test_positions_come_from_the_config(tiny_model):
    assert worker.positions(tiny_model.path) == 8192


def test_an_unverified_merge_is_said(rendered, evaluate):
    run = rendered("merged", trained=True)
    shutil.copytree(run.model, run.merged)
    assert not any("UNVERIFIED" in warning for warning in evaluate(run, candidate="merged").warnings)
    (run.merged / "UNVERIFIED").write_text("Not verified")
    assert "UNVERIFIED" in evaluate(run, candidate="merged").warnings[0]


def test_what_cannot_be_compared(ws, rendered):
    run = rendered("refused")
    with pytest.raises(SpecError, match="compare the base with itself") as caught:
        run_eval(ws, "refused", candidate="base")
    assert "few_shot=4" in (caught.value.hint or "")
    for wrong in (-1, 17):
        with pytest.raises(SpecError, match=f"from 0 to 16; got {wrong}"):
            run_eval(ws, "refused", candidate="base", few_shot=wrong)
    with pytest.raises(StateError, match="no trained model") as untrained:
        run_eval(ws, "refused", few_shot=2)
    assert "candidate='base'" in (untrained.value.hint or "")
    (run.data / "train.jsonl").unlink()
    with pytest.raises(StateError, match="to draw examples from"):
        run_eval(ws, "refused", candidate="base", few_shot=2)


def test_after_a_training_the_judged_prompt_is_no_verdict_on_it(rendered, evaluate):
    run = rendered("both", trained=True)
    jobs: Any = {
        kind: JobRecord(kind=kind, run_id=run.name, argv=[], state="completed", created_at=0)
        for kind in ("train", "eval")
    }
    evaluate(run, candidate="base", few_shot=1, max_rows=2)
    assert next_step(run, jobs, None).startswith("run_eval(")
    evaluate(run, max_rows=2)
    assert next_step(run, jobs, None).startswith("All done")
