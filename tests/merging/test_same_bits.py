"""The same recipe on the same models gives the same bits, however many work on it and however it is cut into files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from merging import METHODS, MergeMethod, make_plan, read_recipe, run_plan
from tests.merging.test_against_mergekit import tensors
from tests.tiny import tiny_llama


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base = tiny_llama(folder / "base", 0)
    for seed, name in enumerate("ab", 1):
        tiny_llama(folder / name, seed, base)
    return folder


def recipe(method: MergeMethod, folder: Path) -> str:
    names = "ab"[: method.max_models] if method.max_models else "ab"
    values = {"density": 0.6, "epsilon": 0.1, "t": 0.4, "weight": 0.7, "select_topk": 0.5, "lambda": 0.9}
    parameters = {
        p.name: values[p.name] for p in method.parameters if p.name in values and p.kind == "number"
    }
    if method.name in ("ram", "ramplus_tl"):
        parameters = {}
    found: dict[str, Any] = {
        "merge_method": method.name,
        "models": [{"model": str(folder / name)} for name in names],
        "parameters": parameters,
        "seed": 5,
    }
    if method.takes_base:
        found["base_model"] = str(folder / ("a" if method.base == "first" else "base"))
    return yaml.safe_dump(found)


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_workers_and_files_change_nothing(method: MergeMethod, models: Path, tmp_path: Path) -> None:
    found = []
    for workers, shard_size in ((1, 10**9), (3, 150_000)):
        to = tmp_path / f"out{workers}"
        plan = make_plan(read_recipe(recipe(method, models)), str(to), shard_size=shard_size)
        assert plan.problems == ()
        run_plan(plan, str(to), workers=workers)
        found.append(tensors(to))

    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
