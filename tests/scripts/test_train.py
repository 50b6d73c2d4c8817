"""The rendered script, run as a person would run it: training, masks, stops, resume, a move to another place."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from skill.scripts import render_run
from tests.scripts.conftest import LORA, child_environment, run_script

METHODS = [LORA, {"type": "qlora", "r": 4}, {"type": "full"}, {"type": "prefix", "num_virtual_tokens": 4}]


def metrics(folder: Path) -> list[dict]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_run_from_first_to_last(ws, make_spec, tiny_model, conversations):
    spec = make_spec(
        model={"id": tiny_model.id},
        data={"max_length": 60},
        training={"per_device_train_batch_size": 4, "learning_rate": 1e-2, "num_train_epochs": 2},
    )
    report = render_run(ws, spec)
    folder = ws.run("run").path
    done = run_script(folder)
    assert done.returncode == 0, done.stderr

    start, *events = metrics(folder)
    assert start["event"] == "start" and start["step"] == 0
    assert start["rows"] + start["rows_too_long"] == report.rows_train
    steps = [event for event in events if "loss" in event]
    evals = [event for event in events if "eval_loss" in event]
    assert [event["step"] for event in steps] == list(range(1, start["total"] + 1))
    assert len(evals) == 5 and evals[-1]["step"] == start["total"]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["tokens"] == 2 * (start["trained_tokens"] + start["context_tokens"])
    assert all(event["tokens_per_s"] > 0 and event["rss_gib"] > 0 for event in steps)

    result = json.loads((folder / "result.json").read_text())
    assert result["state"] == "completed" and result["steps"] == start["total"]
    assert result["best_eval_loss"] == min(event["eval_loss"] for event in evals)
    assert (folder / result["best_checkpoint"]).is_dir()
    saved = {path.name for path in (folder / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja"} <= saved
    assert "generation_config.json" in saved
    assert not [name for name in saved if name.endswith((".bin", ".pt", ".pkl"))]

    printed = done.stdout + done.stderr
    assert "one.<|im_end|>'" in printed, "the log shows that the stop token is trained"
    assert "it/s]" not in printed and "Warning" not in printed


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["type"])
def test_smoke_takes_two_steps_and_keeps_nothing(ws, make_spec, tiny_model, conversations, method):
    parts = {"activation_checkpointing": method["type"] != "prefix", "early_stopping_patience": 1}
    render_run(ws, make_spec(model={"id": tiny_model.id}, method=method, training=parts))
    folder = ws.run("run").path
    before = sorted(path.name for path in folder.rglob("*"))
    done = run_script(folder, "--smoke")
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stdout
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_evaluations_do_not_change_the_training(ws, make_spec, tiny_model, conversations):
    """bitsandbytes 0.50 on CPU: after an evaluation of a 4-bit model, gradients were wrong."""
    losses = []
    for name, every in (("often", 2), ("once", 1000)):
        training = {"max_steps": 8, "eval_steps": every, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
        spec = make_spec(name=name, model={"id": tiny_model.id}, method={"type": "qlora", "r": 4}, training=training)
        render_run(ws, spec)
        done = run_script(ws.run(name).path)
        assert done.returncode == 0, done.stderr
        losses.append([event["grad_norm"] for event in metrics(ws.run(name).path) if "grad_norm" in event])
    assert len(losses[0]) == 8 and losses[0] == losses[1]


def test_rows_that_are_too_long_are_left_out_not_cut(ws, make_spec, tiny_model):
    rows = [{"prompt": f"say {i}", "completion": "word " * (400 if i % 4 == 0 else 5)} for i in range(40)]
    (ws.root / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    spec = make_spec(
        model={"id": tiny_model.id},
        data={"max_length": 128, "packing": True, "eval_fraction": 0},
        training={"load_best_model_at_end": False},
    )
    render_run(ws, spec)
    folder = ws.run("run").path
    done = run_script(folder)
    assert done.returncode == 0, done.stderr
    start, *events = metrics(folder)
    assert (start["rows"], start["rows_too_long"]) == (30, 10)
    trained = {event["tokens"] for event in events if "loss" in event}
    assert max(trained) == start["trained_tokens"] + start["context_tokens"], "packing lost no row"


def test_nothing_left_to_train_on_is_said_plainly(ws, make_spec, tiny_model, conversations):
    render_run(ws, make_spec(model={"id": tiny_model.id}, data={"max_length": 16}))
    done = run_script(ws.run("run").path)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("No row is left to train on")


def start(folder: Path) -> subprocess.Popen[str]:
    with (folder / "train.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-I", str(folder / "train.py")], cwd="/", env=child_environment(), stdout=log, stderr=log
        )


def wait_for_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    """Until a step of this process is logged (the last `start` line in metrics.jsonl is its own)."""
    seen = len([event for event in metrics(folder) if event.get("event") == "start"])
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        events = metrics(folder)
        starts = [i for i, event in enumerate(events) if event.get("event") == "start"]
        if len(starts) > seen and events[-1]["step"] >= step:
            return
        assert process.poll() is None, (folder / "train.log").read_text()
        time.sleep(0.01)
    raise AssertionError((folder / "train.log").read_text())


def test_killed_and_stopped_runs_end_with_the_same_bytes(ws, make_spec, tiny_model, conversations):
    spec = make_spec(
        model={"id": tiny_model.id},
        method={**LORA, "lora_dropout": 0.1},
        training={
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "num_train_epochs": 10,
            "eval_steps": 40,
            "early_stopping_patience": 50,
            "learning_rate": 1e-3,
        },
    )
    render_run(ws, spec)
    folder = ws.run("run").path
    whole = ws.root / "whole"
    shutil.copytree(folder, whole)
    done = run_script(whole)
    assert done.returncode == 0, done.stderr

    process = start(folder)
    wait_for_step(process, folder, 60)
    process.kill()
    process.wait(60)
    assert not (folder / "result.json").exists()

    # A checkpoint that a kill cut short: newer than the whole one, and to be passed over.
    newest = max((folder / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    broken = newest.with_name("checkpoint-999")
    shutil.copytree(newest, broken)
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    process = start(folder)
    wait_for_step(process, folder, 150)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    assert not (folder / "result.json").exists()
    log = (folder / "train.log").read_text()
    assert "checkpoint-999 is not whole" in log and "stopped at step" in log
    stopped_at = metrics(folder)[-1]["step"]
    assert (folder / "checkpoints" / f"checkpoint-{stopped_at}" / "optimizer.pt").is_file()

    done = run_script(folder)
    assert done.returncode == 0, done.stderr
    starts = [event["step"] for event in metrics(folder) if event.get("event") == "start"]
    assert len(starts) == 3 and starts[0] == 0 and starts[1] % 40 == 0 and starts[2] == stopped_at
    name = "adapter_model.safetensors"
    assert (folder / "adapter" / name).read_bytes() == (whole / "adapter" / name).read_bytes()
    # Killed after the last step, before the result was written: nothing is trained again.
    before = len(metrics(folder))
    shutil.rmtree(folder / "adapter")
    (folder / "result.json").unlink()
    done = run_script(folder)
    assert done.returncode == 0, done.stderr
    assert len(metrics(folder)) == before
    assert (folder / "adapter" / name).read_bytes() == (whole / "adapter" / name).read_bytes()

    one, other = (json.loads((path / "result.json").read_text()) for path in (folder, whole))
    for key in ("steps", "best_checkpoint", "best_eval_loss", "train_loss"):
        assert one[key] == other[key]


def test_early_stopping_is_remembered(ws, make_spec, tiny_model, conversations):
    """A learning rate that only makes it worse: it stops after two evaluations without gain, also when asked again."""
    spec = make_spec(
        model={"id": tiny_model.id},
        method={**LORA, "r": 16},
        training={"max_steps": 100, "eval_steps": 5, "early_stopping_patience": 2, "learning_rate": 1.0},
    )
    render_run(ws, spec)
    folder = ws.run("run").path
    results = []
    for _ in range(2):
        done = run_script(folder)
        assert done.returncode == 0, done.stderr
        result = json.loads((folder / "result.json").read_text())
        results.append((result["steps"], result["best_checkpoint"], result["best_eval_loss"]))
    evals = [event["eval_loss"] for event in metrics(folder) if "eval_loss" in event]
    assert results[0] == results[1]
    assert results[0][0] == 5 * len(evals) < 100
    assert results[0][2] == min(evals) == evals[-3]
    chosen = folder / results[0][1] / "adapter_model.safetensors"
    assert chosen.read_bytes() == (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_zipped_folder_runs_elsewhere(ws, make_spec, tiny_model, conversations, tmp_path):
    render_run(ws, make_spec(model={"id": tiny_model.id}))
    archive = shutil.make_archive(str(tmp_path / "run"), "zip", ws.run("run").path)
    shutil.rmtree(ws.root)
    shutil.unpack_archive(archive, tmp_path / "elsewhere")
    done = run_script(tmp_path / "elsewhere", "--smoke")
    assert done.returncode == 0, done.stderr


def test_stopped_before_training_begins(ws, make_spec, tiny_model, conversations):
    render_run(ws, make_spec(model={"id": tiny_model.id}))
    folder = ws.run("run").path
    script = folder / "train.py"
    script.write_text(
        script.read_text().replace("    set_seed(SEED)", "    os.kill(os.getpid(), signal.SIGTERM)\n    set_seed(SEED)")
    )
    assert run_script(folder).returncode == 143
    assert not (folder / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["type"])
def test_two_real_steps_on_smollm2(ws, make_spec, smollm2, conversations, method):
    precision = {"per_device_train_batch_size": 2, "learning_rate": 2e-5 if method["type"] == "full" else 2e-4}
    render_run(ws, make_spec(model={"id": smollm2.id}, method=method, training=precision))
    done = run_script(ws.run("run").path, "--smoke")
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stdout and "eval_loss" in done.stdout


def test_a_model_folder_that_is_gone(ws, make_spec, tiny_model, conversations):
    render_run(ws, make_spec(model={"id": tiny_model.id}))
    script = ws.run("run").script
    script.write_text(script.read_text().replace(str(tiny_model.path), str(tiny_model.path) + "-gone"))
    done = run_script(ws.run("run").path, "--smoke")
    assert done.returncode == 1
    assert "change MODEL at the top of this file" in done.stderr
