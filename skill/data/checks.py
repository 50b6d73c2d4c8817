"""The checks: stable codes, their severity and what to do; one pass over the rows, memory of some bytes a row.

Findings name rows and codes, never the text of a row: values of PII and secrets must not travel into logs or answers.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from skill.data.conversation import Example
from skill.data.near import NearIndex, words_of
from skill.data.personal import personal_codes
from skill.data.report import Finding, Severity
from skill.data.wording import wording_codes

MIN_ROWS = 10  # OpenAI's fine-tuning API refuses fewer; below it nothing can be held out either
FEW_ROWS = 20  # shares over fewer rows say nothing about a dataset
LABELS = 100  # more distinct short answers are no label set

# code -> (severity, what to do)
CODES: dict[str, tuple[Severity, str]] = {
    "wrong_format": ("error", "Use the training method for this data, or name the columns to train on with `columns`."),
    "malformed_row": ("error", "Mend or delete the line; it is dropped otherwise."),
    "missing_field": ("error", "Fill the field or delete the row; name your own columns with `columns`."),
    "wrong_type": ("error", "Write the field as text (a conversation as a list of turns)."),
    "empty_prompt": ("error", "Fill the prompt or delete the row; it is dropped otherwise."),
    "empty_output": ("error", "Fill the answer or delete the row: it would teach the model to say nothing."),
    "bad_role_order": ("error", "Order the turns: one system turn at most, first; then user and assistant in turn."),
    "no_assistant_turn": ("error", "Add the answer as an assistant turn, or delete the row: nothing would be trained."),
    "tool_calls_unsupported": (
        "error",
        "Write the call as text in the assistant turn; tool turns are not trained yet.",
    ),
    "template_refused": (
        "error",
        "The model's chat template refuses the row: change its roles, or take another model.",
    ),
    "overlength": ("warning", "Raise max_length to recommended_max_length, or shorten the rows; they are dropped."),
    "stop_token_untrained": ("error", "The answer's end token is outside the loss: the model would not learn to stop."),
    "double_bos": ("warning", "Take the beginning-of-sequence token out of your text; the tokenizer adds it."),
    "exact_duplicate": ("warning", "Delete the later copies: they weigh as more epochs of one row."),
    "near_duplicate": (
        "warning",
        "Delete the later copies: at 80% shared 5-word shingles they teach the same row twice.",
    ),
    "conflicting_answers": ("warning", "Keep one answer for each prompt."),
    "train_eval_leak": ("error", "Delete these rows from training: the held-out file has the same prompt."),
    "too_few_rows": ("warning", f"Collect more rows: below {MIN_ROWS} no score means anything; aim for 100 and up."),
    "pii_email": ("warning", "Replace e-mail addresses by a placeholder if they are real."),
    "pii_phone": ("warning", "Replace phone numbers by a placeholder if they are real."),
    "pii_ssn": ("warning", "Replace social security numbers by a placeholder if they are real."),
    "pii_credit_card": ("warning", "Replace card numbers by a placeholder if they are real."),
    "pii_ip": ("warning", "Replace IP addresses by a placeholder if they are real."),
    "pii_iban": ("warning", "Replace account numbers by a placeholder if they are real."),
    "secret": ("error", "Remove the key or password, and revoke it: a trained model can repeat it."),
    "special_token_in_text": ("warning", "Take the template's tokens out of the text; the chat template writes them."),
    "degenerate_output": ("warning", "Write a real answer or delete the row: it is a placeholder or noise."),
    "repetition": ("warning", "Cut the answer where it starts to loop: it would teach the model to loop."),
    "refusal_boilerplate": ("warning", "Delete the row unless you want the model to refuse such requests."),
    "control_characters": ("warning", "Delete control and invisible characters (tabs and newlines may stay)."),
    "mojibake": ("warning", "Read the source file in its own encoding again, or delete the row."),
    "prompt_injection_suspect": ("warning", "Look at the row: its text tries to overrule instructions."),
    "preference_identical": ("warning", "Delete the pair: chosen and rejected are the same."),
    "preference_length_bias": ("warning", "Balance the lengths: else the model learns that longer is better."),
    "label_imbalance": ("warning", "Collect more rows of the rare labels, or score each label by itself."),
    "low_diversity": ("warning", "Collect more different prompts: the file repeats a few."),
}

# Rows with these codes never reach train.jsonl; the other findings leave the row in.
DROPPED = {
    "malformed_row",
    "missing_field",
    "wrong_type",
    "empty_prompt",
    "empty_output",
    "bad_role_order",
    "no_assistant_turn",
    "tool_calls_unsupported",
    "train_eval_leak",
}


def texts_of(example: Example) -> list[str]:
    if example.is_chat:
        return [message["content"] for message in example.messages]
    return [example.prompt, example.completion]


def answers_of(example: Example) -> list[str]:
    if example.is_chat:
        return [message["content"] for message in example.messages if message["role"] == "assistant"]
    return [example.completion]


def prompts_of(example: Example) -> list[str]:
    if example.is_chat:
        return [message["content"] for message in example.messages if message["role"] != "assistant"]
    return [example.prompt]


def shingled(example: Example) -> str:
    """The row for near-duplicates. Without the system turn: one long instruction in every row says nothing of it."""
    if not example.is_chat:
        return f"{example.prompt}\n{example.completion}"
    return "\n".join(message["content"] for message in example.messages if message["role"] != "system")


def _length(answer: Any) -> int:
    """Characters of an answer: a text, or turns of which the last is the answer."""
    if isinstance(answer, list) and answer:
        answer = answer[-1]
    if isinstance(answer, Mapping):
        answer = answer.get("content", answer.get("value", ""))
    return len(answer) if isinstance(answer, str) else 0


def prompt_of(example: Example) -> str:
    """What comes before the last answer, normalised: rows that share it should share the answer."""
    if not example.is_chat:
        return normalised(example.prompt or example.completion)
    last = max(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
    return "\x1e".join(f"{m['role']}\x1f{normalised(m['content'])}" for m in example.messages[:last])


def question_of(example: Example) -> str:
    """The user's side alone, normalised: the key of leaks and of a split. A text is its own question."""
    if not example.is_chat:
        return normalised(example.prompt or example.completion)
    return "\x1e".join(normalised(m["content"]) for m in example.messages if m["role"] == "user")


def normalised(text: str) -> str:
    """NFC, lower case, whitespace as single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())


def key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


class Checker:
    """Collects findings row by row; `findings()` closes the pass."""

    def __init__(self, leaked: set[bytes] | None = None) -> None:
        self._rows: dict[str, array[int]] = defaultdict(lambda: array("Q"))
        self._details: dict[str, str] = {}
        self._dataset: list[str] = []
        self._seen: set[bytes] = set()
        self._answers: dict[bytes, tuple[bytes, int]] = {}
        self._repeats: dict[bytes, list[int]] = {}  # prompt -> its rows so far, while they all agree
        self._conflicts: dict[bytes, list[int]] = {}
        self._leaked = leaked or set()
        self._near: NearIndex | None = None  # made at the first row: it imports numpy
        self._labels: Counter[str] | None = Counter()  # None once the answers are no label set
        self._compared = 0
        self._pairs: list[tuple[int, int]] = []  # characters of chosen and rejected

    def fault(self, code: str, row: int, detail: str = "") -> None:
        rows = self._rows[code]
        if not rows or rows[-1] != row:  # a row counts once a code
            rows.append(row)
            self._details.setdefault(code, detail)

    def dataset_fault(self, code: str, detail: str) -> None:
        self._dataset.append(code)
        self._details[code] = detail

    def rows_of(self, code: str) -> list[int]:
        """Every row with this code, in file order."""
        return sorted(set(self._rows.get(code, ())))

    def codes(self) -> list[str]:
        return [code for code in CODES if code in self._rows or code in self._dataset]

    def example(self, number: int, example: Example) -> None:
        """Content checks of one row."""
        texts = texts_of(example)
        joined = "\x1e".join(texts)
        whole = key(joined)
        if whole in self._seen:
            self.fault("exact_duplicate", number)
        else:
            self._near = self._near or NearIndex()
            self._near.add(number, words_of(shingled(example)))
        self._seen.add(whole)
        if example.is_chat or example.prompt:  # a text has no answer that could differ
            self._answer(number, key(prompt_of(example)), key(normalised(texts[-1])))
        if self._leaked and key(question_of(example)) in self._leaked:
            self.fault("train_eval_leak", number)
        for code in personal_codes(joined):
            self.fault(code, number)
        answers = answers_of(example)
        for code in wording_codes(prompts_of(example), answers, templated=not (example.is_chat or example.prompt)):
            self.fault(code, number)
        self._label(answers[-1])

    def preference(self, number: int, value: Mapping[str, Any]) -> None:
        """A pair of a chosen and a rejected answer."""
        chosen, rejected = value.get("chosen"), value.get("rejected")
        if chosen is None or rejected is None:
            return
        if chosen == rejected:
            self.fault("preference_identical", number)
        else:
            self._pairs.append((_length(chosen), _length(rejected)))

    def _label(self, answer: str) -> None:
        """Count short answers while they can be a set of labels."""
        if self._labels is not None:
            self._labels[normalised(answer[:80])] += 1
            if len(self._labels) > LABELS or len(answer) > 60 or len(answer.split()) > 5:
                self._labels = None

    def _whole_dataset(self) -> None:
        """Faults that only all rows together show."""
        if self._near:
            for row in self._near.later_rows():
                self.fault("near_duplicate", row)
        if self._labels and len(self._labels) > 1 and self._labels.total() >= FEW_ROWS:
            (_, most), (_, least) = self._labels.most_common()[0], self._labels.most_common()[-1]
            total = self._labels.total()
            # Half of the labels must come back: free short answers (names, numbers) are no label set.
            repeated = sum(count > 1 for count in self._labels.values()) * 2 >= len(self._labels)
            rare = repeated and most >= 10 * least
            if rare or (len(self._labels) <= 10 and most >= 0.9 * total):
                self.dataset_fault("label_imbalance", f"{len(self._labels)} labels, {least} to {most} rows each")
        if self._compared >= FEW_ROWS and len(self._answers) <= 0.2 * self._compared:
            self.dataset_fault("low_diversity", f"{len(self._answers)} different prompts in {self._compared} rows")
        longer = sum(chosen > 1.5 * rejected for chosen, rejected in self._pairs)
        if len(self._pairs) >= FEW_ROWS and longer >= 0.7 * len(self._pairs):
            self.dataset_fault("preference_length_bias", f"chosen is 1.5 x longer in {longer} of {len(self._pairs)}")

    def _answer(self, number: int, prompt: bytes, answer: bytes) -> None:
        self._compared += 1
        first_answer, first_row = self._answers.setdefault(prompt, (answer, number))
        if prompt in self._conflicts:
            self._conflicts[prompt].append(number)
        elif first_answer != answer:
            self._conflicts[prompt] = [*self._repeats.pop(prompt, [first_row]), number]
        elif first_row != number:
            self._repeats.setdefault(prompt, [first_row]).append(number)

    def findings(self) -> list[Finding]:
        """All findings, errors first, in the order of CODES."""
        for rows in self._conflicts.values():
            self._rows["conflicting_answers"].extend(rows)
        self._conflicts.clear()
        self._whole_dataset()
        out = []
        for code in self.codes():
            severity, fix = CODES[code]
            rows = self.rows_of(code)
            if code == "near_duplicate" and len(rows) <= 0.02 * self._compared:
                severity = "info"  # people ask the same thing twice; that is no fault of a dataset
            detail = self._details.get(code, "")
            out.append(Finding(code=code, severity=severity, count=len(rows), rows=rows[:5], detail=detail, fix=fix))
        order = ("error", "warning", "info")
        return sorted(out, key=lambda finding: order.index(finding.severity))
