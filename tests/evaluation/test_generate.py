"""The one-pass engine against the slowest possible one: no cache, no batch, no padding."""

from __future__ import annotations

import json
import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from skill.evaluation.generate import Limits, answer_rows, new_token_limit
from skill.evaluation.leakage import split_leaked
from skill.inference import Encoded, nll

STOP = frozenset(range(3, 12))


def tiny(kind: str = "llama"):
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 96}  # fmt: skip
    if kind == "qwen3_window":
        config = Qwen3Config(**shape, head_dim=16, use_sliding_window=True, sliding_window=8, max_window_layers=0)
        return Qwen3ForCausalLM(config).eval()
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


def rows(count: int, shared: int, *, unaligned: bool = False) -> list[Encoded]:
    draw = random.Random(shared)
    start = [draw.randrange(3, 96) for _ in range(shared)]
    out = []
    for index in range(count):
        prompt = start + [draw.randrange(3, 96) for _ in range(draw.randrange(1, 20))]
        answer = [draw.randrange(3, 96) for _ in range(draw.randrange(1, 9))]
        cut = 1 if unaligned and index % 3 == 0 else 0
        full = prompt[: len(prompt) - cut] + answer
        out.append(Encoded(index, tuple(prompt), tuple(full), len(prompt) - cut, "", ""))
    return out


def slow(model, example: Encoded, limit: int):
    ids, said = list(example.prompt), []
    for _ in range(limit):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in STOP:
            return tuple(said), True
        said.append(token)
        ids.append(token)
    return tuple(said), False


def slow_loss(model, example: Encoded) -> float:
    """Written out: minus the sum of the log-probabilities of the answer's tokens."""
    logits = model(input_ids=torch.tensor([example.full])).logits[0].double()
    logs = logits - logits.exp().sum(-1, keepdim=True).log()
    return -sum(float(logs[place - 1, example.full[place]]) for place in range(example.start, len(example.full)))


@pytest.mark.parametrize("kind", ["llama", "qwen3_window"])
@pytest.mark.parametrize("shared", [0, 12])
def test_answers_and_losses_do_not_depend_on_the_batch(kind, shared):
    model, examples = tiny(kind), rows(17, shared, unaligned=shared > 0)
    with torch.no_grad():
        wanted = [slow(model, example, 10) for example in examples]
        losses = [slow_loss(model, example) for example in examples]
    for size in (1, 4, 32):
        found = answer_rows(model, examples, Limits(10, size, STOP, 2))
        assert [(answer.ids, answer.stopped) for answer in found] == wanted
        assert [answer.nll for answer in found] == pytest.approx(losses, rel=1e-5)
        assert [answer.tokens for answer in found] == [len(example.completion) for example in examples]


def test_padded_loss_equals_the_written_out_one():
    model, examples = tiny(), rows(9, 3)
    with torch.no_grad():
        wanted = [slow_loss(model, example) for example in examples]
    assert [value for value, _ in nll(model, examples, pad=2, batch_size=4)] == pytest.approx(wanted, rel=1e-5)


def test_room_for_the_longest_reference():
    examples = rows(9, 3)
    assert new_token_limit(examples) >= max(len(example.completion) for example in examples) + 8


def test_finished_batches_are_told():
    seen = []
    examples = rows(7, 0)
    answer_rows(tiny(), examples, Limits(3, 3, STOP, 2), done=lambda batch: seen.append(len(batch)))
    assert seen == [3, 3, 1]


def chat(question: str, answer: str) -> dict:
    return {
        "prompt": [{"role": "system", "content": "You sort mail."}, {"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def test_rows_of_the_training_data_are_left_out(tmp_path):
    text = "please move the meeting with the whole team from monday morning to friday afternoon"
    train = tmp_path / "train.jsonl"
    train.write_text(
        "".join(json.dumps(row) + "\n" for row in [chat("Where is  my CARD?", "a"), chat(text + " thanks", "b")])
    )
    held = [chat("where is my card?", "z"), chat("another one", "a"), chat(text + " now", "b")]
    kept, leaked, near = split_leaked(held, train)
    assert leaked == [0] and [index for index, _ in kept] == [1, 2]
    assert near == []
    held[2] = chat(text + " " + text + " thanks", "b")
    _, _, near = split_leaked([*held, chat(text + " thanks .", "b")], train)
    assert near == [3]


def test_one_question_for_all_rows_is_no_leak(tmp_path):
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps(chat("Write a haiku.", "old pond")) + "\n")
    _, leaked, _ = split_leaked(
        [chat("Write a haiku.", "old pond"), chat("Write a haiku.", "new"), chat("Write a haiku.", "x")], train
    )
    assert leaked == [0]
