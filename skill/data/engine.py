"""Templates and tokenizers: a light engine (`tokenizers`, sandboxed Jinja) where proved equal, else transformers.

The proof compares both on a few hard conversations and texts in a process of its own, once for each tokenizer, and is
kept in the cache.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from skill.child import run_module
from skill.data.conversation import RowFault
from skill.models import ModelInfo, load_tokenizer, tokenizer_folder
from skill.workspace import cache_dir, write_json

PROOF_VERSION = 1  # raise it when the light engine or the probes change
_PROBES: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
    [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "  What is 12345 × 6?\n\n```py\nx = {'a': 1}\n```"},
        {"role": "assistant", "content": '{"a": [1, 2], "b": "ümläut 東京 \u2028 🙂"}'},
    ],
    [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "\n\ntwo "},
        {"role": "user", "content": "\tthree<|im_end|> <s> [INST]"},
        {"role": "assistant", "content": "four"},
    ],
]
_PROBE_TEXTS = ["", "plain text", " two\n\nlines 2024-11-20 ", "ümläut 東京 🙂 <s></s>"]


def engine_for(info: ModelInfo) -> FastEngine | SlowEngine:
    """The light engine where it gave the same ids as transformers for every probe, else transformers itself."""
    try:
        fast = FastEngine(tokenizer_folder(info))
    except _NotFast:
        return SlowEngine(info)
    record = cache_dir() / "proofs" / f"{fast.digest}.json"
    equal = _read_proof(record)
    if equal is None:
        run_module("skill.data.engine", info.model_dump_json(), str(record))
        equal = _read_proof(record)
    return fast if equal else SlowEngine(info)


def _read_proof(record: Path) -> bool | None:
    try:
        return json.loads(record.read_text(encoding="utf-8"))["equal"] is True
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prove(info: ModelInfo, record: Path) -> None:
    """Compare both engines on the probes and record the outcome."""
    equal = _same(FastEngine(tokenizer_folder(info)), SlowEngine(info))
    write_json(record, {"equal": equal, "model": info.id, "probes": len(_PROBES) + len(_PROBE_TEXTS)})


def _same(fast: FastEngine, slow: SlowEngine) -> bool:
    """Whether both engines render and tokenise the probes alike (a refusal by both counts as alike)."""
    if (fast.eos_token, fast.stop_ids, fast.bos_id) != (slow.eos_token, slow.stop_ids, slow.bos_id):
        return False

    def rendered(engine: FastEngine | SlowEngine, messages: list[dict[str, str]], generation: bool) -> str | None:
        try:
            return engine.render(messages, generation=generation)
        except RowFault:
            return None

    if fast.has_template != slow.has_template:
        return False
    texts = list(_PROBE_TEXTS)
    if fast.has_template:
        for probe in _PROBES:
            for messages, generation in ((probe, False), (probe[:-1], True)):
                one, two = rendered(fast, messages, generation), rendered(slow, messages, generation)
                if one != two:
                    return False
                texts.append(one or "")
    return all(fast.encode(texts, specials=flag) == slow.encode(texts, specials=flag) for flag in (False, True))


class _NotFast(Exception):
    """This tokenizer needs transformers."""


def _refuse(message: str) -> NoReturn:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


class FastEngine:
    """tokenizer.json through `tokenizers`, the template through a sandboxed Jinja set up as transformers does."""

    def __init__(self, folder: Path) -> None:
        try:
            raw = (folder / "tokenizer.json").read_bytes()
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _NotFast from error
        template = _template_of(folder, config)
        # Dunder names are what escapes from a sandbox are made of; {% generation %} needs transformers' extension.
        if template and ("__" in template or re.search(r"{%-?\s*generation", template)):
            raise _NotFast
        stops = _generation_stops(folder)
        identity = [config, template, stops, PROOF_VERSION]
        self.digest = hashlib.sha256(raw + json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        self._load(raw)
        self._template = _compile(template) if template else None
        self.has_template = self._template is not None
        self._special = {key: _text(value) for key, value in config.items() if key.endswith("_token") and value}
        self._special = {key: value for key, value in self._special.items() if isinstance(value, str)}
        self.eos_token = self._special.get("eos_token", "")
        eos_id = self._tokenizer.token_to_id(self.eos_token) if self.eos_token else None
        self.stop_ids = {*stops, *([] if eos_id is None else [eos_id])}
        bos = self._special.get("bos_token")
        self.bos_id = self._tokenizer.token_to_id(bos) if bos else None

    def _load(self, raw: bytes) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_buffer(raw)
        except Exception as error:  # tokenizers raises bare Exception
            raise _NotFast from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # Text is cut at these before anything else, so what stands between two of them is tokenised by itself. Tokens
        # that also take the spaces beside them, or match normalised text, cut elsewhere than a search would.
        added = self._tokenizer.get_added_tokens_decoder()
        plain = all(not (t.lstrip or t.rstrip or t.single_word or t.normalized) for t in added.values())
        words = sorted((re.escape(t.content) for t in added.values()), key=len, reverse=True)
        self.cuts = re.compile("|".join(words)) if plain and words else None
        self.cut_ids = frozenset(added)

    def render(self, messages: list[dict[str, str]], *, generation: bool) -> str:
        from jinja2.exceptions import TemplateError

        if self._template is None:
            raise RowFault("template_refused", "the model has no chat template")
        try:
            return self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=generation, **self._special
            )
        except (TemplateError, TypeError, ValueError, KeyError, OverflowError) as error:
            raise RowFault("template_refused", str(error)[:200]) from error

    def encode(self, texts: Sequence[str], *, specials: bool) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=specials)
        return [one.ids for one in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


class SlowEngine:
    """transformers itself; for tokenizers that the fast engine does not reproduce."""

    def __init__(self, info: ModelInfo) -> None:
        self._tokenizer = load_tokenizer(info)
        self.has_template = bool(self._tokenizer.chat_template)
        self.eos_token = self._tokenizer.eos_token or ""
        eos_id = self._tokenizer.eos_token_id
        self.stop_ids = {*_generation_stops(tokenizer_folder(info)), *([] if eos_id is None else [eos_id])}
        self.bos_id = self._tokenizer.bos_token_id

    def render(self, messages: list[dict[str, str]], *, generation: bool) -> str:
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
        except Exception as error:  # a template raises what it likes
            raise RowFault("template_refused", str(error)[:200]) from error

    def encode(self, texts: Sequence[str], *, specials: bool) -> list[list[int]]:
        return self._tokenizer(list(texts), add_special_tokens=specials, verbose=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def _compile(template: str) -> Any:
    """The template in transformers' environment (utils/chat_template_utils.py), immutable and sandboxed."""
    import jinja2.ext
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise _NotFast from error


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _text(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value


def _template_of(folder: Path, config: dict[str, Any]) -> str | None:
    """The default chat template, from where transformers looks for it."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if (folder / "chat_template.json").is_file():
        return json.loads((folder / "chat_template.json").read_text(encoding="utf-8")).get("chat_template")
    value = config.get("chat_template")
    if isinstance(value, list):
        value = next((item.get("template") for item in value if item.get("name") == "default"), None)
    return value if isinstance(value, str) else None


def _generation_stops(folder: Path) -> list[int]:
    """Token ids that end generation (generation_config.json)."""
    try:
        value = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError):
        return []
    if isinstance(value, int):
        return [value]
    return sorted(item for item in value if isinstance(item, int)) if isinstance(value, list) else []


if __name__ == "__main__":
    prove(ModelInfo.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
