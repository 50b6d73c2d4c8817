"""Reading the task's words: which signals of tables/evidence.yaml they give, and which facts they state."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from skill.advise.tables import table

_NUMBER = r"(?<![\d,])(?:\d[\d,]{0,15}(?:\.\d{1,6})?|\.\d{1,6})"  # bounded: digits without end must not cost time
_SPELT = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_PHRASES = {
    "half a million": "500000",
    "quarter of a million": "250000",
    "tens of thousands of": "30000",
    "hundreds of thousands of": "300000",
}
_READ = 8_000  # characters read; whatever follows is data, not the task
_WORDS = 4  # at most this many words between a count and what is counted


@dataclass(frozen=True)
class Reading:
    """What the words say. `quotes`: signal or fact -> the words it was read from."""

    signals: frozenset[str]
    facts: dict[str, float | str | int]
    quotes: dict[str, str]


def read(task: str) -> Reading:
    """Signals and facts in a task description. Deterministic; English."""
    text = normalise(task)
    quotes: dict[str, str] = {}
    for name, patterns in _patterns().items():
        hit = _first(patterns, text)
        if hit:
            quotes[name] = hit
    for name, groups in _hints().items():
        hits = [_first((group,), text) for group in groups]
        if all(hits):
            quotes[name] = " + ".join(str(hit) for hit in hits)
    signals = frozenset(quotes)
    facts: dict[str, float | str | int] = {}
    for cadence, pattern in _cadences().items():
        match = pattern.search(text)
        if match:
            facts["knowledge_update"] = cadence
            quotes["knowledge_update"] = match.group(0)
            break
    for name, found in (
        ("examples", _examples(text)),
        ("raw_mtokens", _raw_mtokens(text)),
        ("model_params_b", _params_b(text)),
        ("gpu_gib", _gpu_gib(text)),
        ("latency_ms", _latency_ms(text)),
        ("budget_usd_month", _budget(text)),
    ):
        if found is not None:
            facts[name], quotes[name] = found
    if re.search(r"\b(?:labell?ed|annotated|question[- ]answer pairs|instruction pairs)\b", text) and not re.search(
        r"\b(?:un-?labell?ed|no (?:labell?ed|annotated|question|instruction)|without)\b", text
    ):
        signals |= {"labelled"}
    return Reading(signals, facts, quotes)


def normalise(task: str) -> str:
    """Lower case, plain quotes and dashes, single spaces: patterns need not know typography."""
    text = re.sub(r"\s+", " ", task[:_READ]).strip().lower()
    text = text.replace("’", "'").replace("‘", "'").replace("–", "-").replace("—", " - ").replace("‑", "-")
    for word, digit in _SPELT.items():  # "three billion tokens" -> "3 billion tokens"
        text = re.sub(rf"\b{word} (?=(?:hundred|thousand|million|billion)\b)", f"{digit} ", text)
    for phrase, digits in _PHRASES.items():
        text = text.replace(phrase, digits)
    return text


@cache
def _patterns() -> dict[str, tuple[re.Pattern[str], ...]]:
    signals = table("evidence")["signals"]
    return {name: tuple(re.compile(p) for p in patterns) for name, patterns in signals.items()}


@cache
def _hints() -> dict[str, tuple[re.Pattern[str], ...]]:
    return {name: tuple(re.compile(p) for p in groups) for name, groups in table("evidence")["hints"].items()}


@cache
def _cadences() -> dict[str, re.Pattern[str]]:
    return {name: re.compile("|".join(patterns)) for name, patterns in table("evidence")["cadence"].items()}


@cache
def _denials() -> re.Pattern[str]:
    return re.compile(table("evidence")["denials"])


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> str | None:
    for pattern in patterns:
        for match in pattern.finditer(text):
            if not _denials().search(text[max(0, match.start() - 60) : match.start()]):
                return match.group(0)
    return None


def _value(digits: str, unit: str | None) -> float:
    words = table("evidence")["number_words"]
    unit = (unit or "").strip()
    return float(digits.replace(",", "")) * (words.get(unit, 1) if unit else 1)


@cache
def _count_patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    evidence = table("evidence")
    nouns = evidence["example_nouns"]
    words = "|".join(sorted((w for w in evidence["number_words"] if len(w) > 1 and w != "an"), key=len, reverse=True))
    between = rf"(?:\s+(?!(?:per|and|or|for|to|into|in|a|an|over)\b)[\w'/%-]+){{0,{_WORDS}}}?\s+"
    rate = r"(?!\w)(?!\s*(?:/|(?:a|per|each|every)\s+(?:day|week|month|hour|minute|second|year)|daily|weekly|monthly))"
    digits = re.compile(
        rf"(?<![\w$.€£-])({_NUMBER})\s?(k|m|thousand|million|hundred)?(?![\w%]|\s?(?:gb|tb|mb|gib|ms|b)\b|\s?[-]?\s?tokens)"
        rf"\+?(?:\s+(?:\w+ ){{0,2}}?(?:labell?ed|annotated|hand-labell?ed)\b"
        rf"|\s+(?:past|previous|historical|earlier|logged|existing|archived|collected|approved|aligned|verified)\s+\w+{rate}|{between}?\s*(?:{nouns}){rate})"
    )
    spoken = re.compile(
        rf"\b((?:(?:{words}|a|an)\s+)?(?:{words}))(?:\s+(?:of|or so|or two))?(?:\s+(thousands?|millions?|hundreds?))?"
        rf"(?:\s+of)?{between}?\s*(?:{nouns}){rate}"
    )
    none = re.compile(
        r"\b(?:no|without(?: any)?|zero|don't have(?: any)?|do not have(?: any)?|have no|lack)\s+(?:\w+\s+){0,2}?"
        r"(?:(?:training |labell?ed |good |input-output |question-answer |question and answer )"
        r"?(?:examples|samples|pairs|labels|training data|labelled data|labeled data|demonstrations))\b"
    )
    return digits, spoken, none


def _examples(text: str) -> tuple[int, str] | None:
    """The largest count of something that can serve as a training example."""
    digits, spoken, none = _count_patterns()
    words = table("evidence")["number_words"]
    best: tuple[int, str] | None = None
    for match in digits.finditer(text):
        if re.search(r"\b(?:raw|un-?labell?ed|unannotated)\b", match.group(0)):
            continue
        count = int(_value(match.group(1), match.group(2)))
        if best is None or count > best[0]:
            best = (count, match.group(0).strip())
    for match in spoken.finditer(text):
        if re.match(r"(?:one|two|three|four|five|a|an)\b", match.group(1)) and not re.search(
            r"dozen|hundred|thousand|million|few|couple|handful", match.group(0)
        ):
            continue  # "one base model", "a summary": an article, not a count
        count = 1.0
        for word in (match.group(1) + " " + (match.group(2) or "")).split():
            count *= words.get(word, 1)
        if best is None or count > best[0]:
            best = (int(count), match.group(0).strip())
    if best is None:
        best = _any_plural(text)
    if best is None:
        match = none.search(text)
        if match and not re.search(r"\breference solutions\b", match.group(0)):
            return 0, match.group(0)
    return best


@cache
def _other_counts() -> tuple[re.Pattern[str], re.Pattern[str]]:
    other = re.compile(rf"\b(?:{table('evidence')['other_nouns']}|raw|un-?labell?ed|unannotated)\b")
    rate = r"(?!\s*(?:/|(?:a|per|each|every)\s+(?:day|week|month|hour|year)|daily|weekly|monthly))"
    plural = re.compile(
        rf"(?<![\w$.€£-])({_NUMBER})\s?(k|m|thousand|million)?\s+((?:[a-z][a-z'/-]+\s+){{0,2}}?[a-z]{{2,}}s)\b{rate}"
    )
    return other, plural


def _any_plural(text: str) -> tuple[int, str] | None:
    """A count (from 100 on) of some plural that is not known to be something else: "4,000 scripted exchanges"."""
    other, plural = _other_counts()
    for match in plural.finditer(text):
        count = int(_value(match.group(1), match.group(2)))
        if count >= 100 and not other.search(match.group(3)) and not 1900 <= count <= 2100:
            return count, match.group(0)
    return None


def _raw_mtokens(text: str) -> tuple[float, str] | None:
    """Raw text in millions of tokens: stated, or 250 a GB (about 4 bytes a token of English)."""
    match = re.search(rf"({_NUMBER})\s?(k|m|b|t|thousand|million|billion|trillion)?\s+(?:\w+\s+){{0,2}}tokens\b", text)
    if match and not re.search(
        r"prompt|of instructions|per (?:call|request)|context", text[match.start() : match.end() + 30]
    ):
        scale = {"k": 1e-3, "thousand": 1e-3, "m": 1, "million": 1, "b": 1e3, "billion": 1e3, "t": 1e6, "trillion": 1e6}
        return _value(match.group(1), None) * scale.get(match.group(2) or "", 1e-6), match.group(0)
    match = re.search(
        rf"({_NUMBER})\s?(mb|gb|tb|gib|gigabytes?|terabytes?|megabytes?) (?:of|worth of)\s+(?!vram|memory|ram|gpu)",
        text,
    )
    if match:
        scale = {"m": 0.25, "g": 250.0, "t": 250_000.0}[match.group(2)[0]]
        return _value(match.group(1), None) * scale, match.group(0).strip()
    match = re.search(rf"({_NUMBER})\s?(k|thousand|m|million|billion) (?:\w+ )?(pages|words)\b", text)
    if match:  # about 500 tokens a page, 1.3 a word
        per = 500e-6 if match.group(3) == "pages" else 1.3e-6
        return _value(match.group(1), match.group(2)) * per, match.group(0)
    raw = r"(?:raw|un-?labell?ed|unannotated)"
    match = re.search(rf"({_NUMBER})\s?(k|thousand|m|million)?\s+(?:\w+ )?{raw} (?:\w+ )?\w+s\b", text)
    if match:  # documents of about 1,000 tokens
        return _value(match.group(1), match.group(2)) * 1e-3, match.group(0)
    match = re.search(r"\b(millions|billions|hundreds of millions) of (?:\w+ )?(?:tokens|pages|words)\b", text)
    if match:
        return {"millions": 50.0, "billions": 2000.0}.get(match.group(1), 300.0), match.group(0)
    return None


def _params_b(text: str) -> tuple[float, str] | None:
    """Parameters in billions; of several sizes the smallest, which is the one to be trained."""
    found = (
        [
            (_value(m.group(1), None), m.group(0))
            for m in re.finditer(
                rf"(?<![\w$.])({_NUMBER})\s?(?:b|billion)\b(?!\s+(?:\w+\s+){{0,2}}(?:tokens|rows|words|dollars))", text
            )
        ]
        + [(_value(m.group(1), None), m.group(0)) for m in re.finditer(rf"(?<=-)({_NUMBER})b\b", text)]
        + [
            (_value(m.group(1), None) / 1000, m.group(0))
            for m in re.finditer(rf"(?<![\w$.])({_NUMBER})\s?m(?:illion)?[ -](?:parameters?|params?|model)\b", text)
        ]
    )
    return min(found) if found else None


def _gpu_gib(text: str) -> tuple[float, str] | None:
    """GPU memory: `N GB` beside a word for a card, or a card's name; times the number of cards."""
    counts = r"(?:(\d{1,3}|two|four|eight|sixteen)\s?(?:x|×)?\s+)?"
    number = {"two": 2, "four": 4, "eight": 8, "sixteen": 16}
    match = re.search(
        rf"{counts}(\d{{1,3}})[ -]?(?:gb|gib)\s?(?:of )?(?:gpus?|cards?|vram|graphics|video|gpu memory)", text
    )
    if match:
        many = match.group(1) or "1"
        return float(match.group(2)) * number.get(many, int(many) if many.isdigit() else 1), match.group(0).strip()
    for name, gib in table("evidence")["gpus"].items():
        match = re.search(
            rf"{counts}(?:nvidia |geforce |rtx )*\b{re.escape(str(name))}s?\b(?:[ -]?(\d{{2,3}})\s?(?:gb|gib))?",
            text,
        )
        if match:
            many = match.group(1) or "1"
            size = float(match.group(2)) if match.group(2) else float(gib)
            return size * number.get(many, int(many) if many.isdigit() else 1), match.group(0).strip()
    if re.search(r"\b(?:no gpu|without (?:a )?gpu|cpu[- ]only|only (?:a )?cpus?)\b", text):
        return 0.0, "no GPU"
    return None


def _latency_ms(text: str) -> tuple[float, str] | None:
    match = re.search(rf"({_NUMBER})\s?(?:ms|milliseconds?)\b", text)
    if match:
        return _value(match.group(1), None), match.group(0)
    match = re.search(
        r"\b(?:sub-?second|low[- ]latency|instant(?:ly|aneous)?|tight latency|latency[- ](?:critical|sensitive))\b",
        text,
    )
    return (500.0, match.group(0)) if match else None


def _budget(text: str) -> tuple[float, str] | None:
    match = re.search(r"\b(?:no (?:budget|money)|zero budget|without (?:a |any )?budget)\b", text)
    if match:
        return 0.0, match.group(0)
    match = re.search(rf"\$\s?({_NUMBER})(k)?\s?(?:/|a|per)\s?month|\bbudget (?:of|is) \$?({_NUMBER})(k)?", text)
    if match:
        digits, unit = (match.group(1), match.group(2)) if match.group(1) else (match.group(3), match.group(4))
        return _value(digits, unit), match.group(0)
    return None
