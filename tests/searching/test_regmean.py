"""RegMean: its closed form by hand and by least squares, and layer by layer through models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from checkpoints.problems import MergeError
from evaluation import LanguageModel, load_model
from merging import read_recipe
from searching.live_merge import LiveMerge
from searching.regmean import layers_of, regmean, solved
from tests.tiny import save_tokenizer, tiny_llama

TEXTS = (["The first parent reads this text.", "And this."], ["Zwei andere Sätze, für das zweite."])


def recipe(folder: Path) -> Any:
    models = [{"model": str(folder / name), "parameters": {"weight": 1}} for name in "ab"]
    return read_recipe(yaml.safe_dump({"merge_method": "linear", "models": models, "dtype": "float32"}))


@pytest.fixture
def parents(family: Path) -> list[LanguageModel]:
    return [load_model(family / name, device="cpu") for name in "ab"]


def test_the_regression_by_hand() -> None:
    """Inputs 1 and 0 in one parent, 1 and 2 in the other: the first weight counts as 1 to 1, the second as 0 to 4."""
    weights = [torch.tensor([[3.0, 5.0]]), torch.tensor([[1.0, 7.0]])]
    products = [torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])]

    assert solved(weights, products, 1.0).tolist() == [[2.0, 7.0]]


def test_it_is_the_solution_of_least_squares() -> None:
    inputs = [torch.randn(30, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    weights = [torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)) for seed in (2, 3)]
    outputs = torch.cat([x @ w.T for x, w in zip(inputs, weights, strict=True)])

    expected = torch.linalg.lstsq(torch.cat(inputs), outputs).solution.T

    assert torch.allclose(solved(weights, [x.T @ x for x in inputs], 1.0), expected, atol=1e-4)


def test_inputs_that_were_never_seen_keep_the_mean() -> None:
    weights, nothing = [torch.ones(1, 2), torch.full((1, 2), 3.0)], torch.zeros(2, 2)

    assert solved(weights, [nothing, nothing], 1.0).tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("follow", [False, True])
def test_every_layer_is_solved_for_its_own_inputs(
    follow: bool, family: Path, parents: list[LanguageModel]
) -> None:
    with LiveMerge(recipe(family)) as live:
        average = copy.deepcopy(live.model.network)
        assert regmean(live, parents, TEXTS, off_diagonal=0.5, follow=follow) == 4 * 7
        merged = live.model.network

        # Recorded inputs of a module in the third layer, by whole passes through whole models.
        name = "mlp.down_proj"
        seen = []
        for parent, documents in zip(parents, TEXTS, strict=True):
            network = copy.deepcopy(parent.network)
            if follow:
                for number in range(2):
                    layers_of(network)[number].load_state_dict(layers_of(merged)[number].state_dict())
            rows: list[torch.Tensor] = []
            module = layers_of(network)[2].get_submodule(name)
            module.register_forward_pre_hook(lambda _, given, rows=rows: rows.append(given[0][0]))
            for text in documents:
                network(torch.tensor([parent.tokenizer(text)["input_ids"]]))
            seen.append(torch.cat(rows).detach())
        weights = [layers_of(parent.network)[2].get_submodule(name).weight for parent in parents]
        expected = solved(weights, [x.T @ x for x in seen], 0.5)
        found = layers_of(merged)[2].get_submodule(name).weight
        assert torch.allclose(found, expected, atol=1e-3)
        assert not torch.allclose(found, layers_of(average)[2].get_submodule(name).weight, atol=1e-3)
        assert torch.equal(merged.get_input_embeddings().weight, average.get_input_embeddings().weight)

        live.update(live.recipe)
        assert all(map(torch.equal, live.model.network.parameters(), average.parameters()))


def test_equal_parents_stay_what_they_are(family: Path, parents: list[LanguageModel]) -> None:
    with LiveMerge(recipe(family)) as live:
        regmean(live, [parents[0]] * 2, TEXTS)
        for name, weight in live.model.network.named_parameters():
            if "proj" in name:
                assert torch.allclose(weight, parents[0].network.get_parameter(name), atol=1e-4), name


def test_models_of_other_depths_are_refused(
    family: Path, parents: list[LanguageModel], tmp_path: Path
) -> None:
    save_tokenizer(tiny_llama(tmp_path / "short", 5, vocab_size=258, num_hidden_layers=2))
    short = load_model(tmp_path / "short", device="cpu")

    with LiveMerge(recipe(family)) as live, pytest.raises(MergeError, match="4, 4"):
        regmean(live, [parents[0], short], TEXTS)
