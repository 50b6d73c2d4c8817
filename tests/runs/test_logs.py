from __future__ import annotations

import pytest

from skill.runs import logs

FAKE = {  # put together here, so that no scanner takes this file for a leak
    "hugging face": "hf_" + "aB3" * 10,
    "openai": "sk-" + "proj-aB3" * 4,
    "github": "ghp_" + "aB3" * 12,
    "aws": "AKIA" + "ABCDEFGH12345678",
    "jwt": "eyJ" + "hbGciOiJIUzI1" + ".eyJ" + "zdWIiOiIxMjM0" + ".SflKxwRJSMeKKF2QT4",
}


@pytest.mark.parametrize("kind", sorted(FAKE))
def test_tokens_are_redacted(kind):
    shown = logs.clean(f"login with {FAKE[kind]} failed")
    assert FAKE[kind] not in shown
    assert shown.startswith("login with [redacted]")


def test_named_and_embedded_secrets_are_redacted(monkeypatch: pytest.MonkeyPatch):
    assert "p4ssw0rd" not in logs.clean("fetching https://user:p4ssw0rd@host/x")
    assert "a1b2c3d4e5" not in logs.clean("WANDB_API_KEY=a1b2c3d4e5")
    assert "a1b2c3d4e5" not in logs.clean('{"token": "a1b2c3d4e5"}')
    assert "abc.def-123" not in logs.clean("Authorization: Bearer abc.def-123")
    monkeypatch.setenv("MY_SECRET_THING", "plainwordsonly")
    assert logs.clean("it is plainwordsonly") == "it is [MY_SECRET_THING redacted]"


@pytest.mark.parametrize(
    "line",
    [
        "trained tokens: 123456789",
        "tokens_per_s=1234.5678",
        "pad token: <|endoftext|>",
        "key: value",
        "loss 0.123456789",
    ],
)
def test_ordinary_lines_stay(line):
    assert logs.clean(line) == line


def test_control_characters_and_progress_bars():
    assert logs.clean("\x1b[31mred\x1b[0m \x07bell\x00\x1b]0;title\x07 end\x9b") == "red bell end"
    assert logs.clean(" 10%|#  |\r 20%|## |\r 30%|###|") == " 30%|###|"
    assert logs.clean("a\u202eb\u200bc\ufeffd") == "abcd"
    assert logs.clean("x" * 1000) == "x" * 399 + "…"


def test_tail_reads_the_end_of_this_attempt(tmp_path):
    log = tmp_path / "train.log"
    assert logs.tail(log, 5) == []
    log.write_bytes(b"old attempt\n")
    since = log.stat().st_size
    with log.open("ab") as file:
        file.write(b"one\n\n\xff\xfetwo\nthree")
    assert logs.tail(log, 2, since=since) == ["��two", "three"]
    assert logs.tail(log, 9, since=since) == ["one", "��two", "three"]
    assert logs.tail(log, 0) == []
    assert logs.tail(log, 9, since=10_000)[0] == "old attempt"  # the log was cut meanwhile


def test_a_huge_log_costs_no_memory_and_is_bounded(tmp_path):
    log = tmp_path / "train.log"
    with log.open("wb") as file:
        for number in range(60_000):
            file.write(b"line %06d\n" % number)
    assert logs.tail(log, 2) == ["line 059998", "line 059999"]
    assert not logs.shorten(log, 10_000_000)
    assert logs.shorten(log, 100_000)
    assert log.stat().st_size < 51_000
    text = log.read_text()
    assert text.startswith("[tunesmith: the log outgrew its limit")
    assert text.endswith("line 059999\n")
    assert "\nline" in text[:80]  # whole lines only
