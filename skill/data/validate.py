"""validate_dataset: what will be trained, what is wrong, what to do; before a GPU is touched."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

from skill.data.checks import DROPPED, MIN_ROWS, Checker, key, question_of, texts_of
from skill.data.conversation import Example, RowFault
from skill.data.personal import personal_codes
from skill.data.render import CanonicalRow, Masked, Renderer, canonical_rows
from skill.data.report import DatasetReport, Finding, TokenReport, Verdict
from skill.data.source import Source
from skill.models import find_model
from skill.workspace import Workspace

BATCH = 256  # rows tokenised together
SHOWN = 14  # findings told in full; more are named only, to keep the report below 2000 tokens


def validate_dataset(
    ws: Workspace,
    path: str,
    *,
    model: str | None = None,
    eval_path: str | None = None,
    max_length: int = 1024,
    columns: dict[str, str] | None = None,
    system: str | None = None,
    sample: int | None = None,
) -> DatasetReport:
    """Read a dataset as training would, and say which tokens are trained and what is wrong with which rows.

    Args:
        path: file or folder inside the workspace.
        model: its tokenizer and chat template give the token report; None leaves tokens out.
        eval_path: held-out file; training rows with the same user messages are reported as train_eval_leak.
        max_length: tokens; longer rows are reported as overlength (training drops them).
        columns: your column -> prompt, completion, system, messages or text.
        system: system message for rows without one.
        sample: read only the first rows, for a quick answer while you work on the file.

    Raises:
        DataError: unreadable, empty, or of no known format (with a `columns` suggestion where names are near).
        ModelNotFound, ModelUnsupported: about `model`.
    """
    file = ws.read_path(path, what="dataset")
    source = Source(file, columns=columns)
    leaked = question_keys(ws.read_path(eval_path, what="held-out dataset"), columns) if eval_path else None
    renderer = Renderer(find_model(ws, model)) if model else None
    scan = Scan(source, Checker(leaked), renderer, max_length=max_length, system=system)
    scan.run(sample)
    return scan.report(path)


def question_keys(file: Path, columns: Mapping[str, str] | None = None) -> set[bytes]:
    """Keys of the user messages of a held-out file; your columns are used where it has them."""
    return {key(question_of(row.example)) for row in open_eval(file, columns) if row.example is not None}


def open_eval(file: Path, columns: Mapping[str, str] | None) -> Source:
    """A held-out file: in the same columns as the training file, or in any known format."""
    from skill.errors import DataError

    if columns:
        try:
            return Source(file, columns=columns)
        except DataError:
            pass
    return Source(file)


class Scan:
    """One pass over a dataset: checks, tokens and masks."""

    def __init__(
        self, source: Source, checker: Checker, renderer: Renderer | None, *, max_length: int, system: str | None
    ) -> None:
        self.source = source
        self.checker = checker
        self.renderer = renderer
        self.max_length = max_length
        self.system = system
        self.rows = self.examples = self.usable = 0
        self.sampled = False
        self.lengths: array[int] = array("Q")
        self.trained = 0
        self.unstopped = 0
        self.preview: list[str] = []
        self.chat = renderer is None or renderer.info.has_chat_template

    def run(self, sample: int | None = None) -> None:
        """Read all rows, or the first `sample`."""
        good: list[tuple[int, Example]] = []
        for row in itertools.islice(self.source, sample):
            self.rows += 1
            if row.example is None:
                if row.code != "wrong_format":
                    self.checker.fault(row.code, row.number, row.detail)
                elif row.value is not None:
                    self.checker.preference(row.number, row.value)
                continue
            self.checker.example(row.number, row.example)
            good.append((row.number, row.example))
            if len(good) == BATCH:
                self._tokens(good)
                good = []
        self._tokens(good)
        if sample is not None and self.rows == sample:
            self.sampled = next(itertools.islice(self.source, sample, None), None) is not None
        if not self.source.format.trainable:
            self.checker.dataset_fault("wrong_format", f"{self.source.format.rule}: not data for objective 'sft'")
        elif self.usable < MIN_ROWS and not self.sampled:
            self.checker.dataset_fault("too_few_rows", f"{self.usable} usable rows")

    def _tokens(self, batch: list[tuple[int, Example]]) -> None:
        if self.renderer is None:
            self.usable += len(batch)
            self.examples += sum(1 for _, example in batch for _ in canonical_rows(example, chat=True))
            return
        rows = [
            (number, example, list(canonical_rows(example, chat=self.chat, system=self.system)))
            for number, example in batch
        ]
        flat = [one for _, _, several in rows for one in several]
        masked = iter(self._masked(flat))
        for number, example, several in rows:
            fits = False
            for _ in several:
                one = next(masked)
                if isinstance(one, RowFault):
                    self.checker.fault(one.code, number, one.detail)
                    continue
                self.examples += 1
                fits |= self._one(number, one)
            self.usable += fits
            if fits and len(self.preview) < 2 and not any(personal_codes(text) for text in texts_of(example)):
                self._show(several[0])

    def _masked(self, rows: list[CanonicalRow]) -> Iterator[Masked | RowFault]:
        assert self.renderer is not None
        try:
            yield from self.renderer.mask(rows)
            return
        except RowFault as fault:
            if len(rows) == 1:
                yield fault
                return
        for row in rows:  # one of them is refused: find out which
            yield from self._masked([row])

    def _one(self, number: int, masked: Masked) -> bool:
        """Count one example; whether training would keep it."""
        assert self.renderer is not None
        self.lengths.append(len(masked.ids))
        self.trained += len(masked.ids) - masked.context
        if self.renderer.double_bos(masked.ids):
            self.checker.fault("double_bos", number)
        if len(masked.ids) > self.max_length:
            self.checker.fault("overlength", number, f"{len(masked.ids)} tokens")
            return False
        if masked.context == len(masked.ids):
            self.checker.fault("empty_output", number, "no token is left to train after the template")
            return False
        # A newline may follow the end-of-turn token in a template; text in between may not.
        if self.renderer.stop_ids and not self.renderer.stop_ids & set(masked.trained[-4:]):
            self.unstopped += 1
            self.checker.fault("stop_token_untrained", number)
        return True

    def _show(self, row: CanonicalRow) -> None:
        assert self.renderer is not None
        masked = self.renderer.mask([row])[0]
        context = escaped(self.renderer.decode(masked.ids[: masked.context]))
        trained = escaped(self.renderer.decode(masked.trained))
        context = context if len(context) <= 240 else "…" + context[-240:]
        trained = trained if len(trained) <= 240 else trained[:180] + "…" + trained[-60:]
        self.preview.append(f"{context}⟦{trained}⟧")

    def token_report(self) -> TokenReport | None:
        if self.renderer is None or not self.lengths:
            return None
        lengths = sorted(self.lengths)
        total, longest, p95 = sum(lengths), lengths[-1], quantile(lengths, 0.95)
        target = longest if longest <= 2 * p95 else quantile(lengths, 0.99)
        recommended = max(64, -(-target // 64) * 64)
        if self.renderer.info.max_positions:
            recommended = min(recommended, self.renderer.info.max_positions)
        return TokenReport(
            total=total,
            trained=self.trained,
            trained_share=round(self.trained / total, 3) if total else 0.0,
            longest=longest,
            p50=quantile(lengths, 0.5),
            p95=p95,
            max_length=self.max_length,
            over_max_length=sum(length > self.max_length for length in lengths),
            recommended_max_length=recommended,
            stop_token=self.renderer.stop_token,
            stop_token_trained=bool(self.renderer.stop_ids) and self.unstopped == 0,
        )

    def report(self, path: str) -> DatasetReport:
        findings = self.checker.findings()
        tokens = self.token_report()
        verdict = self._verdict(findings)
        rest = ", ".join(f"{finding.code} {finding.count}" for finding in findings[SHOWN:])
        more = f" Found as well (mend the others first to see their rows): {rest}." if rest else ""
        return DatasetReport(
            path=path,
            format=self.source.format.name,
            conversion=self.source.format.rule,
            rows=self.rows,
            sampled=self.sampled,
            examples=self.examples,
            usable_rows=self.usable,
            findings=findings[:SHOWN],
            tokens=tokens,
            preview=self.preview,
            verdict=verdict,
            next_step=self._next_step(verdict, findings, tokens) + more,
        )

    def _verdict(self, findings: list[Finding]) -> Verdict:
        if self.usable == 0 or (self.lengths and self.unstopped == len(self.lengths)):
            return "not_usable"
        if any(finding.severity != "info" for finding in findings):
            return "usable_with_warnings"
        return "ready"

    def _next_step(self, verdict: Verdict, findings: list[Finding], tokens: TokenReport | None) -> str:
        codes = ", ".join(finding.code for finding in findings[:4])
        if verdict == "not_usable":
            return f"Mend {codes or 'the file'} (see `fix`), then call validate_dataset again."
        if tokens is None:
            return "Call validate_dataset again with `model` to see tokens, the loss mask and the stop token."
        if tokens.over_max_length:
            return (
                f"Call render_training_script with max_length={tokens.recommended_max_length}; at {self.max_length} "
                f"{tokens.over_max_length} of {self.examples} examples would be dropped."
            )
        after = f" Findings left: {codes}." if findings else ""
        if any(finding.code in DROPPED for finding in findings):
            after += " Rows that cannot be trained on will be dropped and listed."
        return (
            f"Call estimate_vram, then render_training_script, with max_length={tokens.recommended_max_length}.{after}"
        )


def quantile(ordered: list[int], share: float) -> int:
    """The value at a share of an ordered list (nearest rank)."""
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def escaped(text: str) -> str:
    """Untrusted text on one line: control, format and bidirectional characters as escapes."""
    pieces = []
    for character in text:
        if character == "\n":
            pieces.append("\\n")
        elif character.isprintable() and character not in "⟦⟧":
            pieces.append(character)
        else:
            pieces.append(character.encode("unicode_escape").decode("ascii"))
    return "".join(pieces)
