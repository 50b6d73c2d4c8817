"""The command line: quick, honest exit codes, text for people, JSON for machines, no traceback for what is expected."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time

import pytest

from skill.cli import build_parser, main
from skill.cli.show import Progress, duration, lines_of, table

COMMAND = [sys.executable, "-c", "import sys; from skill.cli import main; sys.exit(main())"]


def test_help_is_quick_and_documents_the_exit_codes():
    best = 9.0
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - started)
    assert "exit codes:" in done.stdout and "3  the job failed" in done.stdout
    assert best < 0.8, "measured 0.15 s idle; importing pydantic or the engine would show"


def test_every_verb_has_help_with_an_example(capsys):
    parser = build_parser()
    listed = parser.format_help()
    for verb in [
        "recommend",
        "estimate",
        "validate",
        "recipes",
        "check",
        "render",
        "launch",
        "status",
        "logs",
        "cancel",
        "resume",
        "list",
        "calibration",
        "merge",
        "eval",
        "env",
    ]:
        assert f"\n    {verb} " in listed
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help"])
        assert stopped.value.code == 0
        assert f"example: tunesmith {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["status", "absent"], 4, "No run 'absent'"),
        (["estimate", "owner/absent"], 4, "owner/absent"),
        (["validate", "absent.jsonl"], 4, "absent.jsonl"),
        (["validate", "../../etc/passwd"], 2, "outside the workspace"),
        (["recipes", "sft-lorra"], 4, "sft-lora"),
        (["status", "Bad Name"], 2, "Bad Name"),
        (["eval", "absent", "--candidate", "base", "--few-shot", "4"], 4, "No run 'absent'"),
        (["validate", "x.csv", "--column", "question"], 2, "--column question=prompt"),
    ],
)
def test_expected_errors_are_two_lines_and_a_code(ws, capsys, words, code, says):
    assert main(words) == code
    shown = capsys.readouterr()
    assert shown.out == "" and says in shown.err
    assert shown.err.startswith("error: ") and "Traceback" not in shown.err

    assert main([*words, "--json"]) == code
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] and says in error["message"] + error["hint"]


def test_wrong_usage_is_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["render", "x", "--epocs", "2"])
    assert stopped.value.code == 2 and "--epocs" in capsys.readouterr().err


def test_a_bug_is_70_and_shows_its_traceback_only_on_request(ws, capsys, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("skill.environment.inspect_environment", broken)
    assert main(["env"]) == 70
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("TUNESMITH_DEBUG", "1")
    assert main(["env"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_json_and_text_say_the_same(ws, capsys):
    assert main(["estimate", "Qwen/Qwen2.5-7B", "--method", "qlora", "--gpu", "L4", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert main(["estimate", "Qwen/Qwen2.5-7B", "--method", "qlora", "--gpu", "L4"]) == 0
    text = capsys.readouterr().out
    peak = body["device_peak"]["process_gib"]
    assert f"{peak['value']:.4g} ({peak['low']:.4g} to {peak['high']:.4g})" in text
    assert body["fits"][0]["verdict"] in text and text.rstrip().endswith(body["next_step"])


def test_recommend_passes_every_fact(ws, capsys):
    words = [
        "recommend",
        "answer support mail as JSON",
        "--needs",
        "format",
        "--examples",
        "12",
        "--signals",
        "private_data",
    ]
    assert main([*words, "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["verdict"] and "12" in json.dumps(body["understood"])


def test_workspace_option_before_and_after_the_verb(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TUNESMITH_WORKSPACE", raising=False)
    (tmp_path / "spec.yaml").write_text(
        "name: a\nmodel: {id: smollm2-135m-instruct}\ndata: {train: t.jsonl}\nmethod: {type: lora}\n", encoding="utf-8"
    )
    assert main(["-C", str(tmp_path), "check", "spec.yaml"]) == 0
    os.environ.pop("TUNESMITH_WORKSPACE")
    assert main(["check", "spec.yaml", "--workspace", str(tmp_path), "--json"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last) == {
        "name": "a",
        "valid": True,
        "fingerprint": json.loads(last)["fingerprint"],
        "dtype": "bfloat16",
    }


def test_check_reads_a_script_of_ones_own_and_names_each_stale_argument(ws, capsys):
    script = "from trl import SFTConfig\nargs = SFTConfig(output_dir='o', max_seq_length=8, warmup_ratio=0.1)\n"
    (ws.root / "train.py").write_text(script, encoding="utf-8")
    assert main(["check", "train.py"]) == 1
    out = capsys.readouterr().out
    assert "It is max_length now." in out and "warmup_steps=" in out


def test_check_names_every_problem(ws, capsys):
    (ws.root / "spec.yaml").write_text(
        "name: a\nmodel: {id: m}\ndata: {train: t.jsonl, max_seq_length: 9}\nmethod: {type: lora, rank: 4}\n",
        encoding="utf-8",
    )
    assert main(["check", "spec.yaml"]) == 2
    shown = capsys.readouterr().err
    assert "data.max_length" in shown and "method.r" in shown


def test_a_closed_pipe_is_no_error(ws):
    process = subprocess.Popen([*COMMAND, "recipes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    process.stdout.close()  # as `| head` does when it has seen enough
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=20) == 0 and said == ""


def test_tables_align_and_keep_long_cells_whole():
    rows = [
        {"gpu": "L4", "gib": 22.0, "note": None, "why": "short"},
        {"gpu": "RTX 4090", "gib": 5, "note": None, "why": "w" * 80},
    ]
    assert table(rows) == [
        "gpu       gib",
        "--------  ---",
        "L4         22",
        "  why: short",
        "RTX 4090    5",
        f"  why: {'w' * 80}",
    ]


def test_lines_show_intervals_lists_and_named_rows():
    body = {
        "peak_gib": {"value": 1.184, "low": 1.0, "high": 1.4},
        "empty": [],
        "nothing": None,
        "ok": True,
        "levers": ["a", "b" * 30],
        "words": ["a", "b"],
        "parameters": {"r": {"value": 16, "why": "x"}, "lora_alpha": {"value": 32, "why": "y"}},
    }
    assert lines_of(body) == [
        "peak gib  1.184 (1 to 1.4)",
        "ok        yes",
        "levers",
        "  - a",
        f"  - {'b' * 30}",
        "words     a, b",
        "parameters",
        "  name        value  why",
        "  ----------  -----  ---",
        "  r              16  x",
        "  lora alpha     32  y",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_redraws_one_line_on_a_terminal_and_is_sparse_in_a_log():
    screen, log = Terminal(), io.StringIO()
    for stream in (screen, log):
        bar = Progress("my-run", stream=stream, every_s=60)
        for step in (0, 5, 10):
            bar.update(step, 10, "loss 0.5")
        bar.close()
    assert screen.getvalue().count("\r") == 3 and "[####################] 10/10 loss 0.5" in screen.getvalue()
    assert screen.getvalue().count("\n") == 1
    assert log.getvalue().splitlines() == ["my-run [....................] 0/10 loss 0.5"]


def test_durations():
    assert [duration(s) for s in (42.4, 200, 7500)] == ["42 s", "3 min 20 s", "2 h 5 min"]


def test_serve_and_demo_reach_the_other_package(tmp_path, monkeypatch):
    called: list[object] = []
    monkeypatch.setattr("mcp_server.__main__.main", lambda argv: called.append(argv) or 0)
    monkeypatch.setattr("mcp_server.demo.main", lambda folder: called.append(folder) or 0)
    monkeypatch.setenv("TUNESMITH_WORKSPACE", "")
    assert main(["serve"]) == main(["serve", "--http", "0"]) == 0
    assert main(["demo"]) == main(["demo", "--workspace", str(tmp_path)]) == 0
    assert called == [[], ["--http", "0"], "demo-workspace", str(tmp_path)]
