"""Does validate_dataset find the faults of datasets, and only those?

    python benchmarks/dataset_detection.py CASES_DIR     # CASE/data.*, CASE/expected.json
    python benchmarks/dataset_detection.py --generated   # the seeded cases of tests/data/detection_cases.py

expected.json: {"codes": {code: [rows]}, "format": name}, and as it likes: "max_length", "args": {"eval": FILE},
"ignore": {code: [rows]} (rows that count neither as hit nor as false alarm). Rows are 0-based records in file order; a
code with no rows is a fault of the dataset. A row with a code is one decision, and so is a dataset with one. Lines
before the last say what was wrong. The last line is one JSON object: cases, precision,
recall, format_accuracy, per_code.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from skill.data.checks import Checker
from skill.data.render import Renderer
from skill.data.source import Source
from skill.data.validate import Scan, question_keys
from skill.errors import TunesmithError
from skill.models import EMBEDDED, find_model
from skill.workspace import Workspace

Decision = tuple[str, int]  # code and row; -1 for the dataset
ROOT = Path(__file__).resolve().parent.parent


def decisions(data: Path, expected: dict[str, Any], renderer: Renderer | None) -> tuple[set[Decision], str]:
    """What the engine says of one file, by the same scan that validate_dataset runs, with all rows of each code."""
    held_out = expected.get("args", {}).get("eval")
    try:
        source = Source(data)
        checker = Checker(question_keys(data.parent / held_out) if held_out else None)
        scan = Scan(source, checker, renderer, max_length=expected.get("max_length", 1024), system=None)
        scan.run(None)
        findings = checker.findings()  # the report shows the gravest of them in full, and names the rest
    except TunesmithError as error:
        print(f"{data.parent.name}: {error}")
        return set(), ""
    said = {(finding.code, row) for finding in findings for row in checker.rows_of(finding.code)}
    return said | {(finding.code, -1) for finding in findings if not finding.count}, source.format.name


def planted(rows_of_code: dict[str, list[int]]) -> set[Decision]:
    return {(code, row) for code, rows in rows_of_code.items() for row in (rows or [-1])}


def score(root: Path, renderer: Renderer | None) -> dict[str, Any]:
    """Micro precision and recall over all decisions of all cases; cases are folders with expected.json."""
    hits: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    false: Counter[str] = Counter()
    folders = sorted(path.parent for path in root.glob("*/expected.json"))
    right_format = 0
    for folder in folders:
        expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        data = next(path for path in sorted(folder.iterdir()) if path.name.startswith("data."))
        said, form = decisions(data, expected, renderer)
        right_format += form == expected.get("format", form)
        truth, ignored = planted(expected["codes"]), planted(expected.get("ignore", {}))
        said, truth = said - ignored, truth - ignored
        for counter, found, word in (
            (hits, said & truth, ""),
            (missed, truth - said, "missed"),
            (false, said - truth, "false"),
        ):
            counter.update(code for code, _ in found)
            if word and found:
                print(f"{folder.name}: {word} {sorted(found)}")
    codes = sorted({*hits, *missed, *false})
    total, all_missed, all_false = hits.total(), missed.total(), false.total()
    return {
        "cases": len(folders),
        "precision": ratio(total, total + all_false),
        "recall": ratio(total, total + all_missed),
        "format_accuracy": ratio(right_format, len(folders)),
        "per_code": {
            code: {
                "planted": hits[code] + missed[code],
                "precision": ratio(hits[code], hits[code] + false[code]),
                "recall": ratio(hits[code], hits[code] + missed[code]),
            }
            for code in codes
        },
    }


def ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def generate(root: Path) -> None:
    spec = importlib.util.spec_from_file_location("detection_cases", ROOT / "tests" / "data" / "detection_cases.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_cases(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="?", type=Path, metavar="CASES_DIR")
    parser.add_argument("--generated", action="store_true", help="score the seeded cases instead of a folder")
    parser.add_argument("--model", default=EMBEDDED, help="its tokenizer gives the token codes; '' leaves them out")
    args = parser.parse_args()
    if bool(args.cases) == args.generated:
        parser.error("give CASES_DIR or --generated")
    with tempfile.TemporaryDirectory() as folder:
        renderer = Renderer(find_model(Workspace.open(Path(folder)), args.model)) if args.model else None
        cases = args.cases or Path(folder) / "cases"
        if args.generated:
            generate(cases)
        print(json.dumps(score(cases, renderer)))


if __name__ == "__main__":
    main()
