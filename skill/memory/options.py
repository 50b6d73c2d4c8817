"""What fits, and the cheapest changes that make it fit."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from skill.errors import NotFound
from skill.memory.certainty import chance_to_fit, verdict
from skill.memory.gpus import GIB, Gpu, LiveGpu, find_gpu
from skill.memory.job import Job
from skill.memory.models import GpuFit, Lever
from skill.memory.peak import CONTEXT_GIB, DEFAULT_CONTEXT_GIB, Peak, peak

# What a change costs, for the sentence beside what it frees. Time: recomputation adds one forward to the forward and
# backward of a step (a third); 4-bit weights are dequantised at every use (QLoRA, arXiv 2305.14314, appendix).
COSTS = {
    "checkpointing": "about 30 % more time a step, same result",
    "batch": "same result with doubled accumulation; slower where the GPU is not filled",
    "length": "rows longer than this are dropped",
    "qlora": "4-bit base: 20 to 40 % more time; quality close to LoRA",
    "lora": "trains adapters instead of every weight; check the quality on held-out data",
    "optimizer": "8-bit optimizer states; quality about the same",
    "rank": "less capacity in the adapter",
    "fsdp": "needs more GPUs of the same kind; weights travel between them each layer",
}


def fits(job: Job, result: Peak, gpus: Iterable[Gpu]) -> list[GpuFit]:
    """One row a GPU of the table, smallest first."""
    return [_fit(job, result, gpu.name, gpu.usable_gib, gpu.compute_capability) for gpu in gpus]


def fits_at_hand(job: Job, result: Peak, live: Iterable[LiveGpu]) -> list[GpuFit]:
    """One row for each kind of GPU in this machine, by the memory that is free now on the emptiest of them."""
    emptiest: dict[str, LiveGpu] = {}
    for gpu in live:
        if gpu.name not in emptiest or gpu.free_gib > emptiest[gpu.name].free_gib:
            emptiest[gpu.name] = gpu
    rows = []
    for gpu in emptiest.values():
        capability = None  # of a card that the table does not know
        with suppress(NotFound):
            capability = find_gpu(gpu.name).compute_capability
        rows.append(_fit(job, result, gpu.name, gpu.free_gib, capability).model_copy(update={"at_hand": True}))
    return rows


def _fit(job: Job, result: Peak, name: str, usable_gib: float, capability: str | None) -> GpuFit:
    context = CONTEXT_GIB.get(capability or "", DEFAULT_CONTEXT_GIB) * GIB
    chance = chance_to_fit(job, result.allocated, result.cached, context, usable_gib * GIB)
    chance = min(0.99, max(0.01, chance))
    return GpuFit(gpu=name, memory_gib=round(usable_gib, 2), verdict=verdict(chance), probability=round(chance, 2))


def levers(job: Job, limit: int = 6) -> list[Lever]:
    """Single changes and what each frees, cheapest kind of cost first among those that free something that matters."""
    base = peak(job, quick=True).allocated
    candidates: list[tuple[str, Job, str]] = []
    if job.batch > 1:
        half = max(1, job.batch // 2)
        text = f"batch_size {half}, gradient_accumulation_steps {job.accumulation * -(-job.batch // half)}"
        candidates.append((text, job.but(batch=half, accumulation=job.accumulation * 2), COSTS["batch"]))
    if not job.checkpointing:
        candidates.append(("activation_checkpointing true", job.but(checkpointing=True), COSTS["checkpointing"]))
    if job.optimizer.startswith("adamw_f") and job.method == "full":
        candidates.append(("optimizer adamw_8bit", job.but(optimizer="adamw_8bit"), COSTS["optimizer"]))
        candidates.append(("optimizer paged_adamw_8bit", job.but(optimizer="paged"), COSTS["optimizer"] + "; may page"))
    if job.method == "lora" and job.quant == "none":
        candidates.append(
            ("method qlora", job.but(quant="nf4-dq", adapter_dtype="bfloat16", dtype="bfloat16"), COSTS["qlora"])
        )
    if job.method == "full":
        lora = job.but(method="lora", dtype="bfloat16", rank=16, adapter_dtype="float32")
        candidates.append(("method lora", lora, COSTS["lora"]))
        candidates.append(("method qlora", lora.but(quant="nf4-dq", adapter_dtype="bfloat16"), COSTS["qlora"]))
    if job.method == "lora" and job.rank > 8:
        candidates.append((f"lora_rank {job.rank // 2}", job.but(rank=job.rank // 2), COSTS["rank"]))
    if job.length > 512:
        candidates.append((f"max_length {job.length // 2}", job.but(length=job.length // 2), COSTS["length"]))
    if job.num_gpus == 1 and (job.method == "full" or job.quant == "none"):
        candidates.append(("num_gpus 2, sharding fsdp", job.but(num_gpus=2, sharding="fsdp"), COSTS["fsdp"]))
    rows = []
    for change, changed, cost in candidates:
        freed = (base - peak(changed, quick=True).allocated) / GIB
        if freed >= max(0.02, 0.01 * base / GIB):
            rows.append(Lever(change=change, frees_gib=round(freed, 2), cost=cost))
    return rows[:limit]
