"""The whole road through a real MCP client and a real server process, on real data and the real SmolLM2."""

import csv
import json
import random
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from mcp_server.demo import Demo
from skill.assets import asset

INTENTS = (
    "card_arrival",
    "lost_or_stolen_card",
    "exchange_rate",
    "change_pin",
    "top_up_failed",
    "Refund_not_showing_up",
    "age_limit",
    "terminate_account",
)


def support_messages(folder: Path, _: pytest.FixtureRequest) -> None:
    """A part of the demo's rows, for a run of two minutes."""
    for name, count in (("train", 200), ("eval", 60)):
        lines = asset(f"examples/support-intents/{name}.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / f"{name}.jsonl").write_text("\n".join(lines[:count]) + "\n", encoding="utf-8")


def banking77(folder: Path, request: pytest.FixtureRequest) -> None:
    """Eight intents of the public banking77 dataset (CC-BY-4.0), as label texts."""
    data = request.getfixturevalue("shared_dir") / "data" / "banking77"
    for name, count in (("train", 200), ("test", 60)):
        with open(data / f"{name}.csv", encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["category"] in INTENTS]
        random.Random(0).shuffle(rows)
        system = f"Name the intent of the message. One of: {', '.join(INTENTS)}."
        with open(folder / f"{'eval' if name == 'test' else name}.jsonl", "w", encoding="utf-8") as out:
            for row in rows[:count]:
                turns = [("system", system), ("user", row["text"]), ("assistant", row["category"])]
                out.write(json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n")


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("make_data", [support_messages, pytest.param(banking77, marks=pytest.mark.shared)])
async def test_from_data_to_verdict(make_data, ws, smollm2, request):
    make_data(ws.root, request)
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_server"], env={"TUNESMITH_WORKSPACE": str(ws.root)}, cwd=str(ws.root)
    )
    async with Client(server) as client:
        walk = Demo(client, ws.root)
        report = await walk.call("validate_dataset", dataset_path="train.jsonl", model=smollm2.id, max_length=256)
        assert report["verdict"] != "not_usable" and report["tokens"]["stop_token_trained"]
        await walk.call(
            "render_training_script",
            run_name="road",
            model=smollm2.id,
            train_path="train.jsonl",
            max_length=256,
            learning_rate=2e-3,
            epochs=1,
            batch_size=4,
            overrides=["data.eval_fraction=0.08", "training.eval_steps=23", "training.save_steps=23"],
        )
        await walk.call("launch_training", run_id="road", dry_run=False)
        status = await walk.wait("road", "train")
        assert status["step"] == status["total_steps"] == 46
        await walk.call("merge_adapter", run_id="road")
        merged = (await walk.wait("road", "merge"))["jobs"]["merge"]["result"]
        assert merged["verdict"] == "verified"
        await walk.call("run_eval", run_id="road", eval_path="eval.jsonl")
        verdict = (await walk.wait("road", "eval"))["jobs"]["eval"]["result"]
    assert verdict["verdict"] == "better" and verdict["ci95"][0] > 0, verdict
    assert (ws.root / "runs" / "road" / "report.html").read_text(encoding="utf-8").count("<svg") >= 1
