"""The same recipes made by mergekit-moe 0.1.5 and by us have the same tensors.

Weights are the same bytes. mergekit computes the states of prompts in the stored type, we do in float32: rows differ by
some steps of it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests import ROOT
from tests.merging.experts.dense import LAYERS, dense, made, recipe

pytestmark = pytest.mark.oracle

COMMAND = "import sys; from mergekit.scripts.moe import main; sys.argv[0] = 'mergekit-moe'; main()"
MATRICES = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    for kind in ("llama", "qwen2", "qwen3"):
        for seed, name in enumerate(("base", "a", "b")):
            dense(folder / kind / name, kind, seed)
    return folder


def by_mergekit(text: str, place: Path) -> dict[str, torch.Tensor]:
    """What mergekit-moe makes of a recipe, one tensor an expert."""
    (place / "recipe.yaml").write_text(text)
    out = place / "mergekit"
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(place / "recipe.yaml"), str(out), "--device", "cpu"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, torch.Tensor] = {}
    for file in out.glob("*.safetensors"):
        found |= load_file(file)
    return found


def with_beginning(text: str) -> str:
    """The prompts as mergekit reads them: behind the token that begins a text."""
    document = yaml.safe_load(text)
    for expert in document["experts"] + document.get("shared_experts", []):
        expert["positive_prompts"] = [f"<s>{prompt}" for prompt in expert.get("positive_prompts", [])]
    return yaml.safe_dump(document)


@pytest.mark.parametrize("mode", ["hidden", "cheap_embed"])
@pytest.mark.parametrize(("kind", "has_shared"), [("llama", False), ("qwen2", True), ("qwen3", False)])
def test_tensors_are_those_of_mergekit_moe(
    mode: str, kind: str, has_shared: bool, models: Path, tmp_path: Path
) -> None:
    folder = models / kind
    experts: list[Any] = [
        {"source_model": folder / "a", "positive_prompts": ["one text", "and a longer other"]},
        {"source_model": folder / "b", "positive_prompts": ["something else"]},
    ]
    shared = {"source_model": folder / "a", "positive_prompts": ["all"], "residual_scale": 0.5}
    text = recipe(
        folder / "base", experts, shared=shared if has_shared else None, gate_mode=mode, dtype="bfloat16"
    )

    right = by_mergekit(text, tmp_path)
    made(with_beginning(text), tmp_path / "ours")

    found = load_file(tmp_path / "ours/model.safetensors")
    compared = 0
    for name, tensor in found.items():
        wanted = right.get(name)
        if wanted is None:
            wanted = unpacked(right, name)
        if name.endswith("gate.weight"):
            torch.testing.assert_close(tensor.float(), wanted.float(), atol=1e-2, rtol=0, msg=name)
        else:
            assert torch.equal(tensor, wanted), name
        compared += 1
    assert compared > LAYERS * 10


def unpacked(found: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """A tensor that mergekit packs with others, or calls as transformers 5 does."""
    if name.endswith("gate.weight"):
        return found[name.replace("block_sparse_moe", "mlp")]
    head, _, rest = name.partition(".experts.")
    number, matrix, _ = rest.split(".")
    packed = f"{head.replace('block_sparse_moe', 'mlp')}.experts."
    matrix = MATRICES.get(matrix, matrix)
    if matrix == "down_proj":
        return found[f"{packed}down_proj"][int(number)]
    both = found[f"{packed}gate_up_proj"][int(number)]
    return both[: len(both) // 2] if matrix == "gate_proj" else both[len(both) // 2 :]
