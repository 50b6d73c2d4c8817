"""What is wrong with the wording of a row: loops, boilerplate, stray control characters, broken encodings, tokens."""

from __future__ import annotations

import itertools
import re
from collections import Counter

from skill.data.near import words_of

LOOPS = 5  # a phrase said this often in a row comes from a model that got stuck

# C0 and C1 controls but tab, newline, carriage return; zero-width space, word joiner, BOM; bidirectional overrides.
CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
# UTF-8 that was read as Windows-1252 or Latin-1 (Ã© for é, â€™ for ’), and what a lost byte leaves (U+FFFD).
MOJIBAKE = re.compile(
    "Ã[\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
    "|â(?:€|\x80)[\x80-\xbf\u0152\u0153\u0161\u017e\u02dc\u2013-\u203a\u20ac\u2122]"
    "|Â[\xa0-\xbf]|ï»¿|ðŸ|\ufffd"
    "|(?:[ÐÑ][\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]){3,}"
)
_TOKEN = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|startoftext|begin_of_text|end_of_text|eot_id|eom_id|start_header_id|"
    r"end_header_id|system|user|assistant|end|python_tag|fim_prefix|fim_middle|fim_suffix|pad|return|channel|message)\|>"
    r"|<(?:start|end)_of_turn>|<(?:bos|eos)>|\[/?INST\]|<</?SYS>>|<｜[^｜<>]{2,40}｜>|^\s*<s>(?!.*</s>.)|</s>\s*$"
)
_REFUSAL = re.compile(
    r"\bas an? (?:\w+ )?(?:AI|artificial intelligence)(?: language)? model\b|\bas a (?:large )?language model\b"
    r"|\bas an? (?:\w+ )?(?:AI|artificial intelligence)(?: assistant| chatbot)?,? I(?:['’]m| am| do| can| have)?"
    r"(?: ?not\b|n['’]t\b| no\b| unable\b|not\b)"
    r"|\bI(?:['’]m| am) (?:just |only )?an? (?:AI )?(?:large )?language model\b"
    r"|\A\W*(?:(?:I['’]m|I am) (?:very |really |truly )?sorry,? (?:but )?)?"
    r"(?:I (?:can(?:no|['’])t|am (?:not able|unable) to|must decline to)|I['’]m (?:not able|unable) to) "
    r"(?:assist|help|fulfill?|comply|provide|answer|do that|create|generate|complete|support|engage|discuss|share)",
    re.IGNORECASE,
)
_INJECTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b (?:\w+ ){0,3}?(?:previous|prior|above|earlier|preceding|foregoing) "
    r"(?:\w+ ){0,2}?(?:instructions?|prompts?|directions?|rules|guidelines|commands?)"
    r"|\b(?:reveal|print|repeat|show|output|leak) (?:me )?(?:your|the) (?:\w+ )?system prompt"
    r"|\byou are now (?:DAN\b|in developer mode|an? (?:unrestricted|unfiltered|jailbroken))",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"(?:n/?a|null|nan|todo|tbd|tba|xxx+|\?+|\.{2,}|…|-{2,}|_{2,}|lorem ipsum.*|"
    r"<?no ?(?:output|answer|response|input)>?|\[?(?:insert|your|placeholder)\b[^\n]{0,40}?\]?|"
    r"\[(?:answer|response|output|placeholder|deleted|removed)\])[.\s]*",
    re.IGNORECASE | re.DOTALL,
)
_MASHED = re.compile(r"([^\W\d_])\1{11,}")
_MARKS = re.compile(r"[\s.,;:!?…~#*_=|/\\-]{3,}")


# Plain words that the slow patterns cannot do without.
_INJECTION_WORDS = ("ignore", "disregard", "forget", "override", "system prompt", "you are now")
_REFUSAL_WORDS = (" ai", "artificial intel", "language model")
_REFUSAL_HEADS = ("can't", "can’t", "cannot", "unable", "not able", "decline")


def wording_codes(prompts: list[str], answers: list[str], *, templated: bool = False) -> list[str]:
    """Codes of one row. `templated`: a text that is trained whole may hold template tokens on purpose."""
    codes = []
    whole = "\n".join((*prompts, *answers))
    broken = MOJIBAKE.search(whole) if not whole.isascii() else None
    if broken:
        codes.append("mojibake")
    if not whole.isprintable() and CONTROL.search(MOJIBAKE.sub("", whole) if broken else whole):
        codes.append("control_characters")
    if not templated and ("<" in whole or "[" in whole) and any(map(_TOKEN.search, (*prompts, *answers))):
        codes.append("special_token_in_text")
    lowered = whole.lower()
    if any(word in lowered for word in _INJECTION_WORDS) and any(map(_INJECTION.search, (*prompts, *answers))):
        codes.append("prompt_injection_suspect")
    if any(map(_refuses, answers)):
        codes.append("refusal_boilerplate")
    if any(map(is_degenerate, answers)):
        codes.append("degenerate_output")
    elif any(map(is_looping, answers)):
        codes.append("repetition")
    return codes


def _refuses(answer: str) -> bool:
    lowered = answer.lower()
    head = lowered[:80]
    if any(word in lowered for word in _REFUSAL_WORDS) or any(word in head for word in _REFUSAL_HEADS):
        return bool(_REFUSAL.search(answer))
    return False


def is_degenerate(answer: str) -> bool:
    """A placeholder, punctuation alone, or one letter held down."""
    text = answer.strip()
    if len(text) < 80 and (_PLACEHOLDER.fullmatch(text) or _MARKS.fullmatch(text)):
        return True
    mashed = _MASHED.search(text)
    return bool(mashed) and 2 * (mashed.end() - mashed.start()) >= len(text)


def is_looping(answer: str) -> bool:
    """A phrase of 1 to 20 words, LOOPS times in a row, and 15 words of it at least: tables and lists do not do that."""
    words = answer.lower().split() if answer.isascii() else words_of(answer)
    if len(words) < 15:
        return False
    # A loop repeats its word triples; most answers have none so frequent and are done here.
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    for triple, count in triples.most_common(3):
        said = "".join(triple)
        if count < LOOPS - 1:
            return False
        if not any(map(str.isalpha, said)) or any(sign in said for sign in "<{&;="):
            continue  # a table, or markup and code, which repeat themselves by nature
        at = [i for i in range(len(words) - 2) if (words[i], words[i + 1], words[i + 2]) == triple]
        periods = {two - one for one, two in itertools.pairwise(at) if two - one <= 20}
        if any(_run(words, period) >= max(LOOPS * period, 15) for period in periods):
            return True
    return False


def _run(words: list[str], period: int) -> int:
    """Words of the longest stretch that repeats with this period."""
    best = run = 0
    for one, other in zip(words, words[period:], strict=False):
        run = run + 1 if one == other else 0
        best = max(best, run)
    return best + period if best else 0
