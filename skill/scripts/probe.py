"""The checks that need the real libraries, in a process of their own: `python -m skill.scripts.probe SCRIPT`.

Imports the script (its training starts only under __main__), binds every call in it to the signature of what is
installed, makes its config objects for real, and puts its adapter on a model without weights (meta device), which
shows dead target names and the trainable share. Prints one JSON object:
`{"problems": [str], "trainable_params": int | null, "total_params": int | null, "adapted_modules": [str]}`.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from skill.errors import did_you_mean
from skill.scripts.binding import check_calls


def load(script: Path) -> ModuleType:
    """The script as a module, under a name that is not __main__."""
    spec = importlib.util.spec_from_file_location("rendered_script", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look it up there
    spec.loader.exec_module(module)
    return module


def construct(module: ModuleType) -> list[str]:
    """Make the config objects the script will make; what they refuse, they refuse now."""
    problems = []
    for name in ("training_arguments", "peft_config", "quantization_config"):
        if hasattr(module, name):
            try:
                getattr(module, name)()
            except Exception as error:
                problems.append(f"{name}(): {type(error).__name__}: {first_line(error)}")
    return problems


def adapted(module: ModuleType) -> dict[str, Any]:
    """Put the script's adapter on its model without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    found: dict[str, Any] = {"problems": [], "trainable_params": None, "total_params": None, "adapted_modules": []}
    if not Path(module.MODEL).is_dir():
        return found
    config = AutoConfig.from_pretrained(module.MODEL, trust_remote_code=False)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    found["total_params"] = sum(p.numel() for p in model.parameters())
    if not hasattr(module, "peft_config"):
        return {**found, "trainable_params": found["total_params"]}
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    linear = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if is_linear(part)})
    try:
        model = get_peft_model(model, module.peft_config(), low_cpu_mem_usage=True)
    except ValueError as error:
        return {**found, "problems": [f"peft_config(): {first_line(error)} This model has: {', '.join(linear)}."]}
    layers = [name for name, part in model.named_modules() if isinstance(part, BaseTunerLayer)]
    wanted = getattr(module, "TARGET_MODULES", None)
    for name in wanted if isinstance(wanted, list) else []:
        if not any(layer == name or layer.endswith(f".{name}") for layer in layers):
            fix = did_you_mean(name, linear)
            found["problems"].append(f"TARGET_MODULES: no module of this model is named {name!r}. {fix}")
    found["trainable_params"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found["adapted_modules"] = sorted({name.rpartition(".")[2] for name in layers})
    return found


def is_linear(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def main(script: Path) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing here needs a GPU, and another job may need all of it
    tree = ast.parse(script.read_text(encoding="utf-8"))
    try:
        module = load(script)
    except Exception as error:
        return {"problems": [f"import: {type(error).__name__}: {first_line(error)}"]}
    problems = [str(finding) for finding in check_calls(tree, vars(module)) if finding.fatal] or construct(module)
    return {"problems": problems} if problems else adapted(module)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
