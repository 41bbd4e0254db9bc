"""Several recipes in one text: what one makes is a model to the next, and nothing of it is stored on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from checkpoints.problems import Place
from merging import Plan, RecipeError, make_plan, read_recipe, run_plan
from tests.hub import Hub
from tests.merging.test_against_mergekit import tensors
from tests.tiny import tiny_llama


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base = tiny_llama(folder / "base", 0)
    for seed, name in enumerate("abc", 1):
        tiny_llama(folder / name, seed, base)
    return folder


def chain(place: Path | str, **first: Any) -> list[dict[str, Any]]:
    """slerp of a linear merge and a model, then TIES of that and another."""
    return [
        {
            "name": "mean",
            "merge_method": "linear",
            "models": [{"model": f"{place}/{m}", "parameters": {"weight": 1}} for m in "ab"],
            "dtype": "bfloat16",
            **first,
        },
        {
            "name": "between",
            "merge_method": "slerp",
            "base_model": "mean",
            "models": [{"model": f"{place}/c"}],
            "parameters": {"t": [0.2, 0.8]},
            "dtype": "float32",
        },
        {
            "merge_method": "ties",
            "base_model": f"{place}/base",
            "models": [{"model": "between"}, {"model": f"{place}/b"}],
            "parameters": {"weight": 0.5, "density": 0.6},
            "dtype": "float32",
            "out_dtype": "bfloat16",
        },
    ]


def merge(documents: list[dict[str, Any]], to: Path, **options: Any) -> Plan:
    plan = make_plan(read_recipe(yaml.safe_dump_all(documents)), str(to), token=options.get("token"))
    assert plan.problems == ()
    assert Plan.from_json(plan.to_json()) == plan
    run_plan(plan, str(to), **options)
    return plan


def one_by_one(documents: list[dict[str, Any]], folder: Path) -> Path:
    """The same with every result written to a folder."""
    for number, document in enumerate(documents):
        text = yaml.safe_dump({key: value for key, value in document.items() if key != "name"})
        for name in ("mean", "between"):
            text = text.replace(f"model: {name}\n", f"model: {folder / name}\n")
        to = folder / document.get("name", f"result{number}")
        plan = make_plan(read_recipe(text), str(to))
        assert plan.problems == ()
        run_plan(plan, str(to))
    return to


@pytest.mark.parametrize("workers", [1, 2])
def test_a_chain_gives_the_bytes_of_its_merges_one_by_one(models: Path, tmp_path: Path, workers: int) -> None:
    plan = merge(chain(models), tmp_path / "out", workers=workers)

    expected = one_by_one(chain(models), tmp_path / "steps")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (expected / name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "steps"}
    assert {Path(parent.name).name for parent in plan.parents} == {"base", "a", "b", "c"}
    card = (tmp_path / "out/README.md").read_text()
    assert "A merge of 4 models" in card


def test_a_chain_from_hub_to_hub(hub: Hub, alice: str, models: Path, tmp_path: Path) -> None:
    for name in ("base", "a", "b", "c"):
        hub.put(f"alice/{name}", models / name, private=True)
    text = yaml.safe_dump_all(chain("alice"))
    plan = make_plan(read_recipe(text), "hf://alice/chained", token=alice)
    assert plan.problems == ()

    run_plan(plan, "hf://alice/chained", token=alice)

    merge(chain(models), tmp_path / "here")
    assert (
        hub.read("alice/chained", "model.safetensors") == (tmp_path / "here/model.safetensors").read_bytes()
    )


def test_two_stages_do_not_draw_the_same(models: Path, tmp_path: Path) -> None:
    """What DARE keeps in one merge has nothing to do with what it keeps in the next."""
    dare = {
        "merge_method": "dare_linear",
        "base_model": f"{models}/base",
        "parameters": {"weight": 1, "density": 0.5, "rescale": False},
        "dtype": "float32",
    }
    twice = [
        {**dare, "name": "once", "models": [{"model": f"{models}/a"}]},
        {**dare, "models": [{"model": "once"}]},
    ]

    merge(twice, tmp_path / "out")

    merged, base = (load_file(path / "model.safetensors") for path in (tmp_path / "out", models / "base"))
    name = "model.layers.0.mlp.up_proj.weight"
    kept = (merged[name] != base[name].float()).float().mean().item()
    assert 0.22 < kept < 0.28


def test_a_stage_with_another_vocabulary_and_layers(models: Path, tmp_path: Path) -> None:
    tall = {
        "name": "tall",
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": f"{models}/a", "layer_range": [0, 3]}]},
            {"sources": [{"model": f"{models}/b", "layer_range": [1, 4]}]},
        ],
    }
    cut = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": "tall", "layer_range": [2, 6]}]}],
    }

    merge([tall, cut], tmp_path / "out")

    merged, b = (load_file(path / "model.safetensors") for path in (tmp_path / "out", models / "b"))
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(merged[name.format(3)], b[name.format(3)])
    assert torch.equal(merged[name.format(1)], b[name.format(1)])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d[0].update(models=[{"model": "between", "parameters": {"weight": 1}}]), "circle"),
        (lambda d: d[1].update(name="mean"), "repeated-name"),
        (lambda d: d[0].pop("name"), "nameless-recipes"),
        (lambda d: d[2].update(models=[{"model": "x/y"}]), "unused-merge"),
        (lambda d: d[1].update(merge_method="slurp"), "unknown-method"),
    ],
)
def test_chains_that_cannot_be_read(change: Any, code: str) -> None:
    documents = chain("x")
    change(documents)

    with pytest.raises(RecipeError) as caught:
        read_recipe(yaml.safe_dump_all(documents))

    assert code in [problem.code for problem in caught.value.problems]
    assert all(problem.fix and problem.where for problem in caught.value.problems)


def test_problems_of_a_stage_are_problems_of_the_plan(models: Path) -> None:
    documents = chain(models)
    documents[0]["models"][0]["model"] = f"{models}/missing"

    plan = make_plan(read_recipe(yaml.safe_dump_all(documents)), None)

    [problem] = plan.problems
    assert problem.code == "no-folder-or-model-id"
    assert isinstance(problem.where, Place)


@pytest.mark.oracle
def test_a_chain_comes_out_as_from_mergekit(models: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner
    from mergekit.scripts.multimerge import main

    documents = chain(models, dtype="float32")
    # Not TIES: which of many equal changes it keeps is left to chance there.
    documents[2] |= {"merge_method": "task_arithmetic", "parameters": {"weight": 0.5}}
    text = yaml.safe_dump_all(documents)
    (tmp_path / "chain.yaml").write_text(text)
    arguments = [
        str(tmp_path / "chain.yaml"),
        "--out-path",
        str(tmp_path / "theirs"),
        "-I",
        str(tmp_path / "steps"),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output

    merge(documents, tmp_path / "ours")

    ours, theirs = tensors(tmp_path / "ours"), tensors(tmp_path / "theirs")
    for name in ours:
        torch.testing.assert_close(ours[name].float(), theirs[name].float(), rtol=2**-7, atol=1e-6, msg=name)
