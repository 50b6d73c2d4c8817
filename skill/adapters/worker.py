"""The merge job: `python -m skill.adapters.worker RUN_DIR`. Merge, then verify; the folder is marked until it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from skill.adapters.report import MergeReport
from skill.inference import UNVERIFIED, base_folder, pick_device, trained_output, use_threads
from skill.runs.jobs import workspace_of
from skill.runs.worker import Progress, run_worker
from skill.spec import RunSpec
from skill.workspace import RunDir, write_atomic, write_json

REPORT = "merge_report.json"


def main(run: RunDir, args: dict[str, Any], progress: Progress) -> MergeReport:
    """Merge `adapter/` into the base as `merged/`, verify it, write `merged/merge_report.json`."""
    from skill.adapters import choose_route

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the merge has threads of its own; read when numpy loads
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other on a busy machine
    spec = run.spec()
    adapter = trained_output(run)
    assert adapter is not None  # merge_adapter checked it
    base = base_folder(workspace_of(run), spec)
    route = choose_route(spec, args.get("base", "auto"))
    dtype = args.get("dtype") or spec.dtype
    merged = _merge(spec, base, adapter, run.merged, route, dtype, progress)

    from skill.adapters.verify import verify

    use_threads(spec)
    found = verify(
        run, spec, base=base, adapter=adapter, merged=run.merged, dtype=dtype, device=pick_device(spec),
        progress=lambda done, total: progress(done, total, "verify"),
    )  # fmt: skip
    report = MergeReport(
        run_id=run.name,
        verdict=found.verdict,
        out=str(run.merged),
        method=merged.kind,
        base=str(base),
        route=route,
        dtype=dtype,
        tensors=merged.tensors,
        tensors_changed=merged.changed,
        head_untied=merged.untied,
        size_gib=round(merged.bytes_written / 2**30, 3),
        merge_s=merged.wall_s,
        verification=found,
        next_step=next_step(run.name, found.verdict, route, spec),
    )
    write_json(run.merged / REPORT, report.model_dump(mode="json"))
    if found.verdict == "verified":
        (run.merged / UNVERIFIED).unlink(missing_ok=True)
    else:
        write_atomic(run.merged / UNVERIFIED, "Not verified:\n" + "".join(f"- {why}\n" for why in found.reasons))
    return report


def _merge(spec: RunSpec, base: Path, adapter: Path, out: Path, route: str, dtype: str, progress: Progress) -> Any:
    from skill.adapters.lora import NeedsPeft
    from skill.adapters.merge import merge_folder

    def mark(folder: Path) -> None:
        (folder / UNVERIFIED).write_text("The merge is written and has not been verified yet.\n", encoding="utf-8")

    try:
        requantise = None
        if route == "dequantised":
            from skill.adapters.quantised import round_trip

            requantise = round_trip(base, spec, pick_device(spec))
        return merge_folder(
            base, adapter, out, dtype=dtype, base_dtype=spec.dtype, requantise=requantise, overwrite=True,
            threads=spec.launch.num_threads, progress=lambda done, total: progress(done, total, "merge"), finish=mark,
        )  # fmt: skip
    except NeedsPeft as reason:
        from skill.adapters.via_peft import merge_by_peft

        progress(0, 1, "merge by PEFT, in memory")
        return merge_by_peft(
            spec, base, adapter, out, dtype=dtype, device=pick_device(spec), why=str(reason), finish=mark
        )


def next_step(run_id: str, verdict: str, route: str, spec: RunSpec) -> str:
    """The tool call that follows."""
    if verdict == "verified":
        return f"run_eval(run_id={run_id!r}, candidate='merged') to compare it with the base on held-out rows."
    if spec.method.type == "qlora" and route == "original":
        return f"merge_adapter(run_id={run_id!r}, base='dequantised'): the adapter was trained on 4-bit weights."
    if spec.dtype != "float32":
        return (
            f"merge_adapter(run_id={run_id!r}, dtype='float32') keeps all of the update; or judge this one by "
            f"run_eval(run_id={run_id!r}, candidate='merged')."
        )
    return f"Serve base and adapter instead, and judge them by run_eval(run_id={run_id!r}, candidate='adapter')."


if __name__ == "__main__":
    run_worker(main, "merge")
