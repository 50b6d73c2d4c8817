"""Every tool on one small real run: what an agent gets back fits its context and names the next step."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from mcp import Client

from mcp_server.server import build_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
BUDGET = 2000  # tokens a result


async def test_every_result_is_small_and_names_the_next_step(ws, smollm2, tiny_model):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(smollm2.path) / "tokenizer.json"))
    rows = [{"prompt": f"say number {i}", "completion": f"number {i}!"} for i in range(60)]
    (ws.root / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sizes, model, run = {}, tiny_model.id, {"run_id": "toy"}

    async with Client(build_server(), read_timeout_seconds=180) as client:

        async def call(tool: str, **arguments):
            result = await client.call_tool(tool, arguments)
            assert not result.is_error, result.content[0].text
            sizes[tool] = max(sizes.get(tool, 0), len(tokenizer.encode(result.content[0].text).ids))
            assert result.structured_content["next_step"], tool
            return result.structured_content

        await call("inspect_environment")
        await call("recommend_approach", task="answer support mail as strict JSON", examples=600, needs=["format"])
        assert (await call("validate_dataset", dataset_path="toy.jsonl", model=model))["tokens"]["stop_token_trained"]
        await call("estimate_vram", model=model)
        settings = {"run_name": "toy", "model": model, "train_path": "toy.jsonl", "max_length": 64, "epochs": 1}
        assert (await call("render_training_script", **settings))["rows_train"] == 54
        assert (await call("render_training_script", **settings))["already_there"]
        changed = await client.call_tool("render_training_script", {**settings, "learning_rate": 1e-3})
        assert changed.is_error and "conflict" in changed.content[0].text
        await call("launch_training", **run)
        await call("launch_training", **run, dry_run=False)
        with anyio.fail_after(240):
            while (await call("get_run", **run, wait_s=30))["state"] not in ("completed", "failed"):
                pass
        with anyio.fail_after(120):
            merged = await call("merge_adapter", **run, wait_s=30)
            while "verdict" not in merged:
                await call("get_run", **run, wait_s=30)
                merged = (await call("get_run", **run))["jobs"]["merge"].get("result", {})
        with anyio.fail_after(120):
            verdict = await call("run_eval", **run, max_rows=6, max_new_tokens=8, wait_s=30)
            while "verdict" not in verdict:
                verdict = (await call("get_run", **run, wait_s=30))["jobs"]["eval"].get("result", {})
        assert verdict["n"] == 6 and len(verdict["ci95"]) == 2
        await call("get_run", **run)
        await call("list_runs")
    assert not {tool: size for tool, size in sizes.items() if size > BUDGET}, sizes
