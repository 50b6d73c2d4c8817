"""A train.py that keeps the protocol of the real one without a model: steps, checkpoints, resume, SIGTERM, a result.

`fake.json` beside it says what happens: {"steps": 8, "hold_at": 3, "fail_at": 5, "how": "disk_full", ...}. At `hold_at`
it waits until a file `go` exists. Its "weights" are a hash chain over all steps, so a resume that skips or repeats one
ends with different weights.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
stopping = False


def on_sigterm(number, frame):
    global stopping
    stopping = True


def log(**event):
    with (HERE / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"t": time.time(), **event}) + "\n")


def save(step, weights):
    folder = HERE / "checkpoints" / f"checkpoint-{step}"
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "adapter_model.safetensors").write_text(weights)
    (partial / "optimizer.pt").write_text("")
    (partial / "trainer_state.json").write_text(json.dumps({"global_step": step, "weights": weights}))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def resume():
    whole = [path for path in (HERE / "checkpoints").glob("checkpoint-*") if path.name[11:].isdigit()]
    for folder in sorted(whole, key=lambda path: -int(path.name[11:])):
        path = folder / "trainer_state.json"
        try:
            state = json.loads(path.read_text())
            return state["global_step"], state["weights"]
        except (OSError, ValueError):
            continue
    return 0, "start"


def fail(how):
    if how == "disk_full":
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)
    if how == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "host_oom":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (512 * 2**20, 512 * 2**20))
        bytearray(2**31)
    if how == "stale_argument":
        on_sigterm(max_seq_length=3)
    if how == "missing_package":
        import no_such_package_of_that_name  # noqa: F401
    if how == "silent":
        os._exit(3)
    if how == "no_result":
        os._exit(0)
    raise RuntimeError(how)


def main():
    plan = json.loads((HERE / "fake.json").read_text())
    signal.signal(signal.SIGTERM, signal.SIG_IGN if plan.get("deaf") else on_sigterm)
    if plan.get("child"):  # a grandchild that ignores the end of its parent
        import subprocess

        program = "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", program], start_new_session=plan["child"] == "session")
    steps = plan["steps"]
    step, weights = resume()
    log(event="start", step=step, total=steps, rows=16, trained_tokens=plan.get("trained_tokens", 160))
    for text in plan.get("say", []):
        print(text)
    for name in plan.get("print_env", []):
        print(f"env {name}={os.environ.get(name)}")
    while step < steps:
        if step == plan.get("hold_at"):
            while not (HERE / "go").exists() and not stopping:
                time.sleep(0.005)
        if step == plan.get("fail_at"):
            fail(plan["how"])
        step += 1
        weights = hashlib.sha256(f"{weights} {step}".encode()).hexdigest()
        losses = plan.get("losses")
        loss = losses[step - 1] if losses else 4.0 / step
        log(step=step, total=steps, epoch=step / steps, loss=loss, grad_norm=1.0, tokens=step * 64, rss_gib=0.1)
        if step % plan.get("save_every", 2) == 0 or stopping:
            save(step, weights)
            evals = plan.get("evals")
            log(step=step, total=steps, eval_loss=evals[step - 1] if evals else 5.0 / step)
        if stopping:
            print("stopped by SIGTERM, checkpoint saved")
            sys.exit(143)
        time.sleep(plan.get("step_s", 0))
    (HERE / "adapter").mkdir(exist_ok=True)
    (HERE / "adapter" / "adapter_model.safetensors").write_text(weights)
    partial = HERE / ".result.json"
    result = {"state": "completed", "steps": steps, "train_loss": 1.0, "wall_s": 1.0}
    partial.write_text(json.dumps(result | {key: plan[key] for key in ("peak_rss_gib",) if key in plan}))
    partial.rename(HERE / "result.json")


main()
