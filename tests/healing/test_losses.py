"""Divergences of predictions and of hidden states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import Linear, functional

from healing.losses import divergence, states_apart


@pytest.fixture
def heads() -> tuple[Linear, Linear]:
    torch.manual_seed(0)
    return Linear(6, 11), Linear(8, 11)


def states(width: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(7, width, requires_grad=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_it_is_torchs_divergence_in_any_chunks(heads: tuple[Linear, Linear], temperature: float) -> None:
    student, teacher = states(6, 1), states(8, 2).detach()
    made, wanted = (
        functional.log_softmax(head(one) / temperature, dim=-1)
        for head, one in zip(heads, (student, teacher), strict=True)
    )
    expected = functional.kl_div(made, wanted, reduction="batchmean", log_target=True) * temperature**2
    [gradient] = torch.autograd.grad(expected, student)

    for at_once in (1, 3, 7, 100):
        found = divergence(student, teacher, *heads, temperature=temperature, at_once=at_once)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, student)[0], gradient)


def test_a_model_does_not_diverge_from_itself(heads: tuple[Linear, Linear]) -> None:
    own = states(6, 1)

    found = divergence(own, own.detach(), heads[0], heads[0])

    assert float(found.detach()) == 0
    assert float(torch.autograd.grad(found, own)[0].abs().max()) < 1e-7


def test_states_are_compared_by_direction_pair_by_pair() -> None:
    right, up = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]])

    assert float(states_apart([right], [2 * right])) == pytest.approx(0)
    assert float(states_apart([right, right], [up, right])) == pytest.approx(0.5)
    assert float(states_apart([right], [-right])) == pytest.approx(2)
