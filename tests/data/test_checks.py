import pytest

from skill.data.checks import CODES, DROPPED, Checker, key, normalised
from skill.data.conversation import Example
from skill.data.personal import personal_codes


def pair(prompt: str, completion: str) -> Example:
    return Example(prompt=prompt, completion=completion)


def checked(*examples: Example, leaked: set[bytes] | None = None) -> Checker:
    checker = Checker(leaked)
    for number, example in enumerate(examples):
        checker.example(number, example)
    checker.findings()
    return checker


def test_duplicates_flag_the_later_copies() -> None:
    checker = checked(pair("a", "b"), pair("c", "d"), pair("a", "b"), pair("a", "b"))
    assert checker.rows_of("exact_duplicate") == [2, 3]
    assert checker.rows_of("conflicting_answers") == []


def test_conflicts_flag_the_whole_group() -> None:
    checker = checked(pair("a", "1"), pair("b", "2"), pair("A ", "1"), pair("a", "9"), pair("a", "1"))
    assert checker.rows_of("conflicting_answers") == [0, 2, 3, 4]


def test_leak_ignores_case_and_spacing() -> None:
    leaked = {key(normalised("Where is my  order?"))}
    assert checked(pair("where is my order?", "x"), pair("other", "y"), leaked=leaked).rows_of("train_eval_leak") == [0]


@pytest.mark.parametrize("text", ["write to anna.meyer+x@shop.example.com.", "<a@b.io>"])
def test_emails(text: str) -> None:
    assert personal_codes(text) == ["pii_email"]


@pytest.mark.parametrize("text", ["@user said", "a @ b", "pip install x@1.2", "def f(self): @property"])
def test_no_emails(text: str) -> None:
    assert personal_codes(text) == []


@pytest.mark.parametrize(
    "text",
    ["call +49 30 1234567", "(555) 123-4567", "555-123-4567", "1-800-555-0199", "+1 (212) 555-0123", "030/1234567"],
)
def test_phones(text: str) -> None:
    assert personal_codes(text) == ["pii_phone"]


@pytest.mark.parametrize(
    "text",
    ["order 48213456", "2024-11-20 10:30", "3.14159265", "version 10.1.22.3", "1,000,000", "10-20-30", "x = 1234567890",
     "000-000-0000", "ISBN 978-3-16-148410-0", "1969-2024"],
)  # fmt: skip
def test_no_phones(text: str) -> None:
    assert personal_codes(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "sk-" + "proj-abcDEF123456ghiJKL7890",
        "hf_" + "aB1" * 12,
        "-----BEGIN RSA PRIVATE" + " KEY-----",
        'api_key = "a8f5f167f44f4964e6c998dee827110c"',
        "password: hunter2hunter2",
    ],
)
def test_secrets(text: str) -> None:
    assert personal_codes(f"see {text} here") == ["secret"]


@pytest.mark.parametrize(
    "text",
    ["password = generate_password(8)", "enter your password: it must have 8 characters", "the key is courage",
     "api_key = os.environ['KEY']", "task-123-abc-very-long-name-of-a-branch", "a high-risk-assessment-2024"],
)  # fmt: skip
def test_no_secrets(text: str) -> None:
    assert personal_codes(text) == []


def test_findings_are_ordered_counted_and_hold_no_text() -> None:
    checker = Checker()
    checker.example(0, pair("mail me: anna@example.com", "ok"))
    for row in range(10, 20):
        checker.fault("malformed_row", row, f"line {row}: broken")
        checker.fault("malformed_row", row, "counted once")
    findings = checker.findings()
    assert [finding.code for finding in findings] == ["malformed_row", "pii_email"]
    assert findings[0].count == 10 and findings[0].rows == [10, 11, 12, 13, 14]
    assert findings[0].detail == "line 10: broken"
    assert "anna" not in str(findings)


def test_every_code_says_what_to_do() -> None:
    assert set(CODES) > DROPPED
    assert all(fix.endswith(".") and len(fix) < 120 for _, fix in CODES.values())


def test_labels_diversity_and_preference_pairs() -> None:
    def found(*examples: Example) -> dict[str, int]:
        checker = Checker()
        for number, example in enumerate(examples):
            checker.example(number, example)
        return {finding.code: finding.count for finding in checker.findings()}

    labels = [pair(f"message {i}", "spam" if i < 57 else "ham") for i in range(60)]
    assert found(*labels) == {"label_imbalance": 0}
    assert found(*(pair(f"message {i}", ("spam", "ham")[i % 3 == 0]) for i in range(60))) == {}
    assert found(*(pair(f"message {i}", f"name{i}") for i in range(60))) == {}
    few = found(*(pair(f"topic {i % 5}", f"a longer answer that is number {i} of all") for i in range(60)))
    assert few == {"conflicting_answers": 60, "low_diversity": 0}

    checker = Checker()
    for number in range(30):
        checker.preference(number, {"chosen": "long " * 9, "rejected": "short" if number else "long " * 9})
    assert checker.findings()[0].rows == [0]
    assert checker.codes() == ["preference_identical", "preference_length_bias"]


def test_near_duplicates_are_a_warning_only_when_there_are_many() -> None:
    def severity(copies: int) -> str:
        rows = [pair(f"question {i}", " ".join(f"w{i}x{j}" for j in range(30))) for i in range(100)]
        rows += [pair(row.prompt, row.completion + " end") for row in rows[:copies]]
        found = {finding.code: finding for finding in _findings(rows)}
        assert found["near_duplicate"].count == copies
        return found["near_duplicate"].severity

    assert (severity(1), severity(20)) == ("info", "warning")


def _findings(rows: list[Example]) -> list:
    checker = Checker()
    for number, row in enumerate(rows):
        checker.example(number, row)
    return checker.findings()
