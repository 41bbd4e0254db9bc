"""Digests of what every method makes of fixed numbers, which `merging.plan.ARITHMETIC` stands for.

python -m tests.merging.golden [--write]

They are made with the instructions that x86-64 processors of this decade have in common.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from tests import ROOT

GOLDEN = Path(__file__).with_suffix(".json")
# Read by torch and its BLAS when they are imported.
COMMON = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"}
SHAPES = {
    "model.embed_tokens.weight": (96, 48),
    "model.layers.0.self_attn.q_proj.weight": (48, 48),
    "model.layers.0.mlp.up_proj.weight": (80, 48),
    "model.layers.0.input_layernorm.weight": (48,),
    "model.layers.0.mlp.experts.weight": (3, 24, 40),
    "lm_head.weight": (96, 48),
}
# Where a default alone would leave a part of a method out.
VALUES = {"density": 0.6, "epsilon": 0.1, "t": 0.05, "weight": 0.7, "select_topk": 0.5, "lambda": 0.9}


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers between -1 and 1 that depend on a name only, and on no generator of a library."""
    size = int(np.prod(shape))
    drawn = np.frombuffer(hashlib.shake_256(name.encode()).digest(2 * size), dtype="<i2")
    return (drawn.astype(np.float32) / 2**15).reshape(shape)


def save_models(folder: Path) -> None:
    """A base, two models near it, and an adapter of the base, in float32."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}
    base = {name: numbers(f"base {name}", shape) for name, shape in SHAPES.items()}
    for model in ("base", "a", "b"):
        (folder / model).mkdir(parents=True)
        (folder / model / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
        near = {name: base[name] + numbers(f"{model} {name}", shape) / 8 for name, shape in SHAPES.items()}
        save_file(base if model == "base" else near, folder / model / "model.safetensors")
    module = "base_model.model.model.layers.0.mlp.up_proj"
    rank = {"lora_A": (4, 48), "lora_B": (80, 4)}
    factors = {f"{module}.{part}.weight": numbers(part, shape) for part, shape in rank.items()}
    (folder / "lora").mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["up_proj"]}
    (folder / "lora/adapter_config.json").write_text(json.dumps(settings))
    save_file(factors, folder / "lora/adapter_model.safetensors")


def recipes(folder: Path) -> dict[str, str]:
    """A recipe for every method, one under an adapter, and a merge of a merge."""
    from merging import METHODS

    found = {}
    for method in METHODS.values():
        models = (["b"] if method.base == "first" else ["a", "b"])[: method.max_models]
        parameters = {
            p.name: VALUES[p.name] for p in method.parameters if p.name in VALUES and p.kind == "number"
        }
        recipe: dict[str, Any] = {
            "merge_method": method.name,
            "models": [{"model": str(folder / model)} for model in models],
            "parameters": {} if method.name in ("ram", "ramplus_tl") else parameters,
            "seed": 5,
        }
        if method.takes_base:
            recipe["base_model"] = str(folder / ("a" if method.base == "first" else "base"))
        found[method.name] = yaml.safe_dump(recipe)
    under = [{"model": f"{folder / 'base'}+{folder / 'lora'}"}, {"model": str(folder / "a")}]
    linear = {"merge_method": "linear", "models": under, "parameters": {"weight": 0.5}}
    found["under an adapter"] = yaml.safe_dump(linear)
    again = [{"model": "first"}, {"model": str(folder / "b")}]
    chain = [{**linear, "name": "first", "dtype": "bfloat16"}, {**linear, "models": again}]
    found["a merge of a merge"] = yaml.safe_dump_all(chain)
    return found


def digests() -> dict[str, Any]:
    """What this version makes, made in a process of its own."""
    command = [sys.executable, "-m", "tests.merging.golden", "--here"]
    made = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **COMMON}, capture_output=True, text=True, check=True
    )
    return dict(json.loads(made.stdout))


def _digests_here() -> dict[str, Any]:
    import torch

    from merging import make_plan, read_recipe, run_plan
    from merging.engine.processor import processor_kind
    from merging.plan import ARITHMETIC

    made = {}
    with tempfile.TemporaryDirectory(prefix="alloy-golden-") as place:
        # Names of folders are in recipes, and so in fingerprints, but in no shard.
        folder = Path(place)
        save_models(folder)
        for number, (name, text) in enumerate(recipes(folder).items()):
            to = str(folder / f"out{number}")
            plan = make_plan(read_recipe(text), to)
            assert plan.problems == (), (name, plan.problems)
            run_plan(plan, to, workers=1)
            content = (Path(to) / "model.safetensors").read_bytes()
            made[name] = hashlib.sha256(content).hexdigest()[:16]
    versions = {"torch": torch.__version__.partition("+")[0], "numpy": np.__version__}
    return {"arithmetic": ARITHMETIC, "processor": processor_kind("cpu"), **versions, "digests": made}


if __name__ == "__main__":
    if "--here" in sys.argv:
        print(json.dumps(_digests_here()))
    elif "--write" in sys.argv:
        GOLDEN.write_text(json.dumps(digests(), indent=2) + "\n")
    else:
        print(json.dumps(digests(), indent=2))
