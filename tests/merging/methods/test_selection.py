"""Selecting the k-th largest magnitude without holding the vector: exact, whatever the values are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merging.methods.selection import Derived, Selection, cuts


class Blocks:
    """Tensors in blocks of 100, with a sample that may mislead."""

    def __init__(self, tensors: list[torch.Tensor], sampled: slice):
        self.tensors, self.sampled, self.size = tensors, sampled, len(tensors[0])
        self.passes = 0
        self.seed, self.row = (), 1

    def block(self, start: int) -> list[torch.Tensor]:
        return [values[start : start + 100].clone() for values in self.tensors]

    def __iter__(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        self.passes += 1
        for start in range(0, self.size, 100):
            yield start, self.block(start)

    def sample(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        yield 0, [values[self.sampled].clone() for values in self.tensors]


def expected(values: torch.Tensor, k: int) -> Selection:
    ordered, places = values.abs().sort(descending=True, stable=True)
    return Selection(float(ordered[k - 1]), int(places[k - 1]))


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merging.methods.selection.SMALL", 0)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 3000),
    share=st.floats(0, 1),
    different=st.sampled_from([1, 2, 5, 10**6]),
    sampled=st.sampled_from([slice(None, None, 7), slice(0, 50), slice(-1, None)]),
)
def test_exact(seed: int, size: int, share: float, different: int, sampled: slice) -> None:
    generator = np.random.default_rng(seed)
    values = torch.from_numpy(generator.integers(-different, different + 1, size).astype(np.float32))
    k = max(1, int(share * size))

    found = cuts(Blocks([values, 3 * values], sampled), [[k, size], [k]])

    assert found == [[expected(values, k), expected(values, size)], [expected(3 * values, k)]]


def test_one_pass_when_the_sample_is_fair() -> None:
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    blocks = Blocks([values], slice(None, None, 10))

    assert cuts(blocks, [[30_000, 100]]) == [[expected(values, 30_000), expected(values, 100)]]
    assert blocks.passes == 1


def difference(pair: list[torch.Tensor], _: int) -> torch.Tensor:
    return pair[0] - pair[1]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 3000),
    share=st.floats(0, 1),
    different=st.sampled_from([1, 2, 200, 10**6]),
    sampled=st.sampled_from([slice(None, None, 7), slice(0, 50)]),
)
def test_a_number_may_depend_on_how_many_entries_differ(
    seed: int, size: int, share: float, different: int, sampled: slice
) -> None:
    generator = np.random.default_rng(seed)
    one, other = (
        torch.from_numpy(generator.integers(-different, different + 1, size).astype(np.float32))
        for _ in range(2)
    )
    k = int(share * int((one != other).sum()))

    ((cut,),) = cuts(Derived(Blocks([one, other], sampled), difference), [lambda n: [int(share * n)]])

    assert cut == (expected(one - other, k) if k else Selection(float("inf"), 0))


def test_a_difference_is_cut_in_one_pass_when_the_sample_is_fair() -> None:
    one, other = (torch.randn(100_000, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    blocks = Blocks([one, other], slice(None, None, 10))

    ((cut,),) = cuts(Derived(blocks, difference), [lambda n: [n // 3]])

    assert cut == expected(one - other, 33_333)
    assert blocks.passes == 1


def test_a_bracket_that_misses_costs_one_more_pass() -> None:
    blocks = Blocks([torch.arange(10_000.0), torch.zeros(10_000)], slice(0, 50))

    ((cut,),) = cuts(Derived(blocks, difference), [lambda n: [n // 3]])

    assert cut == expected(torch.arange(10_000.0), 3333)
    assert blocks.passes == 2
