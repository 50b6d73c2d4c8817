"""Generated tokens a second of the evaluation engine, against one-by-one `generate` of transformers and, where it is
installed, the Hugging Face backend of lm-evaluation-harness; same prompts, same limit, greedy, interleaved.

    python benchmarks/eval_throughput.py                 # SmolLM2-135M, 16 prompts, 24 new tokens, float32

The last line is one JSON object: ratio_vs_one_by_one, ratio_vs_lm_eval, identical_outputs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

QUESTIONS = (
    "What is the capital of France?", "Write one sentence about the sea.", "List three colours.", "What is 17 plus 25?",
    "Translate 'good morning' into Spanish.", "Explain gravity to a child, briefly.", "Name a mammal that flies.",
    "Give me a title for a story about a lost dog.", "What do bees make?", "Is water wet? Answer briefly.",
    "Complete the proverb: a stitch in time", "Which planet is the largest?", "Write a short greeting for a customer.",
    "What is the opposite of 'ancient'?", "Name two uses of a brick.", "How many legs does a spider have?",
)  # fmt: skip


def one_by_one(model: Any, examples: list[Any], limit: int, stop: frozenset[int], pad: int) -> list[tuple[int, ...]]:
    import torch

    out = []
    with torch.inference_mode():
        for example in examples:
            ids = torch.tensor([example.prompt])
            made = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False,
                eos_token_id=sorted(stop), pad_token_id=pad,
            )[0, ids.shape[1] :].tolist()  # fmt: skip
            end = next((place for place, token in enumerate(made) if token in stop), None)
            out.append(tuple(made[:end]))
    return out


def lm_eval_backend(model: Any, tokenizer: Any, examples: list[Any], limit: int) -> Any:
    """A function that generates by lm-eval's HFLM, or None where lm-eval is not installed."""
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        return None
    backend = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16)
    options = {"until": [tokenizer.eos_token], "max_gen_toks": limit, "do_sample": False}
    requests = [Instance("generate_until", {}, (example.text, options), i) for i, example in enumerate(examples)]
    return lambda: backend.generate_until(requests, disable_tqdm=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()

    from skill.evaluation.generate import Limits, answer_rows
    from skill.inference import encode, load_plain, load_tokenizer, stop_tokens
    from skill.models import EMBEDDED, find_model
    from skill.workspace import Workspace

    with tempfile.TemporaryDirectory() as root:
        folder = Path(str(find_model(Workspace.open(root), EMBEDDED).path))
    model, tokenizer = load_plain(folder, args.dtype, "cpu"), load_tokenizer(folder)
    rows = [
        {"prompt": [{"role": "user", "content": text}], "completion": [{"role": "assistant", "content": "."}]}
        for text in QUESTIONS
    ]
    examples = [encode(tokenizer, row, index) for index, row in enumerate(rows)]
    stop = stop_tokens(tokenizer, model, examples)
    limits = Limits(args.new_tokens, 16, stop, tokenizer.pad_token_id)
    theirs = lm_eval_backend(model, tokenizer, examples, args.new_tokens)

    walls: dict[str, list[float]] = {"ours": [], "one_by_one": [], "lm_eval": []}
    said: dict[str, Any] = {}
    for index in range(args.rounds):
        for name in walls:
            if name == "lm_eval" and theirs is None:
                continue
            started = time.perf_counter()
            if name == "ours":
                said[name] = [answer.ids for answer in answer_rows(model, examples, limits)]
            elif name == "one_by_one":
                said[name] = one_by_one(model, examples, args.new_tokens, stop, limits.pad)
            elif theirs is not None:
                said[name] = theirs()
            walls[name].append(time.perf_counter() - started)
            print(f"round {index + 1} {name:10} {walls[name][-1]:6.2f} s", flush=True)
    ours = statistics.median(walls["ours"])
    summary = {
        "prompts": len(examples),
        "new_tokens": args.new_tokens,
        "tokens_per_s": round(sum(len(ids) for ids in said["ours"]) / ours, 1),
        "ratio_vs_one_by_one": round(statistics.median(walls["one_by_one"]) / ours, 2),
        "ratio_vs_lm_eval": round(statistics.median(walls["lm_eval"]) / ours, 2) if walls["lm_eval"] else None,
        "identical_outputs": said["ours"] == said["one_by_one"],
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
