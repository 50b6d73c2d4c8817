"""What a launch would do and whether this machine has what it takes, without doing it."""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, Field

from skill.errors import ConflictError, NotFound, TunesmithError
from skill.memory import MemoryEstimate, estimate_for
from skill.memory.duration import checkpoint_bytes, disk_bytes
from skill.memory.job import job_from_spec
from skill.memory.resolve import resolve_shape
from skill.memory.shapes import Shape
from skill.runs import local, slots, timing
from skill.runs.states import ENDED
from skill.runs.store import JobRecord, read_object
from skill.runs.timing import TimeEstimate
from skill.spec import RunSpec
from skill.workspace import RunDir, Workspace, write_json

GIB = 2**30
KEPT_FREE_GIB = 0.5  # for logs, and because a file system slows down when it is full


class Need(BaseModel):
    """Something needed against what there is, GiB. None: not known."""

    model_config = ConfigDict(frozen=True)

    needed_gib: float | None
    free_gib: float | None
    of: str = Field(description="What the figure is of and where it is from")


class LaunchPreview(BaseModel):
    """What launch_training(dry_run=false) would start."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    command: str = Field(description="Exactly what is run; a person may paste it")
    argv: list[str]
    script: str
    log: str
    device: str
    state: str
    total_steps: int | None
    memory: Need
    disk: Need
    time: TimeEstimate | None
    busy_with: list[str] = Field(default_factory=list, description="Runs that hold the slots this one needs")
    warnings: list[str] = Field(default_factory=list)
    ready: bool = Field(description="Nothing known speaks against launching")
    next_step: str


def preview(ws: Workspace, run: RunDir, record: JobRecord | None) -> LaunchPreview:
    """The preview of a rendered run; also kept as jobs/preview.json for its report.

    Raises:
        NotFound: it was not rendered.
        ConflictError: run.yaml was changed since train.py was rendered from it.
        ResourceError: launch.device is cuda and there is none.
    """
    spec = run.spec()
    check_rendered(run, spec)
    names = slots.candidates(spec)
    device = "cuda" if names[0].startswith("gpu") else "cpu"
    shape = _shape(ws, spec)
    steps = total_steps(run, spec)
    warnings: list[str] = []
    estimate = _estimate(ws, spec)
    memory, disk = _memory(estimate, device, warnings), disk_need(run, spec, shape)
    if disk.needed_gib is not None and disk.free_gib is not None and disk.needed_gib + KEPT_FREE_GIB > disk.free_gib:
        warnings.append(f"The disk has {disk.free_gib} GiB free; the run needs about {disk.needed_gib} GiB.")
    if steps is not None and steps < 10:
        warnings.append(f"Only {steps} optimizer steps: too few to learn much. More rows, epochs, or a smaller batch.")
    if _edited(run):
        warnings.append("train.py was edited since it was rendered; it is run as it is.")
    time = timing.expected(run, spec, steps or 0, device=device, shape=shape)
    busy = [] if record and record.state not in ENDED else slots.busy_with(spec)
    argv = local.train_argv()
    result = LaunchPreview(
        run_id=run.name,
        command=local.shell_command(run, argv),
        argv=argv,
        script=str(run.script),
        log=str(run.train_log),
        device=device,
        state=record.state if record else "created",
        total_steps=steps,
        memory=memory,
        disk=disk,
        time=time,
        busy_with=[Path(folder).name for folder in busy],
        warnings=warnings,
        ready=not warnings and not busy,
        next_step=_next_step(run, busy, warnings),
    )
    with suppress(OSError):
        said = {} if isinstance(estimate, TunesmithError) else {"predicted": prediction(estimate)}
        write_json(preview_file(run), result.model_dump(mode="json") | said)
    return result


def prediction(estimate: MemoryEstimate) -> dict[str, Any]:
    """The figures of an estimate that the run's own measurement is held against later (accuracy.py)."""
    peak = estimate.device_peak
    figures = {"allocated_gib": peak.allocated_gib, "process_gib": peak.process_gib}
    return {"device": estimate.device, **{key: figure.model_dump() for key, figure in figures.items()}}


def preview_file(run: RunDir) -> Path:
    return run.jobs / "preview.json"


def check_rendered(run: RunDir, spec: RunSpec) -> None:
    """The script is there and was rendered from this spec."""
    again = f"render_training_script(run_name={run.name!r}, ..., overwrite=true)"
    if not run.script.is_file():
        raise NotFound(f"Run {run.name!r} has no train.py.", hint=f"Render it: {again}")
    rendered = (read_object(run.path / "provenance.json") or {}).get("fingerprint")
    if isinstance(rendered, str) and rendered != spec.fingerprint:
        raise ConflictError(
            f"run.yaml of {run.name!r} was changed since train.py was rendered from it.",
            hint=f"Render it anew: {again}",
        )


def _next_step(run: RunDir, busy: list[str], warnings: list[str]) -> str:
    if busy:
        first = f"Wait until {Path(busy[0]).name!r} has ended (get_run); then "
        return f"{first}launch_training(run_id={run.name!r}, dry_run=false)."
    first = "Look at the warnings; then " if warnings else ""
    return f"{first}launch_training(run_id={run.name!r}, dry_run=false) starts it."


def _edited(run: RunDir) -> bool:
    import hashlib

    recorded = (read_object(run.path / "provenance.json") or {}).get("script_sha256")
    return isinstance(recorded, str) and hashlib.sha256(run.script.read_bytes()).hexdigest() != recorded


def total_steps(run: RunDir, spec: RunSpec) -> int | None:
    """Optimizer steps: as counted at rendering, else from the rows; None with packing or without data."""
    recorded = (read_object(run.path / "provenance.json") or {}).get("total_steps")
    if isinstance(recorded, int):
        return recorded
    training = spec.training
    if spec.data.packing and training.max_steps is None:
        return None  # known once the rows are packed
    if training.max_steps is not None:
        return training.max_steps
    try:
        with (run.data / "train.jsonl").open("rb") as file:
            rows = sum(1 for line in file if line.strip())
    except OSError:
        return None
    batches = math.ceil(rows / training.per_device_train_batch_size)
    return math.ceil(training.num_train_epochs * math.ceil(batches / training.gradient_accumulation_steps))


def _shape(ws: Workspace, spec: RunSpec) -> Shape | None:
    try:
        return resolve_shape(ws, spec.model.id, spec.model.revision)
    except TunesmithError:
        return None


def _estimate(ws: Workspace, spec: RunSpec) -> MemoryEstimate | TunesmithError:
    try:
        return estimate_for(ws, spec)
    except TunesmithError as error:
        return error


def _memory(estimate: MemoryEstimate | TunesmithError, device: str, warnings: list[str]) -> Need:
    free, where = (_free_gpu_gib(), "free on the GPU") if device == "cuda" else (free_ram_gib(), "RAM available")
    if isinstance(estimate, TunesmithError):
        return Need(needed_gib=None, free_gib=free, of=f"{where}; no estimate: {estimate.message}")
    peak = estimate.device_peak.process_gib
    if free is not None and peak.low > free:
        warnings.append(f"It needs {peak.low} to {peak.high} GiB, more than the {free} GiB {where}.")
    elif free is not None and peak.high > free:
        warnings.append(f"Memory is tight: {peak.low} to {peak.high} GiB needed, {free} GiB {where}.")
    source = f"peak of the process, {peak.low} to {peak.high} GiB by estimate_vram ({estimate.method_used}); {where}"
    return Need(needed_gib=peak.value, free_gib=free, of=source)


def _free_gpu_gib() -> float | None:
    from skill.memory.gpus import live_gpus

    free = [gpu.free_gib for gpu in live_gpus()]
    return round(max(free), 1) if free else None


def free_ram_gib() -> float:
    """Memory a new process can get: of the machine, or of the container where that is less."""
    free = psutil.virtual_memory().available
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max": no limit
            limit = int(Path(limit_file).read_text(encoding="ascii"))
            free = min(free, max(0, limit - int(Path(used_file).read_text(encoding="ascii"))))
    return round(free / GIB, 1)


def disk_need(run: RunDir, spec: RunSpec, shape: Shape | None) -> Need:
    """Bytes of checkpoints, of what is kept at the end and of the merge, on the disk of the run folder.

    One more checkpoint than save_total_limit exists while the next is written, and the best one is kept beside it.
    """
    free = round(shutil.disk_usage(run.path).free / GIB, 1)
    if shape is None:
        return Need(needed_gib=None, free_gib=free, of="free on the disk of the run folder; the model is not known")
    job = job_from_spec(spec, shape)
    checkpoints = spec.training.save_total_limit + 1 + (1 if spec.training.load_best_model_at_end else 0)
    total = disk_bytes(job, checkpoints=checkpoints, merged=spec.launch.merge_after)
    kept = f"{checkpoints} checkpoints of {checkpoint_bytes(job) / GIB:.2f} GiB and the result"
    return Need(needed_gib=round(total / GIB, 2), free_gib=free, of=kept)
