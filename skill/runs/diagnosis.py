"""Why a job failed: a named cause, the evidence for it, what to do, and where possible a patch to the spec.

Looked at in this order: the error the worker named itself, the disk, the signal that ended it, the end of its log.
A patch is a mapping of `key.path: value` for the RunSpec, in the form recipes and overrides take.
"""

from __future__ import annotations

import re
import shutil
import signal
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from skill.errors import TunesmithError
from skill.runs.logs import clean, tail
from skill.runs.metrics import latest
from skill.runs.processes import boot_id
from skill.runs.store import JobRecord, log_file
from skill.spec import RunSpec
from skill.workspace import RunDir

LOG_LINES = 400
FULL_BYTES = 16 * 2**20  # below this a checkpoint certainly did not fit


class Diagnosis(BaseModel):
    """A named cause with its evidence. `evidence` quotes the process's own output: untrusted text."""

    model_config = ConfigDict(frozen=True)

    cause: str
    reason: str
    evidence: list[str] = Field(default_factory=list)
    fix: str = ""
    patch: dict[str, Any] = Field(default_factory=dict, description="key.path -> value, for the RunSpec")


class Rule:
    """Lines of a log that speak for one cause."""

    def __init__(self, cause: str, pattern: str, reason: str, fix: str) -> None:
        self.cause, self.reason, self.fix = cause, reason, fix
        self.pattern = re.compile(pattern)


# The first rule with a matching line wins: the specific before the general.
RULES = (
    Rule(
        "disk_full",
        r"No space left on device|\[Errno 28\]|Disk quota exceeded|os error 28",
        "The disk is full.",
        "Free space or lower training.save_total_limit, then resume_run: it goes on from the last whole checkpoint.",
    ),
    Rule(
        "cuda_oom",
        r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|HIP out of memory",
        "The GPU ran out of memory.",
        "Apply the patch: it keeps the effective batch and needs less memory.",
    ),
    Rule(
        "host_oom",
        r"DefaultCPUAllocator|Cannot allocate memory|\[Errno 12\]|std::bad_alloc|^(numpy\S*\.)?\w*MemoryError\b",
        "The machine ran out of memory.",
        "Apply the patch, or close what else uses memory.",
    ),
    Rule(
        "gated_model",
        r"GatedRepoError|gated repo|Access to model .* is restricted|401 Client Error",
        "The model is gated and no valid token was given.",
        "Accept its licence on the hub, then start the server with HF_TOKEN set and TUNESMITH_PASS_ENV=HF_TOKEN.",
    ),
    Rule(
        "missing_model",
        r"is not a valid model identifier|OfflineModeIsEnabled|LocalEntryNotFoundError|RepositoryNotFoundError"
        r"|couldn't connect to|We couldn.t connect to|Can't load (tokenizer|the model|the configuration)",
        "The model is not here and cannot be fetched.",
        "inspect_environment() lists the models that can be used; set model.id to one of them.",
    ),
    Rule(
        "missing_package",
        r"ModuleNotFoundError: No module named",
        "A Python package is missing.",
        "Install the versions named in the header of train.py.",
    ),
    Rule(
        "stale_argument",
        r"TypeError: .*unexpected keyword argument",
        "The script uses an argument that the installed libraries do not have.",
        "Render it again with the installed versions: render_training_script(..., overwrite=true).",
    ),
    Rule(
        "nan_loss",
        r"(?i)\b(loss|grad(ient)?s?( norm)?)\b.{0,40}\b(is|are|was|became)\b"
        r".{0,20}\b(nan|inf|non-?finite|not finite)\b",
        "The loss or its gradient is no longer a number.",
        "Apply the patch: a lower learning rate with warm-up.",
    ),
    Rule(
        "empty_loss_mask",
        r"(?i)(no|0|zero) (trained|trainable|supervised) tokens|all labels are -100|num_samples=0",
        "No row has a token that is trained.",
        "validate_dataset shows which rows and why; often max_length is too short or the columns are swapped.",
    ),
    Rule(
        "dataloader",
        r"DataLoader worker .*(killed|exited unexpectedly)|Caught \w+ in DataLoader worker",
        "A process that loads data died.",
        "Often out of shared memory: raise /dev/shm, or look at the row it names with validate_dataset.",
    ),
    Rule(
        "tokenizer",
        r"(?i)(ValueError|TypeError|KeyError|Exception|TemplateError|UndefinedError).*(chat[_ ]template|tokenizer)"
        r"|jinja2\.exceptions",
        "The tokenizer or its chat template refused a row.",
        "validate_dataset(model=...) names the rows.",
    ),
    Rule(
        "timeout",
        r"(?i)Watchdog caught collective operation timeout|TimeoutError|Read timed out|DistStoreError.*timed out",
        "It waited for something that did not answer in time.",
        "Look at the log for what it waited for, then resume_run.",
    ),
)
_EXCEPTION = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Warning)\b(?::.*)?$")

SIGNALS = {
    signal.SIGKILL: "usually the system's out-of-memory killer or a manual kill",
    signal.SIGSEGV: "a crash in compiled code",
    signal.SIGABRT: "a check in compiled code failed",
    signal.SIGBUS: "often a full /dev/shm or a file that shrank while mapped",
    signal.SIGILL: "a library built for another processor",
}


def of_failure(
    run: RunDir, record: JobRecord, exit_code: int | None, *, error: dict[str, Any] | None = None
) -> Diagnosis:
    """The cause of a job that ended without a result. `exit_code` is negative for a signal, None when unseen."""
    if error:
        hint = clean(str(error.get("hint", "")), limit=500)
        message = clean(str(error.get("message", "")), limit=700) or "It gave no message."
        return Diagnosis(cause=str(error.get("code", "error"))[:60], reason=f"{message} {hint}".strip(), fix=hint)
    lines = tail(log_file(run, record.kind), LOG_LINES, since=record.log_offset)
    lines = [line for line in lines if not line.startswith("[tunesmith:")]
    if exit_code is not None and exit_code > 128:  # a shell's or launcher's way to report a signal
        exit_code = 128 - exit_code
    found = _from_log(lines, only={"disk_full", "cuda_oom", "host_oom"}) or _disk(run)
    found = found or _from_signal(run, record, exit_code) or _from_log(lines)
    if found is None:
        found = _unnamed(lines, record, exit_code)
    patch = spec_patch(run, found.cause)
    return found.model_copy(update={"patch": patch} if patch else {})


def _from_log(lines: list[str], only: set[str] | None = None) -> Diagnosis | None:
    for rule in RULES:
        if only is None or rule.cause in only:
            hits = [line for line in lines if rule.pattern.search(line)]
            if hits:
                reason = f"{rule.reason} {hits[-1]}"[:500]
                return Diagnosis(cause=rule.cause, reason=reason, evidence=hits[-3:], fix=rule.fix)
    return None


def _disk(run: RunDir) -> Diagnosis | None:
    try:
        free = shutil.disk_usage(run.path).free
    except OSError:
        return None
    if free >= FULL_BYTES:
        return None
    evidence = [f"{free / 2**20:.0f} MiB free on the disk of {run.path}"]
    rule = RULES[0]
    return Diagnosis(cause=rule.cause, reason=f"{rule.reason} {evidence[0]}.", evidence=evidence, fix=rule.fix)


def _from_signal(run: RunDir, record: JobRecord, exit_code: int | None) -> Diagnosis | None:
    if exit_code is None or exit_code >= 0:
        return None
    number = -exit_code
    again = (
        "resume_run goes on from the last checkpoint." if record.kind == "train" else "Start it again; it begins anew."
    )
    if number == signal.SIGTERM:
        reason = "Stopped by SIGTERM from outside (the machine going down, a preempted node, a manual kill)."
        return Diagnosis(cause="preempted", reason=reason, evidence=["exit by signal 15"], fix=again)
    known = SIGNALS.get(signal.Signals(number)) if number in signal.valid_signals() else None
    reason = f"killed (signal {number}){': ' + known if known else ''}."
    evidence = [f"exit by signal {number}"]
    figures = latest(run.metrics) if record.kind == "train" else None
    if figures and figures.rss_gib:
        evidence.append(f"it used {figures.rss_gib:.1f} GiB of memory at step {figures.step}")
    cause = "killed" if number == signal.SIGKILL else "crashed"
    return Diagnosis(cause=cause, reason=reason, evidence=evidence, fix=again)


def _unnamed(lines: list[str], record: JobRecord, exit_code: int | None) -> Diagnosis:
    raised = [line for line in lines if _EXCEPTION.match(line)]
    if raised:
        return Diagnosis(
            cause="script_error", reason=raised[-1], evidence=lines[-3:], fix="The log holds the traceback."
        )
    if exit_code is None:
        if record.worker is not None and not record.worker.token.startswith(boot_id()):
            reason, cause = "The machine was restarted while it ran.", "reboot"
        else:
            reason, cause = (
                "It was killed together with its supervisor: no exit code was seen, no result left.",
                "killed",
            )
    elif exit_code == 0:
        reason, cause = "It ended with exit code 0 but left no result.", "no_result"
    else:
        reason, cause = f"It ended with exit code {exit_code} and no message.", "script_error"
    fix = "resume_run goes on from the last checkpoint." if record.kind == "train" else "Start it again."
    return Diagnosis(cause=cause, reason=reason, evidence=lines[-3:], fix=fix)


def spec_patch(run: RunDir, cause: str) -> dict[str, Any]:
    """Changes to the spec of this run that answer the cause; empty when no value of the spec is to blame."""
    try:
        spec = run.spec()
    except (OSError, TunesmithError):
        return {}
    if cause in ("cuda_oom", "host_oom"):
        return less_memory(spec)
    if cause in ("nan_loss", "divergence"):
        return steadier(spec)
    if cause == "no_learning":
        return {"training.learning_rate": min(1.0, spec.training.learning_rate * 3)}
    if cause == "disk_full" and spec.training.save_total_limit > 1:
        return {"training.save_total_limit": 1}
    if cause == "overfitting":
        return fewer_epochs(spec)
    return {}


def less_memory(spec: RunSpec) -> dict[str, Any]:
    """One step down the ladder that keeps rows per optimizer step: micro-batch, recomputation, rank, 4-bit base."""
    training, method = spec.training, spec.method
    if training.per_device_train_batch_size > 1:
        half = (training.per_device_train_batch_size + 1) // 2
        rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
        return {
            "training.per_device_train_batch_size": half,
            "training.gradient_accumulation_steps": max(1, round(rows / half)),
        }
    if not training.activation_checkpointing:
        return {"training.activation_checkpointing": True}
    if method.type == "full":
        return {"method.type": "lora"}
    if method.type == "lora":
        return {"method.type": "qlora"}
    return {"data.max_length": spec.data.max_length // 2} if spec.data.max_length >= 256 else {}


def steadier(spec: RunSpec) -> dict[str, Any]:
    """A third of the rate, a tenth of the run as warm-up, clipped gradients, no fp16."""
    training = spec.training
    patch: dict[str, Any] = {"training.learning_rate": float(f"{training.learning_rate / 3:.2g}")}
    if training.warmup_steps < 0.1:
        patch["training.warmup_steps"] = 0.1
    if training.max_grad_norm == 0 or training.max_grad_norm > 1:
        patch["training.max_grad_norm"] = 1.0
    if training.precision == "fp16":
        patch["training.precision"] = "fp32"
    return patch


def fewer_epochs(spec: RunSpec) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    if spec.training.early_stopping_patience is None and spec.training.load_best_model_at_end:
        patch["training.early_stopping_patience"] = 2
    if spec.training.max_steps is None and spec.training.num_train_epochs > 1:
        patch["training.num_train_epochs"] = max(1.0, spec.training.num_train_epochs / 2)
    return patch
