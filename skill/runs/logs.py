"""Log lines as they may be shown: the end of the file only, no control characters, no secrets, bounded length.

Logs hold whatever a training process prints, dataset text included: to a reader they are untrusted data.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

LINE_LIMIT = 400  # characters
TAIL_BYTES = 256 * 1024

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# C0 and C1 controls but tab, and the marks that reorder or hide text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

_SECRETS = re.compile(
    r"""
      \b(?:hf|api_org)_[A-Za-z0-9]{16,}                          # Hugging Face
    | \bsk-[A-Za-z0-9_-]{16,}                                    # OpenAI, Anthropic and others
    | \b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,})        # GitHub
    | \bglpat-[A-Za-z0-9_-]{16,}                                 # GitLab
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b                              # AWS
    | \bAIza[A-Za-z0-9_-]{30,}                                   # Google
    | \bxox[abprs]-[A-Za-z0-9-]{10,}                             # Slack
    | \beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}   # JSON web token
    | (?<=://)[^\s/:@]+:[^\s/@]+(?=@)                            # user:password in an address
    | (?i:(?<=bearer\ ))[A-Za-z0-9._~+/=-]{8,}
    """,
    re.VERBOSE,
)
_NAMED_SECRET = re.compile(
    r"(?i)\b([a-z0-9_.-]*(?:api[_-]?key|token|secret|passw(?:or)?d|credential)s?[\"']?\s*[:=]\s*[\"']?)([^\s\"',;&]{8,})"
)
SECRET_NAME = re.compile(r"(?i)token|secret|key|passw|credential|auth")


def redact(text: str) -> str:
    """`text` without what looks like a credential, and without the values of secret environment variables."""
    for name, value in os.environ.items():
        if len(value) >= 8 and SECRET_NAME.search(name) and value in text:
            text = text.replace(value, f"[{name} redacted]")
    text = _SECRETS.sub("[redacted]", text)
    return _NAMED_SECRET.sub(lambda match: match[0] if _is_plain(match[2]) else f"{match[1]}[redacted]", text)


def _is_plain(value: str) -> bool:
    """`tokens: 81921024`, `token_type=assistant`: words and numbers are no credentials."""
    return not (re.search(r"\d", value) and re.search(r"[A-Za-z]", value)) or value.startswith("[")


def clean(text: str, *, limit: int = LINE_LIMIT) -> str:
    """One line that is safe to show: last carriage-return frame, no controls, no secrets, bounded length."""
    frames = [frame for frame in text.rstrip("\r\n").split("\r") if frame.strip()]
    line = _CONTROLS.sub("", _ESCAPES.sub("", frames[-1] if frames else "")).rstrip()
    line = redact(line[: limit * 4])
    return line if len(line) <= limit else line[: limit - 1] + "…"


def tail(path: Path, lines: int, *, since: int = 0) -> list[str]:
    """The last `lines` non-empty lines of a log from byte `since` on, cleaned. Reads at most 256 KiB."""
    if lines <= 0:
        return []
    raw = read_tail(path, TAIL_BYTES, since=since).decode("utf-8", errors="replace")
    shown = [text for line in raw.split("\n") if (text := clean(line))]
    return shown[-lines:]


def read_tail(path: Path, size: int, *, since: int = 0) -> bytes:
    """At most the last `size` bytes of a file, whole lines, nothing before byte `since`; empty when it is absent."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            begin = since if since <= end else 0  # the log was cut meanwhile
            start = max(begin, end - size)
            file.seek(start)
            data = file.read(end - start)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    if start > begin:  # the first line is cut
        data = data.partition(b"\n")[2]
    return data


def shorten(path: Path, cap: int) -> bool:
    """Keep the last half of a log that outgrew `cap` bytes. Its writer appends, so it goes on at the new end."""
    try:
        if path.stat().st_size <= cap:
            return False
    except OSError:
        return False
    kept = read_tail(path, cap // 2)
    with path.open("ab") as file:
        file.truncate(0)
        file.write(b"[tunesmith: the log outgrew its limit; earlier lines were dropped]\n" + kept)
    return True
