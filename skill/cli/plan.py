"""Verbs that decide, check and write, and start nothing."""

from __future__ import annotations

import argparse
from typing import Any

from skill.cli.show import emit, working

METHODS = ("full", "lora", "qlora", "prefix")
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit")
CADENCES = ("never", "yearly", "monthly", "weekly", "daily", "hourly")
NEEDS = ("format", "tone", "domain_knowledge")
SIGNALS = ("preferences", "verifiable_reward", "private_data", "teacher_model")
FACTS = (
    "needs",
    "signals",
    "examples",
    "dataset_path",
    "knowledge_update",
    "complexity",
    "latency_ms",
    "budget_usd_month",
    "gpu_gib",
    "model",
    "model_params_b",
)
SHARDING = ("none", "ddp", "zero1", "zero2", "zero3", "fsdp")
MODEL_HELP = "hub id owner/name, folder, .gguf file, or smollm2-135m-instruct (embedded)"


def add_parsers(verbs: Any, shared: argparse.ArgumentParser) -> None:
    def verb(name: str, run: Any, text: str, example: str) -> argparse.ArgumentParser:
        parser = verbs.add_parser(name, parents=[shared], help=text, description=text[0].upper() + text[1:] + ".",
                                  epilog=f"example: tunesmith {name} {example}".rstrip())  # fmt: skip
        parser.set_defaults(run=run)
        return parser

    verb("env", environment, "what this machine has, and what is wrong with it", "")
    parser = verb("recommend", recommend, "should this be a fine-tune at all, and how exactly",
                  '"support mail to JSON" --data tickets.csv --needs format')  # fmt: skip
    parser.add_argument("task", metavar="TASK", help="what the model shall do, in words")
    parser.add_argument("--examples", type=int, metavar="N", help="good input-output examples at hand")
    parser.add_argument("--data", dest="dataset_path", metavar="FILE", help="their file; it is counted and looked at")
    parser.add_argument("--knowledge-update", choices=CADENCES, help="how often the facts in the answers change")
    parser.add_argument("--needs", nargs="+", choices=NEEDS, help="what answers need that the base lacks")
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, help="what is true here")
    parser.add_argument("--complexity", choices=("low", "medium", "high"))
    parser.add_argument("--latency-ms", type=float, metavar="X", help="time allowed for an answer")
    parser.add_argument("--budget", dest="budget_usd_month", type=float, metavar="USD", help="a month")
    parser.add_argument("--gpu-gib", type=float, metavar="X", help="GPU memory for training, all cards; 0: none")
    parser.add_argument("--model", help=f"base model, if chosen: {MODEL_HELP}")
    parser.add_argument("--params-b", dest="model_params_b", type=float, metavar="X", help="its parameters in billions")

    parser = verb("estimate", estimate, "peak GPU memory of training, and where it fits",
                  "Qwen/Qwen2.5-7B --method qlora --max-length 2048 --gpu L4")  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--method", choices=METHODS, default="lora")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="rows a device and step (default 1)")
    parser.add_argument("--max-length", type=int, default=1024, metavar="N", help="tokens a row (default 1024)")
    parser.add_argument(
        "--grad-accum", type=int, default=1, metavar="N", help="gradient accumulation steps (default 1)"
    )
    parser.add_argument("--lora-rank", type=int, default=16, metavar="R", help="default 16")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep activations: faster, more memory")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default=OPTIMIZERS[0])
    parser.add_argument("--precision", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--gpu", metavar="NAME", help="one GPU, as L4 or 'RTX 4090' (default: all known)")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N")
    parser.add_argument("--sharding", choices=SHARDING, default="none")
    parser.add_argument("--tokens", type=int, metavar="N", help="trained on in all, epochs included: gives the hours")
    parser.add_argument("--price", type=float, metavar="X", help="of one GPU and hour; with --tokens gives the cost")

    parser = verb("validate", validate, "check training data: what would be trained, and what is wrong with the rest",
                  "tickets.csv --model smollm2-135m-instruct")  # fmt: skip
    parser.add_argument("dataset", metavar="FILE", help="JSON, JSONL, CSV, TSV or Parquet")
    parser.add_argument("--model", help=f"counts tokens with its tokenizer and template: {MODEL_HELP}")
    parser.add_argument("--eval", dest="eval_path", metavar="FILE", help="held-out file; checked for leaks")
    parser.add_argument("--max-length", type=int, default=1024, metavar="N", help="tokens a row (default 1024)")
    parser.add_argument("--column", action="append", default=[], metavar="YOURS=FIELD",
                        help="FIELD is prompt, completion, system, messages or text; may be repeated")  # fmt: skip
    parser.add_argument("--system", metavar="TEXT", help="system message for rows without one")
    parser.add_argument("--sample", type=int, metavar="N", help="tokenize only N rows of a big file")

    parser = verb("recipes", recipes, "named starting points, or the text of one", "sft-qlora")
    parser.add_argument("name", nargs="?", metavar="RECIPE")

    parser = verb("check", check, "check a run.yaml, or your own train.py against the installed libraries", "train.py")
    parser.add_argument("file", metavar="FILE", help="a RunSpec in YAML, or a Python script (read, never run)")

    parser = verb("render", render, "write the run folder with its train.py",
                  "my-run --model smollm2-135m-instruct --train tickets.csv --set training.seed=7")  # fmt: skip
    parser.add_argument("name", metavar="NAME", nargs="?", help="run name: a-z, 0-9, '-'")
    parser.add_argument("--spec", metavar="FILE", help="a RunSpec in YAML instead of a recipe; options lie over it")
    parser.add_argument("--recipe", default="sft-lora", help="default sft-lora (tunesmith recipes)")
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument("--revision", help="hub commit, tag or branch")
    parser.add_argument("--train", metavar="FILE", help="training file")
    parser.add_argument("--eval", dest="eval_path", metavar="FILE", help="held-out file (default: 10 %% is split off)")
    parser.add_argument("--lr", type=float, metavar="X", help="learning rate (default: the recipe's)")
    parser.add_argument("--epochs", type=float, metavar="X", help="default: the recipe's")
    parser.add_argument("--max-length", type=int, metavar="N", help="tokens a row (default: the recipe's, or 1024)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows a device and step")
    parser.add_argument("--lora-rank", type=int, metavar="R")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
                        help="any other RunSpec field, as training.seed=7; may be repeated")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a run of this name that was never started")


def environment(args: argparse.Namespace) -> int:
    from skill.environment import inspect_environment
    from skill.workspace import Workspace

    emit(inspect_environment(Workspace.open()), as_json=args.json)
    return 0


def recommend(args: argparse.Namespace) -> int:
    from skill.advise import ApproachQuery, recommend_approach
    from skill.workspace import Workspace

    facts = {name: getattr(args, name) for name in FACTS}
    emit(recommend_approach(Workspace.open(), ApproachQuery.from_signals(args.task, **facts)), as_json=args.json)
    return 0


def estimate(args: argparse.Namespace) -> int:
    from skill.memory import estimate_vram
    from skill.workspace import Workspace

    result = estimate_vram(
        Workspace.open(),
        model=args.model,
        method=args.method,
        batch_size=args.batch_size,
        max_length=args.max_length,
        gradient_accumulation_steps=args.grad_accum,
        lora_rank=args.lora_rank,
        activation_checkpointing=not args.no_checkpointing,
        optimizer=args.optimizer,
        precision=args.precision,
        gpu=args.gpu,
        num_gpus=args.num_gpus,
        sharding=args.sharding,
        tokens=args.tokens,
        price_per_gpu_hour=args.price,
    )
    emit(result, as_json=args.json)
    return 0


def validate(args: argparse.Namespace) -> int:
    """0 when the data can be trained on, 1 when it cannot."""
    from skill.data import validate_dataset
    from skill.workspace import Workspace

    columns = _pairs(args.column)
    with working("checking"):
        report = validate_dataset(
            Workspace.open(),
            args.dataset,
            model=args.model,
            eval_path=args.eval_path,
            max_length=args.max_length,
            columns=columns,
            system=args.system,
            sample=args.sample,
        )
    emit(report, as_json=args.json)
    return 1 if report.verdict == "not_usable" else 0


def recipes(args: argparse.Namespace) -> int:
    import json

    from skill.cli.show import table
    from skill.recipes import recipe_names, recipe_summary, recipe_text

    if args.name:
        text = recipe_text(args.name)
        print(json.dumps({"name": args.name, "text": text}) if args.json else text.rstrip())
        return 0
    rows = [{"recipe": name, "when": recipe_summary(name)} for name in recipe_names()]
    print(json.dumps({"recipes": rows}) if args.json else "\n".join(table(rows)))
    return 0


def check(args: argparse.Namespace) -> int:
    import json

    from skill.workspace import Workspace, read_spec

    ws = Workspace.open()
    if args.file.endswith(".py"):
        from skill.scripts import check_script

        found = check_script(ws, args.file)
        emit(found, as_json=args.json)
        return 1 if found.errors else 0
    spec = read_spec(ws.read_path(args.file, what="spec file"))
    told = {"name": spec.name, "valid": True, "fingerprint": spec.fingerprint[:12], "dtype": spec.dtype}
    print(json.dumps(told) if args.json else f"{spec.name}: valid ({spec.method.type}, {spec.dtype} weights)")
    return 0


def render(args: argparse.Namespace) -> int:
    from skill.recipes import apply_overrides, merge, resolve
    from skill.scripts import render_run
    from skill.spec import parse
    from skill.workspace import Workspace, read_yaml

    ws = Workspace.open()
    values = {
        "name": args.name,
        "model": {"id": args.model, "revision": args.revision},
        "data": {"train": args.train, "eval": args.eval_path, "max_length": args.max_length},
        "method": {"r": args.lora_rank},
        "training": {
            "learning_rate": args.lr,
            "num_train_epochs": args.epochs,
            "per_device_train_batch_size": args.batch_size,
        },
    }
    if args.spec:
        base = read_yaml(ws.read_path(args.spec, what="spec file"))
        spec = parse(apply_overrides(merge(base, values), args.overrides))
    else:
        spec = resolve(args.recipe, values, args.overrides)
    with working("rendering and checking"):
        rendered = render_run(ws, spec, overwrite=args.overwrite)
    emit(rendered, as_json=args.json, hide=("script_head",))
    return 0


def _pairs(items: list[str]) -> dict[str, str] | None:
    from skill.errors import SpecError

    wrong = [item for item in items if "=" not in item]
    if wrong:
        raise SpecError(f"--column {wrong[0][:80]!r} is not YOURS=FIELD.", hint="Write it as --column question=prompt")
    return dict(item.split("=", 1) for item in items) or None
