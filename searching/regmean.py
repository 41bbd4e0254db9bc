"""RegMean: linear layers whose outputs are nearest to those of every parent on that parent's own text.

A closed form for each linear layer (https://arxiv.org/abs/2212.09849): W = Σ Wᵢ Gᵢ (Σ Gᵢ)⁻¹, with Gᵢ = Xᵢᵀ Xᵢ of the
inputs that it has in parent i. Layer after layer, so that the products of one layer alone are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from checkpoints.problems import MergeError, Problem
from evaluation import LanguageModel
from searching.live_merge import LiveMerge

# Tokens of a document that are read.
MOST_TOKENS = 2048


class HiddenPassage(NamedTuple):
    """A document on its way through the layers.

    Args:
        hidden: (1, n, width) what the next layer is given
        rest: all else that layers are given
    """

    hidden: Tensor
    rest: Mapping[str, Any]


class _ReadEnough(Exception):  # noqa: N818 (nothing went wrong)
    """The first layer was reached."""


@torch.inference_mode()
def regmean(
    live: LiveMerge,
    parents: Sequence[LanguageModel],
    texts: Sequence[Sequence[str]],
    *,
    off_diagonal: float = 0.1,
    follow: bool = False,
) -> int:
    """Rewrite the linear layers inside the layers of a live merge; all else stays as its recipe makes it.

    The next `update` makes the merge that of its recipe again.

    Args:
        live: the merge
        parents: K models of the same shape
        texts: documents for each of them
        off_diagonal: factor on products between different inputs: 1 for the exact solution on these texts, less for
            texts that are few
        follow: let each layer read what the merged layers before it make, and not the parent's own (RegMean++,
            https://arxiv.org/abs/2508.03121)

    Returns:
        How many linear layers were rewritten.

    Raises:
        MergeError: the models are not built alike.
    """
    merged = layers_of(live.model.network)
    own = [layers_of(parent.network) for parent in parents]
    if any(len(layers) != len(merged) for layers in own):
        raise MergeError(
            Problem("layers-differ", {"layers": [str(len(layers)) for layers in (merged, *own)]})
        )
    passages = [
        [_begin(parent, layers[0], text) for text in documents]
        for parent, layers, documents in zip(parents, own, texts, strict=True)
    ]
    count = 0
    live.forget_written()
    for number, layer in enumerate(merged):
        live.check()
        inside = [_products(layers[number], some) for layers, some in zip(own, passages, strict=True)]
        for name, module in _linear(layer):
            weights = [layers[number].get_parameter(f"{name}.weight") for layers in own]
            module.weight.copy_(solved(weights, [found[name] for found in inside], off_diagonal))
            count += 1
        del inside
        for index, layers in enumerate(own):
            through = layer if follow else layers[number]
            passages[index] = [_through(through, passage) for passage in passages[index]]
    return count


def solved(weights: Sequence[Tensor], products: Sequence[Tensor], off_diagonal: float) -> Tensor:
    """The weights of the regression, (outputs, inputs) float32.

    Args:
        weights: (outputs, inputs) of each parent
        products: (inputs, inputs) of each parent's inputs
        off_diagonal: see `regmean`
    """
    scaled = [off_diagonal * p.double() + (1 - off_diagonal) * p.double().diag().diag() for p in products]
    whole, wanted = sum(scaled), sum(w.double() @ p for w, p in zip(weights, scaled, strict=True))
    assert isinstance(whole, Tensor) and isinstance(wanted, Tensor)
    # An input that was 0 in all texts says nothing: there the mean of the parents stays.
    mean = torch.stack([weight.double() for weight in weights]).mean(0)
    inverse = torch.linalg.pinv(whole, rtol=1e-8, hermitian=True)
    found: Tensor = mean + (wanted - mean @ whole) @ inverse
    return found.float()


def layers_of(network: Any) -> nn.ModuleList:
    """The stack of layers of a model: its longest list of modules."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)


def _linear(layer: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


def _begin(model: LanguageModel, first: nn.Module, text: str) -> HiddenPassage:
    """What the first layer is given."""
    taken: list[HiddenPassage] = []

    def take(_: nn.Module, given: tuple[Any, ...], rest: dict[str, Any]) -> None:
        hidden = given[0] if given else rest.pop("hidden_states")
        taken.append(HiddenPassage(hidden, rest))
        raise _ReadEnough

    ids = model.tokenizer(text)["input_ids"][:MOST_TOKENS]
    model.check_tokens(ids)
    handle = first.register_forward_pre_hook(take, with_kwargs=True)
    try:
        model.network(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    except _ReadEnough:
        pass
    finally:
        handle.remove()
    return taken[0]


def _through(layer: nn.Module, passage: HiddenPassage) -> HiddenPassage:
    made = layer(passage.hidden, **passage.rest)
    return passage._replace(hidden=made[0] if isinstance(made, tuple) else made)


def _products(layer: nn.Module, passages: Sequence[HiddenPassage]) -> Mapping[str, Tensor]:
    """The (inputs, inputs) float64 dot products of the inputs of each linear module; modules with one input share
    them."""
    sums: dict[str, Tensor] = {}
    # Of one passage, by address; held, so that no other input takes the place of one.
    first: dict[int, tuple[str, Tensor]] = {}
    shared: dict[str, str] = {}

    def add(name: str, given: Tensor) -> None:
        leader = shared.setdefault(name, first.setdefault(given.data_ptr(), (name, given))[0])
        if leader != name:
            return
        rows = given.reshape(-1, given.shape[-1]).double()
        sums[name] = rows.T @ rows + sums.get(name, 0)

    with _watched(layer, add):
        for passage in passages:
            first.clear()
            _through(layer, passage)
    return {name: sums[leader] for name, leader in shared.items()}


@contextmanager
def _watched(layer: nn.Module, add: Any) -> Iterator[None]:
    """Call a function with the name and the input of each linear module that runs."""
    with ExitStack() as stack:
        for name, module in _linear(layer):
            handle = module.register_forward_pre_hook(lambda _, given, name=name: add(name, given[0]))
            stack.callback(handle.remove)
        yield
