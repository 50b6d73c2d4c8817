"""`tunesmith demo`: the whole road on a real model, through a real MCP client over stdio.

It is also the shortest complete example of a client: every line that matters is a tool call that an agent would make.
Last line printed: one JSON object with task, metric, n, base, tuned, ci95 (of tuned - base), wall_s, run_dir.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters

from skill.assets import asset
from skill.errors import JobFailed, TunesmithError

TASK = "Read a support message and answer with one strict JSON object: intent, product, urgency, order id."
RUN = "support-intents"


class Demo:
    """One walk down the road; `call` is the only way to the engine."""

    def __init__(self, client: Client, workspace: Path) -> None:
        self.client = client
        self.workspace = workspace

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """A tool call; a tool's error ends the demo with the tool's own words."""
        result = await self.client.call_tool(tool, arguments, read_timeout_seconds=120)
        if result.is_error or not isinstance(result.structured_content, dict):
            text = " ".join(getattr(part, "text", "") for part in result.content)
            raise JobFailed(f"{tool} said: {text}", hint="Mend that and run the demo again.")
        return result.structured_content

    async def wait(self, run_id: str, job: str) -> dict[str, Any]:
        """Poll a run until its job ends, showing progress on one line; the run's status."""
        since = ""
        while True:
            status = await self.call("get_run", run_id=run_id, wait_s=10, log_lines=5)
            state = status["jobs"][job]["state"]
            if (line := progress(status, job)) != since:
                print("\r" + line.ljust(78), end="", file=sys.stderr, flush=True)
                since = line
            if state in ("completed", "failed", "cancelled"):
                print(file=sys.stderr)
                if state == "completed":
                    return status
                log = "\n".join(status["log"])
                raise JobFailed(f"{job} {state}: {status['jobs'][job].get('reason')}\n{log}", hint=status["next_step"])


def progress(status: dict[str, Any], job: str) -> str:
    """`train running  34/66  loss 0.41  eval_loss 0.52  eta_s 80`"""
    view = status["jobs"][job]
    parts = [f"    {job} {view['state']}", view.get("phase") or ""]
    step, total = (
        (status["step"], status.get("total_steps")) if job == "train" else (view.get("step"), view.get("total"))
    )
    if total:
        parts.append(f"{step or 0}/{total}")
    if job == "train":
        parts += [f"{key} {status[key]:.4g}" for key in ("loss", "eval_loss", "eta_s") if status.get(key) is not None]
    return "  ".join(part for part in parts if part)


def heading(number: int, text: str) -> None:
    print(f"\n[{number}] {text}", flush=True)


def stage(workspace: Path) -> None:
    """The demo's data, copied into the workspace as a user's own files would lie there."""
    workspace.mkdir(parents=True, exist_ok=True)
    for name in ("train.jsonl", "eval.jsonl"):
        shutil.copy(asset(f"examples/support-intents/{name}"), workspace / name)


def free_name(workspace: Path) -> str:
    """`support-intents`, or the next free number after it, so that the demo can be run again."""
    taken = {path.name for path in (workspace / "runs").glob(f"{RUN}*")}
    return next(name for i in range(1, 1000) if (name := RUN if i == 1 else f"{RUN}-{i}") not in taken)


async def walk(demo: Demo) -> dict[str, Any]:
    """Every station of the road, in order."""
    heading(1, "inspect_environment: what is here?")
    here = await demo.call("inspect_environment")
    print(f"    {here['cpu']}, {here['cpu_cores']} cores, {here['ram_free_gib']} GiB free, "
          f"{len(here['gpus'])} GPUs; models here: {', '.join(here['models_offline'])}")  # fmt: skip

    heading(2, "recommend_approach: should this be a fine-tune?")
    advice = await demo.call(
        "recommend_approach",
        task=TASK,
        dataset_path="train.jsonl",
        needs=["format"],
        knowledge_update="never",
        model="smollm2-135m-instruct",
    )
    print(f"    {advice['verdict']}: {'; '.join(advice['reasons_for'][:2])}")

    heading(3, "validate_dataset: what will be trained?")
    report = await demo.call(
        "validate_dataset",
        dataset_path="train.jsonl",
        eval_path="eval.jsonl",
        model="smollm2-135m-instruct",
        max_length=256,
    )
    tokens = report["tokens"]
    print(f"    {report['verdict']}: {report['usable_rows']} of {report['rows']} rows, {report['format']}")
    print(f"    {tokens['trained']:,} of {tokens['total']:,} tokens carry loss; stop token trained: "
          f"{tokens['stop_token_trained']}")  # fmt: skip
    print(f"    {report['preview'][0]}")

    heading(4, "estimate_vram: what would it need, here and on a GPU?")
    memory = await demo.call(
        "estimate_vram", model="smollm2-135m-instruct", method="lora", batch_size=4, max_length=256
    )
    peak = memory["device_peak"]["process_gib"]
    print(f"    {memory['device']}: process peak {peak['value']} GiB ({peak['low']} to {peak['high']}, 90 %)")

    heading(5, "render_training_script: the script a human owns")
    run_id = free_name(demo.workspace)
    rendered = await demo.call(
        "render_training_script",
        run_name=run_id,
        recipe="sft-lora",
        model="smollm2-135m-instruct",
        train_path="train.jsonl",
        max_length=256,
        learning_rate=1e-3,
        epochs=1,
        batch_size=4,
        overrides=["data.eval_fraction=0.08"],  # a few rows to choose the checkpoint by; the verdict has its own file
    )
    print(f"    {rendered['script']}  ({rendered['total_steps']} steps)")
    print(f"    by hand: {rendered['run_by_hand']}")

    heading(6, "launch_training: preview, then start")
    preview = await demo.call("launch_training", run_id=run_id, dry_run=True)
    print(f"    $ {preview['command']}")
    print(f"    memory {preview['memory']['needed_gib']} of {preview['memory']['free_gib']} GiB free, "
          f"disk {preview['disk']['needed_gib']} of {preview['disk']['free_gib']} GiB free")  # fmt: skip
    await demo.call("launch_training", run_id=run_id, dry_run=False)
    trained = await demo.wait(run_id, "train")
    print(f"    loss {trained['loss']:.3f}, held-out loss {trained['best_eval_loss']:.3f}")

    heading(7, "merge_adapter: one model, verified against base + adapter")
    await demo.call("merge_adapter", run_id=run_id)
    merged = (await demo.wait(run_id, "merge"))["jobs"]["merge"]["result"]
    print(f"    {merged['verdict']}: {merged['tensors_changed']} of {merged['tensors']} tensors, in {merged['out']}")

    heading(8, "run_eval: base against tuned, on rows that neither has seen")
    await demo.call("run_eval", run_id=run_id, eval_path="eval.jsonl")
    return {**(await demo.wait(run_id, "eval"))["jobs"]["eval"]["result"], "run_id": run_id}


def show(verdict: dict[str, Any], run_dir: Path) -> None:
    """The verdict, three answers before and after, and the report's path."""
    low, high = verdict["ci95"]
    print(f"\nVerdict: {verdict['verdict']}. {verdict['metric']}: base {verdict['base']:.3f}, tuned "
          f"{verdict['tuned']:.3f}, difference {verdict['difference']:+.3f} (95 % interval {low:+.3f} to {high:+.3f}, "
          f"n {verdict['n']})")  # fmt: skip
    for sample in verdict["samples"][:3]:
        print(f"\n  message  {sample['prompt']}\n  expected {sample['reference']}")
        print(f"  base     {sample['base']}\n  tuned    {sample['tuned']}")
    print(f"\nReport: {run_dir / 'report.html'}")
    print(f"Script: {run_dir / 'train.py'}")


async def run(workspace: Path) -> int:
    started = time.monotonic()
    stage(workspace)
    environment = {**os.environ, "TUNESMITH_WORKSPACE": str(workspace)}
    server = StdioServerParameters(command=sys.executable, args=["-m", "mcp_server"], env=environment)
    async with Client(server) as client:
        verdict = await walk(Demo(client, workspace))
    run_dir = workspace / "runs" / verdict["run_id"]
    show(verdict, run_dir)
    summary = {
        "task": RUN,
        **{key: verdict[key] for key in ("metric", "n", "base", "tuned", "ci95")},
        "wall_s": round(time.monotonic() - started, 1),
        "run_dir": str(run_dir),
    }
    print(json.dumps(summary), flush=True)
    return 0 if verdict["verdict"] == "better" else 1


def main(workspace: str = "demo-workspace") -> int:
    """Walk the road in `workspace` (created when absent). 0 when the tuned model is better, else 1."""
    try:
        return anyio.run(run, Path(workspace).resolve())
    except* TunesmithError as group:  # the client's task group wraps whatever ends it
        for error in leaves(group):
            print(f"\ndemo: {error}", file=sys.stderr)
    return 1


def leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    """The errors themselves, however deep the task groups have wrapped them."""
    return [
        leaf
        for error in group.exceptions
        for leaf in (leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
