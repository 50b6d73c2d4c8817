"""Names that moved or vanished between versions of the libraries, and what replaces them.

Each entry was checked against the stack of constraints.txt: the old name is refused (or ignored) there, the new one
is accepted.
"""

from __future__ import annotations

# (class, argument) -> replacement. "*" stands for any trainer config (SFTConfig, DPOConfig, TrainingArguments, ...).
ARGUMENTS: dict[tuple[str, str], str] = {
    ("*", "max_seq_length"): "max_length",
    ("*", "tokenizer"): "processing_class",
    ("*", "evaluation_strategy"): "eval_strategy",
    ("*", "warmup_ratio"): "warmup_steps (below 1 = share of the run)",
    ("*", "no_cuda"): "use_cpu",
    ("*", "group_by_length"): 'train_sampling_strategy="group_by_length"',
    ("*", "gradient_checkpointing"): "activation_checkpointing",
}


def moved(called: str, argument: str) -> str:
    """The sentence that says what replaces an argument; empty when it is not known."""
    new = ARGUMENTS.get((called, argument)) or ARGUMENTS.get(("*", argument))
    return f"It is {new} now." if new else ""
