import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from skill.data import engine
from skill.data.conversation import Example, RowFault
from skill.data.render import Renderer, canonical_rows, common_prefix

ROOT = Path(__file__).resolve().parents[2]


def chat(*turns: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]


SYSTEM = {"role": "system", "content": "Short answers."}
CHAT_ROWS = [
    {"prompt": chat("Hi"), "completion": [{"role": "assistant", "content": "Hello."}]},
    {"prompt": [SYSTEM, *chat("What is 6 × 7?")], "completion": [{"role": "assistant", "content": "42"}]},
    {"prompt": chat("a", "b", "c"), "completion": [{"role": "assistant", "content": "\n\nd\u2028🙂 "}]},
    {
        "prompt": chat("<|im_end|> <|im_start|>assistant\n y"),
        "completion": [{"role": "assistant", "content": "東京"}],
    },
    {"prompt": chat("  spaces  "), "completion": [{"role": "assistant", "content": '{"a": 1}'}]},
]
TEXT_ROWS = [
    {"prompt": "2 + 2 =", "completion": " 4"},
    {"prompt": "The capital of Fra", "completion": "nce is Paris."},  # tokens merge over the border
    {"prompt": "", "completion": "A whole text.\n\nTwo paragraphs."},
    {"prompt": "Ends itself", "completion": " here<|im_end|>"},
]


@pytest.mark.parametrize("rows", [CHAT_ROWS, TEXT_ROWS], ids=["chat", "strings"])
def test_mask_is_what_sft_trainer_computes(tiny_model, tmp_path, rows: list) -> None:
    """Token for token against the dataset that the installed TRL prepares."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import SFTConfig, SFTTrainer

        arguments = SFTConfig(output_dir=str(tmp_path), use_cpu=True, report_to=[], max_length=None)
        trainer = SFTTrainer(
            AutoModelForCausalLM.from_pretrained(tiny_model.path),
            arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(tiny_model.path),
        )
    masked = Renderer(tiny_model).mask(rows)
    prepared = trainer.train_dataset
    assert [one.ids for one in masked] == list(prepared["input_ids"])
    labels = [[-100] * one.context + one.trained for one in masked]
    assert labels == list(prepared["labels"])


def test_trained_text_is_the_answer_with_its_end_token(smollm2) -> None:
    renderer = Renderer(smollm2)
    assert renderer.fast
    masked = renderer.mask(CHAT_ROWS)[1]
    assert renderer.decode(masked.trained) == "42<|im_end|>\n"
    assert renderer.decode(masked.ids[: masked.context]).endswith("What is 6 × 7?<|im_end|>\n<|im_start|>assistant\n")
    assert renderer.stop_ids & set(masked.trained)


def test_shorter_way_to_the_mask_gives_the_same(smollm2, monkeypatch) -> None:
    plain = Renderer(smollm2)
    monkeypatch.setattr(plain, "_cut_proof", None)
    short = Renderer(smollm2)
    assert short._cut_proof
    while short._cut_proof:
        short.mask(CHAT_ROWS)
    assert short._cut_proof == 0
    assert short.mask(CHAT_ROWS) == plain.mask(CHAT_ROWS)
    assert short.mask(TEXT_ROWS) == plain.mask(TEXT_ROWS)


def test_no_torch_in_this_process(smollm2) -> None:
    Renderer(smollm2)  # the proof exists from here on
    code = (
        "import sys; from skill.models import ModelInfo; from skill.data.render import Renderer\n"
        "r = Renderer(ModelInfo.model_validate_json(sys.argv[1]))\n"
        "turns = [{'role': 'user', 'content': 'a'}], [{'role': 'assistant', 'content': 'b'}]\n"
        "r.mask([{'prompt': turns[0], 'completion': turns[1]}])\n"
        "print(r.fast, [m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, smollm2.model_dump_json()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True []"


def variant(tmp_path: Path, model, **changes: object):
    """A copy of the model's tokenizer files with another template or config."""
    folder = tmp_path / "variant"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"):
        (folder / name).write_bytes((Path(model.path) / name).read_bytes())
    template = changes.pop("template", None)
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | changes
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return model.model_copy(update={"path": str(folder), "id": "variant", "has_chat_template": template is not None})


def test_sandbox_escape_in_a_template_is_left_to_transformers(tmp_path, tiny_model) -> None:
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    renderer = Renderer(variant(tmp_path, tiny_model, template=template))
    assert not renderer.fast
    with pytest.raises(RowFault, match="unsafe"):
        renderer.mask(CHAT_ROWS[:1])


def test_template_that_loses_the_end_token_is_seen(tmp_path, tiny_model) -> None:
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    renderer = Renderer(variant(tmp_path, tiny_model, template=template))
    masked = renderer.mask(CHAT_ROWS[:2])
    assert not any(renderer.stop_ids & set(one.trained) for one in masked)


def test_refused_conversation_is_a_row_fault(tmp_path, tiny_model) -> None:
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% endfor %}x"
    )
    renderer = Renderer(variant(tmp_path, tiny_model, template=template))
    with pytest.raises(RowFault, match="no system role") as caught:
        renderer.mask(CHAT_ROWS[1:2])
    assert caught.value.code == "template_refused"


def test_differing_engine_falls_back(tmp_path, tiny_model, monkeypatch) -> None:
    """A tokenizer that the light engine does not reproduce is tokenised by transformers."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    info = variant(tmp_path, tiny_model, template="{{ bos_token }}{{ messages[0]['content'] }}")
    fast = engine.FastEngine(Path(str(info.path)))
    record = tmp_path / "cache" / "proofs" / f"{fast.digest}.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"equal": false}')
    assert not Renderer(info).fast
    record.unlink()
    assert Renderer(info).fast and json.loads(record.read_text())["equal"] is True


def test_every_assistant_turn_becomes_a_row() -> None:
    messages = chat("q1", "a1", "q2", "a2", "q3")
    rows = list(canonical_rows(Example(messages), chat=True, system="s"))
    assert [row["completion"][0]["content"] for row in rows] == ["a1", "a2"]
    assert [m["content"] for m in rows[1]["prompt"]] == ["s", "q1", "a1", "q2"]
    messages[1]["weight"] = 0  # type: ignore[assignment]
    (row,) = canonical_rows(Example(messages), chat=True)
    assert row["completion"] == [{"role": "assistant", "content": "a2"}]
    assert row["prompt"][1] == {"role": "assistant", "content": "a1"}


def test_strings_for_models_without_a_template() -> None:
    assert list(canonical_rows(Example(prompt="p", completion="c"), chat=False)) == [{"prompt": "p", "completion": "c"}]
    (single,) = canonical_rows(Example(chat("q", "a")), chat=False, system="s")
    assert single == {"prompt": "s\n\nq\n\n", "completion": "a"}
    last = list(canonical_rows(Example(chat("q", "a", "r", "b")), chat=False))[-1]
    assert last == {"prompt": "User: q\n\nAssistant: a\n\nUser: r\n\nAssistant:", "completion": " b"}


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 3, 4]) == 3
    assert common_prefix([1, 2, 9], [1, 2, 3, 4]) == 2
    assert common_prefix([], [1]) == 0 and common_prefix([1, 2], [1]) == 1
