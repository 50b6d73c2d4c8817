"""Personal data and secrets: where they stand in a text. Used to report them (codes only) and to redact them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

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
    r"|(?<!\d )0\d{2,4}[ /\-]\d{3,4}[ \-]?\d{3,5}"
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
_SECRET_HINTS = (
    "AKIA",
    "ASIA",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat",
    "hf_",
    "sk-",
    "k_live",
    "k_test",
    "xox",
    "AIza",
    "eyJ",
    "PRIVATE KEY",
)
_SECRET_WORDS = tuple(
    ["passw", *(f"{one}{sign}{two}" for sign in ("", "_", "-") for one, two in (("api", "key"), ("secret", "key")))]
    + [f"access{sign}token" for sign in ("", "_", "-")]
)
# What a card, phone, social security or IP number has at least: it spares most rows four searches.
_NUMBERS = re.compile(r"\d[\d ().:/-]{7}")
_SSN = re.compile(r"(?<![\w.-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_CARD = re.compile(r"(?<![\w.+-])[2-6]\d{3}(?:([ -]?)\d{4}\1\d{4}\1\d{4}|([ -]?)\d{6}\2\d{4,5})(?![\w-]|\.\d)")
# Not behind "v", "version" or a longer dotted number: those are software versions and section numbers.
_IPV4 = re.compile(r"(?<![\w.-])(?<!version )(?<!Version )(?<!release )\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:){2,7}(?::?[0-9A-Fa-f]{1,4}){1,6}(?![\w:])")
_IBAN = re.compile(r"\b([A-Z]{2})\d{2}(?: ?[A-Z0-9]){11,30}")
# Length by country, from the SWIFT IBAN registry.
_IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI NL",
    19: "SI",
    20: "AT EE LT LU",
    21: "CH HR LI LV",
    22: "BG DE GB IE RS",
    23: "AE IL",
    24: "AD CZ ES PK RO SA SE SK",
    25: "PT",
    26: "IS TR",
    27: "FR GR IT MC SM",
    28: "CY HU PL",
    29: "BR QA UA",
    30: "KW",
    31: "MT",
}
_IBAN_LENGTH = {country: length for length, countries in _IBAN_COUNTRIES.items() for country in countries.split()}

Span = tuple[int, int, str]


def personal_spans(text: str) -> list[Span]:
    """(start, end, code) of personal data and secrets, in order, none overlapping another.

    Cheap tests come first: most rows have no '@' and few digits. What an earlier pattern took, a later one cannot:
    the digits of a card or an account are no phone number.
    """
    found: list[Span] = []
    lowered = text.lower()
    if any(hint in text for hint in _SECRET_HINTS) or any(word in lowered for word in _SECRET_WORDS):
        _take(found, "secret", _SECRETS.finditer(text))
    if "@" in text:
        _take(found, "pii_email", _EMAIL.finditer(text))
    for match in _IBAN.finditer(text):
        end = _iban_end(text, match)
        if end:
            _add(found, (match.start(), end, "pii_iban"))
    if "::" in text or text.count(":") > 6:
        _take(found, "pii_ip", (match for match in _IPV6.finditer(text) if is_address(match[0])))
    if not _NUMBERS.search(text):
        return sorted(found)
    _take(found, "pii_credit_card", (match for match in _CARD.finditer(text) if is_card(match[0])))
    _take(found, "pii_ssn", _SSN.finditer(text))
    _take(found, "pii_ip", (match for match in _IPV4.finditer(text) if is_address(match[0])))
    _take(found, "pii_phone", (match for match in _PHONE.finditer(text) if is_phone(match[0])))
    return sorted(found)


def personal_codes(text: str) -> list[str]:
    """Codes of the personal data and secrets that a text has."""
    return sorted({code for _, _, code in personal_spans(text)})


def _take(found: list[Span], code: str, matches: Iterable[re.Match[str]]) -> None:
    for match in matches:
        _add(found, (match.start(), match.end(), code))


def _add(found: list[Span], span: Span) -> None:
    if not any(span[0] < end and start < span[1] for start, end, _ in found):
        found.append(span)


def is_phone(text: str) -> bool:
    """8 to 15 digits (E.164), or the 10 of a North American number; not one digit repeated."""
    digits = re.sub(r"\D", "", text)
    return 8 <= len(digits) <= 15 and len(set(digits)) > 2


def is_card(text: str) -> bool:
    """A number of a card network's range whose check digit is right (Luhn, ISO/IEC 7812-1)."""
    digits = re.sub(r"\D", "", text)
    network = re.match(r"4|5[1-5]|2[2-7]|6(?:011|4[4-9]|5)|35|62", digits) if len(digits) == 16 else None
    if len(digits) == 15:
        network = re.match(r"3[47]", digits)
    elif len(digits) == 14:
        network = re.match(r"3(?:0[0-5]|[689])", digits)
    if not network or len(set(digits)) < 2:
        return False
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (doubled + sum(int(digit) for digit in digits[-1::-2])) % 10 == 0


def is_address(text: str) -> bool:
    """An IP address of a machine: not loopback, mask, multicast or unspecified; 1.2.3.4 is a version or a section."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified or address.is_multicast or text.startswith(("0.", "255.")):
        return False
    return address.version == 6 or any(len(part) > 1 for part in text.split("."))


def _iban_end(text: str, match: re.Match[str]) -> int:
    """Where the account number ends (by its country); 0 when the check digits are wrong (ISO 13616)."""
    length = _IBAN_LENGTH.get(match[1], 0)
    end, signs = match.start(), 0
    while end < match.end() and signs < length:
        signs += text[end] != " "
        end += 1
    account = text[match.start() : end].replace(" ", "")
    if not length or signs < length or (end < len(text) and text[end].isalnum()):
        return 0
    number = int("".join(str(int(sign, 36)) for sign in account[4:] + account[:4]))
    return end if number % 97 == 1 else 0
