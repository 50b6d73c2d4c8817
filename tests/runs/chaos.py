"""Random `kill -9` over clients, supervisors and trainings, then a count of what is not as it should be.

    python -m tests.runs.chaos --kills 200 --runs 20 --seed 1

Prints last one JSON object: kills, runs, lost, ghosts, orphans, unequal. A client is what a server or command line is:
it launches what was not launched, resumes what failed, and looks. Several of them share one workspace.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from skill.errors import ConflictError, StateError
from skill.runs import get_run, launch, resume_run
from skill.runs.processes import is_held
from skill.runs.states import ACTIVE, ENDED
from skill.runs.store import load, supervisor_lock, worker_lock
from skill.spec import parse
from skill.workspace import RunDir, Workspace, write_json, write_spec

ROOT = Path(__file__).resolve().parents[2]
STEPS, SAVE_EVERY, STEP_S = 20, 3, 0.03
CLIENTS, SLOTS = 2, 4


def make_run(ws: Workspace, name: str) -> None:
    run = ws.run(name)
    run.data.mkdir(parents=True)
    values = {"name": name, "model": {"id": "m"}, "data": {"train": "t"}, "method": {"type": "lora"}}
    spec = parse(values)
    fake = Path(__file__).with_name("fake_train.py")
    run.script.write_text(fake.read_text(encoding="utf-8"), encoding="utf-8")
    (run.data / "train.jsonl").write_text("{}\n" * 8, encoding="utf-8")
    write_json(run.path / "fake.json", {"steps": STEPS, "save_every": SAVE_EVERY, "step_s": STEP_S})
    write_json(run.path / "provenance.json", {"fingerprint": spec.fingerprint})
    write_spec(spec, run.spec_file)


def undisturbed() -> str:
    weights = "start"
    for step in range(1, STEPS + 1):
        weights = hashlib.sha256(f"{weights} {step}".encode()).hexdigest()
    return weights


def client(root: str) -> None:
    """Goes over all runs for ever."""
    ws = Workspace.open(root)
    while True:
        for name in ws.run_names():
            state = get_run(ws, name).state
            with suppress(ConflictError, StateError):  # no slot is free, or another client was faster
                if state == "created" and load(ws.run(name), "train") is None:
                    launch(ws, name, dry_run=False)
                elif state == "failed":
                    resume_run(ws, name)
        time.sleep(0.02)


def start_client(root: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tests.runs.chaos", "--client", root], cwd=ROOT)


def victims(runs: list[RunDir]) -> list[tuple[str, int]]:
    found = []
    for run in runs:
        record = load(run, "train")
        if record is not None and record.state in ACTIVE:
            pairs = (("supervisor", record.supervisor), ("trainer", record.worker))
            found += [(kind, process.pid) for kind, process in pairs if process is not None]
    return found


def leftovers(root: str) -> list[psutil.Process]:
    """Processes of this workspace other than this one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get("TUNESMITH_WORKSPACE") == root:
                found.append(process)
    return found


def chaos(kills: int, count: int, seed: int, *, limit_s: float) -> dict[str, int]:
    """Do it in a temporary workspace; every figure but kills and runs should be 0."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(folder).resolve())
        os.environ |= {"TUNESMITH_WORKSPACE": root, "TUNESMITH_CACHE": f"{root}/cache", "CUDA_VISIBLE_DEVICES": ""}
        os.environ["TUNESMITH_CPU_SLOTS"] = str(SLOTS)
        ws = Workspace.open(root)
        for index in range(count):
            make_run(ws, f"run-{index}")
        clients = [start_client(root) for _ in range(CLIENTS)]
        done, deadline = 0, time.monotonic() + limit_s
        try:
            while time.monotonic() < deadline:
                runs = [ws.run(name) for name in ws.run_names()]
                open_runs = [run for run in runs if not _is_done(run)]
                if done >= kills and not open_runs:
                    break
                if done < kills and len(open_runs) < SLOTS:
                    make_run(ws, f"run-{len(runs)}")
                targets = victims(runs)
                targets.append(("client", -1))
                if done < kills:
                    kind, pid = dice.choice(targets)
                    if kind == "client":
                        chosen = dice.randrange(CLIENTS)
                        clients[chosen].kill()
                        clients[chosen].wait()
                        clients[chosen] = start_client(root)
                    else:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    done += 1
                time.sleep(dice.uniform(0.02, 0.25))
        finally:
            for process in clients:
                process.kill()
                process.wait()
        return _count(ws, done, root)


def _is_done(run: RunDir) -> bool:
    record = load(run, "train")
    return record is not None and record.state in ENDED - {"failed"}


def _count(ws: Workspace, kills: int, root: str) -> dict[str, int]:
    runs = [ws.run(name) for name in ws.run_names()]
    lost = ghosts = unequal = 0
    for run in runs:
        record = load(run, "train")
        if record is None or record.state != "completed":
            print(f"lost: {run.name} {get_run(ws, run.name).model_dump_json()}", file=sys.stderr)
            print(run.events.read_text()[-1500:], file=sys.stderr)
            lost += 1
        elif (run.adapter / "adapter_model.safetensors").read_text() != undisturbed():
            unequal += 1
        alive = is_held(supervisor_lock(run, "train")) or is_held(worker_lock(run, "train"))
        ghosts += record is not None and record.state in ACTIVE and not alive
    deadline = time.monotonic() + 10  # supervisors write their report after the end
    while leftovers(root) and time.monotonic() < deadline:
        time.sleep(0.05)
    orphans = leftovers(root)
    for process in orphans:
        with suppress(psutil.Error):
            process.kill()
    counted = {"lost": lost, "ghosts": int(ghosts), "orphans": len(orphans), "unequal": unequal}
    return {"kills": kills, "runs": len(runs)} | counted


def main() -> None:
    parser = argparse.ArgumentParser(description="Random kill -9 over clients, supervisors and trainings.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=1200)
    parser.add_argument("--client", metavar="ROOT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client:
        client(args.client)
    found = chaos(args.kills, args.runs, args.seed, limit_s=args.limit_s)
    print(json.dumps(found))
    sys.exit(0 if not any(found[key] for key in ("lost", "ghosts", "orphans", "unequal")) else 1)


if __name__ == "__main__":
    main()
