"""Fisher merging: its information is that of autograd, and what a model depends on stays its own."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import yaml

from evaluation import LanguageModel, load_model
from merging import read_recipe
from searching.fisher import fisher, information
from searching.live_merge import LiveMerge

TEXTS = (["The first parent reads this text.", "And this."], ["Zwei Texte, beide lang.", "Der andere."])


@pytest.fixture
def parents(family: Path) -> list[LanguageModel]:
    return [load_model(family / name, device="cpu") for name in "ab"]


@pytest.fixture
def live(family: Path) -> LiveMerge:
    models = [{"model": str(family / name), "parameters": {"weight": 1}} for name in "ab"]
    recipe = {"merge_method": "linear", "models": models, "dtype": "float32"}
    return LiveMerge(read_recipe(yaml.safe_dump(recipe)))


def expected(parent: LanguageModel, texts: list[str]) -> dict[str, torch.Tensor]:
    """By autograd through the whole model, a document at a time; embeddings and head share their gradient."""
    network = copy.deepcopy(parent.network).requires_grad_(True)
    sums = {name: torch.zeros_like(weights) for name, weights in network.named_parameters()}
    for text in texts:
        ids = torch.tensor([parent.tokenizer(text)["input_ids"]])
        network.zero_grad()
        network(ids, labels=ids).loss.mul(ids.shape[1] - 1).backward()
        for name, weights in network.named_parameters():
            assert weights.grad is not None
            sums[name] += weights.grad**2 / len(texts)
    return sums


def test_the_information_is_the_mean_square_of_gradients(
    live: LiveMerge, parents: list[LanguageModel]
) -> None:
    found = information(live, parents[0], TEXTS[0])

    for name, wanted in expected(parents[0], TEXTS[0]).items():
        assert torch.allclose(found[name], wanted, rtol=1e-3, atol=1e-5 * float(wanted.max())), name
    assert not any(weights.requires_grad for weights in parents[0].network.parameters())


def test_weights_count_by_their_information(live: LiveMerge, parents: list[LanguageModel]) -> None:
    average = copy.deepcopy(live.model.network)
    informed = [expected(parent, texts) for parent, texts in zip(parents, TEXTS, strict=True)]

    fisher(live, parents, TEXTS, damping=1e-6)

    for name, merged in live.model.network.named_parameters():
        shares = [found[name] + 1e-6 for found in informed]
        own = [parent.network.get_parameter(name) for parent in parents]
        wanted = sum(s * w for s, w in zip(shares, own, strict=True)) / sum(shares)
        assert torch.allclose(merged, wanted, atol=1e-4), name
    live.update(live.recipe)
    assert all(map(torch.equal, live.model.network.parameters(), average.parameters()))


def test_what_no_model_depends_on_is_averaged(live: LiveMerge, parents: list[LanguageModel]) -> None:
    """With much damping everything is."""
    average = copy.deepcopy(live.model.network)

    fisher(live, parents, TEXTS, damping=1e9)

    for merged, mean in zip(live.model.network.parameters(), average.parameters(), strict=True):
        assert torch.allclose(merged, mean, atol=1e-5)
