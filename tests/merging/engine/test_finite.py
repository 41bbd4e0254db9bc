"""Numbers that are infinite or NaN: counted by every engine, whatever made them, and named in result and card."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from checkpoints.dtypes import itemsize, torch_name
from merging import make_plan, read_recipe, run_plan
from merging.destinations.receipt import Receipt, not_finite
from merging.engine.engine import Engine
from merging.engine.finite import EXPONENTS, count_not_finite
from merging.engine.threads import Threads
from merging.methods import METHODS, MergeMethod
from merging.plan import Plan
from merging.result_card import with_not_finite
from tests.merging.engine.elsewhere import Elsewhere
from tests.tiny import tiny_llama

NORM, HEAD = "model.norm.weight", "lm_head.weight"


@pytest.mark.parametrize("dtype", EXPONENTS)
def test_every_pattern_of_bits_is_judged_as_torch_judges_it(dtype: str) -> None:
    width = itemsize(dtype)
    if width <= 2:
        raw = torch.arange(256**width, dtype=torch.int32).numpy().astype(f"<u{width}").tobytes()
    else:
        specials = [0.0, -0.0, 1e-45, 3e38, float("inf"), float("-inf"), float("nan"), -float("nan"), 1.0]
        raw = torch.tensor(specials, dtype=getattr(torch, torch_name(dtype))).numpy().tobytes()
    stored = torch.frombuffer(bytearray(raw), dtype=getattr(torch, torch_name(dtype)))

    assert count_not_finite(memoryview(raw), dtype) == int((~stored.float().isfinite()).sum()) > 0
    assert count_not_finite(memoryview(bytes(16)), dtype) == 0


def test_whole_numbers_are_finite() -> None:
    assert count_not_finite(memoryview(b"\xff" * 16), "I16") == 0
    assert count_not_finite(memoryview(b""), "F32") == 0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A sound model, one whose norm is too large for float16, and one with NaN in its head."""
    folder = tmp_path_factory.mktemp("models")
    paths = {name: folder / name for name in ("sound", "large", "nan")}
    for seed, (name, path) in enumerate(paths.items()):
        tiny_llama(path, seed, dtype=torch.bfloat16, tie_word_embeddings=False)
        tensors = load_file(path / "model.safetensors")
        if name == "large":
            tensors[NORM][:5] = 1e5
        if name == "nan":
            tensors[HEAD][0, :3] = float("nan")
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return {name: str(path) for name, path in paths.items()}


def planned(models: dict[str, str], names: str, method: str, dtype: str, to: Path) -> Plan:
    entries = [{"model": models[name]} for name in names.split()]
    recipe = {"merge_method": method, "models": entries, "dtype": dtype}
    if method != "passthrough":
        recipe["parameters"] = {"weight": 0.9}
    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), str(to), shard_size=60_000)
    assert plan.ok
    return plan


@pytest.mark.parametrize(
    ("names", "method", "dtype", "found"),
    [
        ("large large", "linear", "float16", {NORM: 5}),
        ("large large", "linear", "bfloat16", {}),
        ("sound nan", "linear", "float32", {HEAD: 3}),
        ("nan", "passthrough", "bfloat16", {HEAD: 3}),
        ("nan", "passthrough", "float16", {HEAD: 3}),
        ("large nan", "linear", "float16", {HEAD: 3}),  # half of what is too large fits
        ("sound sound", "linear", "float16", {}),
    ],
)
def test_they_are_counted_and_named(
    names: str, method: str, dtype: str, found: dict[str, int], models: dict[str, str], tmp_path: Path
) -> None:
    to = tmp_path / "out"
    plan = planned(models, names, method, dtype, to)
    result = run_plan(plan, str(to), workers=2)

    assert result.not_finite == found
    card = (to / "README.md").read_text()
    assert ("infinite or NaN" in card) == bool(found)
    assert all(f"| `{name}` | {count} |" in card for name, count in found.items())
    assert [warning.code for warning in result.warnings] == ["not-finite"] * bool(found)
    stored = {k: v for file in to.glob("*.safetensors") for k, v in load_file(file).items()}
    counts = {name: int((~tensor.isfinite()).sum()) for name, tensor in stored.items()}
    assert {name: count for name, count in counts.items() if count} == found


@pytest.mark.parametrize("engine", [Threads(), Elsewhere()], ids=["threads", "elsewhere"])
def test_any_engine_reports_them(engine: Engine, models: dict[str, str], tmp_path: Path) -> None:
    to = tmp_path / "out"
    plan = planned(models, "large large", "linear", "float16", to)

    assert run_plan(plan, str(to), on=engine).not_finite == {NORM: 5}


def test_a_receipt_carries_them() -> None:
    receipt = Receipt("a.safetensors", 3, not_finite={"x": 2, "b": 1})

    assert Receipt.from_json(receipt.to_json()) == receipt
    assert list(not_finite([receipt, Receipt("b", 1), Receipt("c", 1, not_finite={"a": 7})])) == [
        "b",
        "x",
        "a",
    ]


def test_a_card_lists_the_worst_first_and_not_all() -> None:
    card = with_not_finite("a\n\n## Recipe\n\n```yaml\n## Recipe\n```\n", {f"t{i}": i for i in range(1, 31)})

    rows = re.findall(r"\| `(t\d+)` \| (\d+) \|", card)
    assert rows[0] == ("t30", "30")
    assert len(rows) == 20
    assert "465 numbers in 30 tensors" in card
    assert "| 10 more tensors | |" in card
    assert card.count("## Numbers") == 1
    assert card.endswith("```\n")


def of_any_method(method: MergeMethod, models: Sequence[str], base: str) -> dict[str, Any]:
    """A recipe of a method with the least that it needs."""
    given = {p.name: 0.5 for p in method.parameters if p.required}
    each = {name: given.pop(name) for name in [*given] if method.parameter(name).per_model}  # type: ignore[union-attr]
    named = models[: method.max_models]
    entries = [{"model": model, **({"parameters": each} if each else {})} for model in named]
    recipe = {"merge_method": method.name, "models": entries, "parameters": given, "dtype": "float32"}
    return recipe | ({"base_model": base if method.may_subtract else named[-1]} if method.takes_base else {})


@pytest.mark.parametrize("name", METHODS)
def test_no_method_hides_them(name: str, models: dict[str, str], tmp_path: Path) -> None:
    """A parent's infinities and NaN in a matrix are in the result, or have made others, and are reported."""
    spoilt = tmp_path / "spoilt"
    shutil.copytree(models["sound"], spoilt)
    tensors = load_file(spoilt / "model.safetensors")
    matrix = "model.layers.1.mlp.up_proj.weight"
    tensors[matrix][0, 0], tensors[matrix][1, 1] = float("nan"), float("inf")
    save_file(tensors, spoilt / "model.safetensors", metadata={"format": "pt"})
    recipe = of_any_method(METHODS[name], [str(spoilt), models["large"]], models["sound"])
    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), str(tmp_path / "out"))
    assert not plan.problems

    found = run_plan(plan, str(tmp_path / "out"), workers=1).not_finite

    assert found.keys() == {matrix}
