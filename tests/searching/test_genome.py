"""Files for mergekit-evolve give the recipes that mergekit-evolve makes of the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from checkpoints.problems import CheckpointError, RecipeError
from searching import Space, read_space
from searching.genome import layers_of
from tests.tiny import tiny_llama

TASKS: list[dict[str, Any]] = [{"name": "kmmlu", "weight": 2.0, "metric": "acc_norm,none"}, {"name": "gsm8k"}]


def text(genome: dict[str, Any], **more: Any) -> str:
    return yaml.safe_dump({"genome": genome, "tasks": TASKS, **more})


def test_tasks_become_the_objective() -> None:
    genome = {"models": ["org/a", "org/b"], "merge_method": "linear"}

    first, second = read_space(text(genome, limit=30, num_fewshot=2)).settings.goals

    assert (first.source, first.weight, first.metric) == ("kmmlu", 2.0, "acc_norm,none")
    assert (second.source, second.weight, second.metric) == ("gsm8k", 1.0, "acc,none")
    assert (first.questions, first.few_shot) == (30, 2)


@pytest.mark.parametrize(
    ("genome", "code"),
    [
        ({"models": ["a", "b"], "merge_method": "della"}, "genome-method"),
        ({"models": ["a"], "merge_method": "linear"}, "genome-models"),
        ({"models": ["a", "b"], "merge_method": "slerp", "smooth": True}, "genome-slerp"),
        ({"models": ["a", "b", "c"], "merge_method": "slerp"}, "genome-slerp-models"),
        ({"models": ["a", "b"], "merge_method": "linear", "layer_granularity": 3}, "genome-layers"),
        ({"models": ["a", "b"], "merge_method": "linear", "layers": 3}, "unknown-key"),
        ({"models": ["a", "b"], "merge_method": "ties"}, "no-base"),
        ({"models": ["a", "b"], "merge_method": "linear", "layer_granularity": "all"}, "search-number"),
        ({"models": ["a", "b"], "merge_method": "linear", "layer_granularity": [2]}, "search-number"),
        ({"models": ["a", "b"], "merge_method": "linear", "filters": "mlp"}, "not-a-list"),
        ({"models": ["a", "b"], "merge_method": "linear", "filters": 3}, "not-a-list"),
    ],
)
def test_what_is_wrong_with_a_genome(genome: dict[str, Any], code: str) -> None:
    with pytest.raises(RecipeError) as raised:
        read_space(text(genome), layers=lambda model: 4)

    assert raised.value.problems[0].code == code


def test_layers_are_counted_by_the_config(tmp_path: Path) -> None:
    folder = str(tiny_llama(tmp_path / "model", 0, num_hidden_layers=3))

    assert layers_of(folder) == 3
    with pytest.raises(CheckpointError):
        layers_of(folder, allow_folders=False)


GENOMES = [
    {"merge_method": "linear"},
    {"merge_method": "task_arithmetic", "base_model": "org/base", "layer_granularity": 2},
    {"merge_method": "ties", "base_model": "org/base", "filters": ["self_attn", "mlp"], "normalize": False},
    {"merge_method": "dare_ties", "base_model": "org/a", "layer_granularity": 2, "filters": ["mlp"]},
    {"merge_method": "ties", "base_model": "org/base", "layer_granularity": 2, "smooth": True},
    {
        "merge_method": "task_arithmetic",
        "base_model": "org/base",
        "layer_granularity": 1,
        "smooth": True,
        "filters": ["mlp"],
        "allow_negative_weights": True,
    },
]


@pytest.mark.oracle
@pytest.mark.parametrize("genome", GENOMES, ids=lambda genome: "-".join(map(str, genome.values())))
def test_the_same_numbers_give_the_same_recipe(genome: dict[str, Any]) -> None:
    import torch
    from mergekit.evo.genome import ModelGenome, ModelGenomeDefinition

    given = {"models": ["org/a", "org/b"], **genome}
    space = read_space(text(given), layers=lambda model: 4)
    definition = ModelGenomeDefinition.model_validate(given)
    theirs = ModelGenome.__new__(ModelGenome)
    theirs.definition, theirs.num_layers = definition, 4
    shape = theirs.initial_genotype().shape
    genotype = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    genotype = (genotype * 1e5).round() / 1e5

    made = yaml.safe_load(theirs.genotype_merge_config(genotype).to_yaml())

    ours = yaml.safe_load(space.recipe(point_of(space, genotype, given)).text)
    assert plain(ours) == plain(made)


def point_of(space: Space, genotype: Any, genome: dict[str, Any]) -> dict[str, Any]:
    """A genotype (groups, models, filters and the rest, parameters) as a point."""
    groups = len(genotype)
    names = [*(genome.get("filters") or []), ""]
    found = {}
    for model, name in enumerate(genome["models"]):
        for place, part in enumerate(names):
            for number, parameter in enumerate(("weight", "density")[: genotype.shape[-1]]):
                for group in range(groups):
                    label = f"{name}.{parameter}" + (f"[{part}]" if part else "")
                    if genome.get("smooth") and groups > 1:
                        label += f"#{group + 1}"
                    elif group:
                        label += f" ({group + 1})"
                    found[label] = genotype[group, model, place, number].item()
    assert found.keys() == {axis.name for axis in space.axes}
    return found


def plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """What matters of a recipe: `models` as one slice of all layers, values as lists with filters."""
    slices = recipe.get("slices") or [{"sources": recipe["models"]}]
    common = recipe.get("parameters") or {}
    found = []
    for part in slices:
        sources = {}
        for source in part["sources"]:
            parameters = {
                name: conditional(value) for name, value in (source.get("parameters") or {}).items()
            }
            layers = tuple(source.get("layer_range") or (0, 4))
            if parameters:  # a base that takes part with nothing of its own may be left out
                sources[source["model"]] = (layers, parameters)
        found.append(sources)
    return {
        "method": recipe["merge_method"],
        "base": recipe.get("base_model"),
        "normalize": common.get("normalize", False),
        "slices": found,
    }


def conditional(value: Any) -> list[tuple[str | None, Any]]:
    entries = value if isinstance(value, list) and any(isinstance(one, dict) for one in value) else [value]
    return [
        (one.get("filter"), rounded(one["value"])) if isinstance(one, dict) else (None, rounded(one))
        for one in entries
    ]


def rounded(value: Any) -> Any:
    return [round(one, 6) for one in value] if isinstance(value, list) else round(value, 6)


def test_slerp_of_two_models_is_symmetrical() -> None:
    genome = {"models": ["org/a", "org/b"], "merge_method": "slerp", "layer_granularity": 2}
    space = read_space(text(genome), layers=lambda model: 4)

    recipe = space.recipe({"t": 0.25, "t (2)": 0.75})

    assert [axis.name for axis in space.axes] == ["t", "t (2)"]
    assert str(recipe.base_model) == "org/a" and len(recipe.slices) == 2


def test_values_are_read_within_limits() -> None:
    """As everywhere else: PyYAML's own loader fails on long numbers and on days that there are none of."""
    for value in ("1" * 5000, "2001-99-99"):
        written = text({"models": [{"model": 0}, "b"], "merge_method": "linear"}).replace("0", value)

        with pytest.raises(RecipeError):
            read_space(written)
