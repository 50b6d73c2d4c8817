"""The checks: stable codes, their severity and what to do; one pass over the rows, memory of some bytes a row.

Findings name rows and codes, never the text of a row: values of PII and secrets must not travel into logs or answers.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import defaultdict
from hashlib import blake2b

from skill.data.conversation import Example
from skill.data.report import Finding, Severity

MIN_ROWS = 10  # OpenAI's fine-tuning API refuses fewer; below it nothing can be held out either

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
    "conflicting_answers": ("warning", "Keep one answer for each prompt."),
    "train_eval_leak": ("error", "Delete these rows from training: the held-out file has the same prompt."),
    "too_few_rows": ("warning", f"Collect more rows: below {MIN_ROWS} no score means anything; aim for 100 and up."),
    "pii_email": ("warning", "Replace e-mail addresses by a placeholder if they are real."),
    "pii_phone": ("warning", "Replace phone numbers by a placeholder if they are real."),
    "secret": ("error", "Remove the key or password, and revoke it: a trained model can repeat it."),
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

_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}\b"
)
# International (+49 30 1234567), North American ((555) 123-4567, 555-123-4567), and a trunk 0 with separators.
# Bare digit runs are order numbers, dates and amounts far more often than phone numbers.
_PHONE = re.compile(
    r"(?<![\w+.-])(?:"
    r"\+\d{1,3}(?:[ .\-]?\(?\d{1,4}\)?){2,5}"
    r"|(?:1[ .\-])?\(\d{3}\)[ ]?\d{3}[ .\-]\d{4}"
    r"|(?:1[ .\-])?\d{3}([ .\-])\d{3}\1\d{4}"
    r"|0\d{2,4}[ /\-]\d{3,4}[ \-]?\d{3,5}"
    r")(?![\w-]|\.\d)"
)
_SECRETS = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS access key id
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}"  # GitHub
    r"|\bgithub_pat_[A-Za-z0-9_]{40,}"
    r"|\bglpat-[A-Za-z0-9_-]{20,}"  # GitLab
    r"|\bhf_[A-Za-z0-9]{30,}"  # Hugging Face
    r"|\bsk-(?:proj-|ant-|live-)?[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic
    r"|\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"  # Stripe
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}"  # Slack
    r"|\bAIza[A-Za-z0-9_-]{35}"  # Google
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"  # JSON web token
    r"|-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"
    r"|(?i:\b(?:password|passwd|api[_-]?key|secret[_-]?key|access[_-]?token)\b[\"']?\s*[:=]\s*[\"']?)"
    r"(?=[^\s\"'<>{}()\[\],;]{0,60}\d)(?=[^\s\"'<>{}()\[\],;]{0,60}[A-Za-z])[^\s\"'<>{}()\[\],;]{8,}"
)
_SECRET_HINTS = ("AKIA", "ASIA", "gh", "glpat", "hf_", "sk-", "k_live", "k_test", "xox", "AIza", "eyJ", "PRIVATE KEY")
_SECRET_WORDS = ("pass", "key", "token")


def texts_of(example: Example) -> list[str]:
    if example.is_chat:
        return [message["content"] for message in example.messages]
    return [example.prompt, example.completion]


def personal_codes(text: str) -> list[str]:
    """PII and secret codes that a text has. Cheap tests come first: most rows have no '@' and few digits."""
    codes = []
    if "@" in text and _EMAIL.search(text):
        codes.append("pii_email")
    if any(is_phone(match[0]) for match in _PHONE.finditer(text)):
        codes.append("pii_phone")
    lowered = text.lower()
    if (any(hint in text for hint in _SECRET_HINTS) or any(word in lowered for word in _SECRET_WORDS)) and (
        _SECRETS.search(text)
    ):
        codes.append("secret")
    return codes


def is_phone(text: str) -> bool:
    """8 to 15 digits (E.164), or the 10 of a North American number; not one digit repeated."""
    digits = re.sub(r"\D", "", text)
    return 8 <= len(digits) <= 15 and len(set(digits)) > 2


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
        self._seen.add(whole)
        if example.is_chat or example.prompt:  # a text has no answer that could differ
            self._answer(number, key(prompt_of(example)), key(normalised(texts[-1])))
        if self._leaked and key(question_of(example)) in self._leaked:
            self.fault("train_eval_leak", number)
        for code in personal_codes(joined):
            self.fault(code, number)

    def _answer(self, number: int, prompt: bytes, answer: bytes) -> None:
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
        out = []
        for code in self.codes():
            severity, fix = CODES[code]
            rows = self.rows_of(code)
            detail = self._details.get(code, "")
            out.append(Finding(code=code, severity=severity, count=len(rows), rows=rows[:5], detail=detail, fix=fix))
        order = ("error", "warning", "info")
        return sorted(out, key=lambda finding: order.index(finding.severity))
