"""python -m skill.memory.trace.worker: a Job as JSON on stdin, one JSON line on stdout."""

from __future__ import annotations

import json
import sys
import warnings

from skill.memory.job import Job
from skill.memory.shapes import Shape


def main() -> None:
    warnings.filterwarnings("ignore")
    payload = json.load(sys.stdin)
    shape = payload.pop("shape")
    shape["overrides"] = tuple((k, v) for k, v in shape["overrides"])
    if isinstance(payload["targets"], list):
        payload["targets"] = tuple(payload["targets"])
    job = Job(shape=Shape(**shape), **payload)
    try:
        import torch

        torch.set_num_threads(1)
        from skill.memory.trace.step import traced

        answer = traced(job)
    except ImportError as error:
        answer = {"error": str(error)[:300], "kind": "ImportError"}
    except Exception as error:  # whatever a model's code raises: it becomes the answer
        answer = {"error": f"{type(error).__name__}: {str(error)[:300]}", "kind": type(error).__name__}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
