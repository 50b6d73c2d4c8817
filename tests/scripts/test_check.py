"""A person's own script is read against the installed libraries, never run."""

from __future__ import annotations

import pytest

from skill.errors import WorkspaceError
from skill.scripts import check_script

# What guides and models still write from memory; (line, part of the message, part of the fix), fatal or not.
SCRIPT = """
import auto_gptq
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from trl import DataCollatorForCompletionOnlyLM, DPOConfig, DPOTrainer, PPOTrainer, SFTConfig, SFTTrainer

model = AutoModelForCausalLM.from_pretrained(
    "m", torch_dtype="auto", device_map="auto", trust_remote_code=True
)
model = prepare_model_for_kbit_training(model)
model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "lm_head"], lora_alfa=3))
gpu = torch.cuda.get_device_properties(0).total_mem
args = SFTConfig(
    max_seq_length=2048,
    evaluation_strategy="steps",
    warmup_ratio=0.03,
    group_by_length=True,
    gradient_checkpointing=True,
    learning_rte=1e-4,
)
trainer = SFTTrainer(
    model=model,
    tokenizer=tokenizer,
    packing=True,
    max_seq_length=2048,
    peft_config=LoraConfig(),
)
old = Trainer(args=TrainingArguments(no_cuda=True), tokenizer=None)
dpo = DPOTrainer(ref_model=model, peft_config=LoraConfig(), args=DPOConfig(max_prompt_length=9, rpo_alpha=1.0))
callback = EarlyStoppingCallback(3)
"""
FATAL = [
    (2, "auto_gptq", "gptqmodel"),
    (5, "'DataCollatorForCompletionOnlyLM'", "prompt and completion"),
    (5, "'PPOTrainer'", "RLOOTrainer"),
    (11, "lora_alfa", "lora_alpha"),
    (11, "lm_head", "modules_to_save"),
    (12, "'torch' is used but never imported", "Import"),
    (12, "total_mem", "total_memory"),
    (14, "max_seq_length", "max_length"),
    (15, "evaluation_strategy", "eval_strategy"),
    (16, "warmup_ratio", "warmup_steps"),
    (17, "group_by_length", "train_sampling_strategy"),
    (19, "learning_rte", "learning_rate"),
    (23, "'tokenizer' is used", "define"),
    (23, "SFTTrainer has no argument 'tokenizer'", "processing_class"),
    (24, "packing", "args=SFTConfig(packing=...)"),
    (25, "max_seq_length", "max_length"),
    (21, "get_peft_model (line 11)", "remove get_peft_model"),
    (28, "no_cuda", "use_cpu"),
    (28, "Trainer has no argument 'tokenizer'", "processing_class"),
    (29, "max_prompt_length", "max_length"),
    (29, "rpo_alpha", "loss_type"),
    (30, "'EarlyStoppingCallback' is used", "from transformers import EarlyStoppingCallback"),
]
DOUBTFUL = [
    (8, "torch_dtype", "dtype"),
    (7, "device_map", "Leave it out"),
    (7, "trust_remote_code", "Remove"),
    (10, "prepare_model_for_kbit_training", "quantization_config"),
    (18, "gradient_checkpointing", "activation_checkpointing"),
    (29, "ref_model", "Leave ref_model out"),
]


def test_every_stale_name_gets_its_line_and_its_replacement(ws):
    (ws.root / "old.py").write_text(SCRIPT, encoding="utf-8")
    report = check_script(ws, "old.py")
    for expected, fatal in ((FATAL, True), (DOUBTFUL, False)):
        left = [problem for problem in report.problems if problem.fatal is fatal]
        for line, message, fix in expected:
            match = [p for p in left if p.line == line and message in p.message and fix in p.fix]
            assert match, (line, message, fix, [str(p) for p in left])
            left.remove(match[0])
        assert left == []
    assert (report.errors, report.warnings) == (len(FATAL), len(DOUBTFUL))


def test_it_is_read_not_run(ws):
    (ws.root / "evil.py").write_text("open('touched', 'w').write('x')\nraise SystemExit(9)\n", encoding="utf-8")
    report = check_script(ws, "evil.py")
    assert report.problems == []
    assert not (ws.root / "touched").exists()


def test_files_beside_it_are_not_imported(ws, monkeypatch):
    (ws.root / "trl.py").write_text("open('touched', 'w')\n", encoding="utf-8")
    (ws.root / "mine.py").write_text("from trl import SFTConfig\nprint(SFTConfig)\n", encoding="utf-8")
    monkeypatch.chdir(ws.root)
    assert check_script(ws, "mine.py").problems == []
    assert not (ws.root / "touched").exists()


def test_our_own_script_has_nothing_to_mend(ws, make_spec, script_text):
    for method in ("qlora", "prefix"):
        (ws.root / "train.py").write_text(script_text(make_spec(method={"type": method})), encoding="utf-8")
        assert check_script(ws, "train.py").problems == []


def test_what_is_no_python(ws):
    (ws.root / "x.py").write_text("def f(:\n", encoding="utf-8")
    (problem,) = check_script(ws, "x.py").problems
    assert problem.line == 1 and "No Python" in problem.message
    with pytest.raises(WorkspaceError):
        check_script(ws, "../x.py")
