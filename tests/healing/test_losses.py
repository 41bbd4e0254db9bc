"""Divergences of predictions and of hidden states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import Linear, functional

from healing.losses import divergence, states_apart, top_divergence


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


def test_with_all_tokens_named_it_is_the_whole_divergence(heads: tuple[Linear, Linear]) -> None:
    student, teacher = states(6, 1), states(8, 2).detach()
    tokens, likely = _likeliest(heads[1](teacher), 11)
    whole = divergence(student, teacher, *heads)
    [gradient] = torch.autograd.grad(whole, student, retain_graph=True)

    for at_once in (2, 100):
        found = top_divergence(student, tokens, likely, heads[0], at_once=at_once)
        torch.testing.assert_close(found, whole)
        torch.testing.assert_close(torch.autograd.grad(found, student)[0], gradient, atol=1e-6, rtol=1e-4)


def test_tokens_that_are_not_named_share_the_rest(heads: tuple[Linear, Linear]) -> None:
    student = states(6, 1)
    tokens, likely = torch.tensor([[4, 0]] * 7), torch.tensor([[0.5, 0.25]] * 7).log()

    found = top_divergence(student, tokens, likely, heads[0])

    made = heads[0](student).softmax(-1)[:, [4, 0]]
    outcomes = torch.cat([made, 1 - made.sum(-1, keepdim=True)], -1)
    wanted = torch.tensor([[0.5, 0.25, 0.25]] * 7)
    torch.testing.assert_close(found, (wanted * (wanted / outcomes).log()).sum(-1).mean())


def test_a_student_that_predicts_what_is_stored_has_no_loss(heads: tuple[Linear, Linear]) -> None:
    own = states(6, 1)
    tokens, likely = _likeliest(heads[0](own.detach()), 3)

    found = top_divergence(own, tokens, likely, heads[0])

    assert float(found.detach()) == pytest.approx(0, abs=1e-6)
    assert float(torch.autograd.grad(found, own)[0].abs().max()) < 1e-5


def _likeliest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found = logits.log_softmax(-1).topk(k)
    return found.indices, found.values.detach()
