"""Selecting the k-th largest magnitude without holding the vector: exact, whatever the values are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merging.methods.selection import Cut, cut_with_squares, cuts_at


class Blocks:
    """A vector in blocks of 100, with a sample that may mislead."""

    def __init__(self, values: torch.Tensor, sampled: slice):
        self.values, self.sampled, self.size = values, sampled, len(values)
        self.passes = 0
        self.seed, self.row = (), 1

    def block(self, start: int) -> torch.Tensor:
        return self.values[start : start + 100].clone()

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        self.passes += 1
        for start in range(0, self.size, 100):
            yield start, self.values[start : start + 100].clone()

    def sample(self) -> Iterator[tuple[int, torch.Tensor]]:
        yield 0, self.values[self.sampled].clone()


def expected(values: torch.Tensor, k: int) -> Cut:
    ordered, places = values.abs().sort(descending=True, stable=True)
    return Cut(float(ordered[k - 1]), int(places[k - 1]))


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

    assert cuts_at(Blocks(values, sampled), [k, size]) == [expected(values, k), expected(values, size)]


def test_one_pass_when_the_sample_is_fair() -> None:
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    vector = Blocks(values, slice(None, None, 10))

    assert cuts_at(vector, [30_000, 100]) == [expected(values, 30_000), expected(values, 100)]
    assert vector.passes == 1


class Pair:
    """Two such vectors, read together."""

    def __init__(self, one: Blocks, other: Blocks):
        self.both, self.size, self.row = (one, other), one.size, 1

    def block(self, start: int) -> list[torch.Tensor]:
        return [vector.block(start) for vector in self.both]

    def __iter__(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        return ((start, [block, other]) for (start, block), (_, other) in zip(*self.both, strict=True))

    def sample(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        return (
            (0, [block, other]) for (_, block), (_, other) in zip(*map(Blocks.sample, self.both), strict=True)
        )


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 3000),
    share=st.floats(0, 1),
    different=st.sampled_from([1, 2, 200, 10**6]),
    sampled=st.sampled_from([slice(None, None, 7), slice(0, 50)]),
)
def test_squares_where_a_difference_stays(
    seed: int, size: int, share: float, different: int, sampled: slice
) -> None:
    generator = np.random.default_rng(seed)
    one, other = (
        torch.from_numpy(generator.integers(-different, different + 1, size).astype(np.float32))
        for _ in range(2)
    )
    k = int(share * int((one != other).sum()))

    cut, squares = cut_with_squares(
        Pair(Blocks(one, sampled), Blocks(other, sampled)),
        lambda given: given[0] - given[1],
        lambda differing: int(share * differing),
    )

    assert cut == (expected(one - other, k) if k else Cut(float("inf"), 0))
    stays = (one - other).abs().argsort(descending=True, stable=True)[:k]
    if squares is not None:
        assert squares == [float((vector[stays].double() ** 2).sum()) for vector in (one, other)]


def test_squares_take_no_other_pass_when_the_sample_is_fair() -> None:
    one, other = (torch.randn(100_000, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    vectors = Blocks(one, slice(None, None, 10)), Blocks(other, slice(None, None, 10))

    cut, squares = cut_with_squares(Pair(*vectors), lambda given: given[0] - given[1], lambda n: n // 3)

    assert cut == expected(one - other, 33_333)
    stays = (one - other).abs() >= cut.threshold
    assert squares == pytest.approx([float((vector[stays].double() ** 2).sum()) for vector in (one, other)])
    assert [vector.passes for vector in vectors] == [1, 1]


def test_squares_do_not_repeat_a_pass_that_missed() -> None:
    ordered, zeros = torch.arange(10_000.0), torch.zeros(10_000)
    unfair = slice(0, 50)
    vectors = Blocks(ordered, unfair), Blocks(zeros, unfair)

    cut, squares = cut_with_squares(Pair(*vectors), lambda given: given[0] - given[1], lambda n: n // 3)

    assert (cut, squares) == (expected(ordered, 3333), None)
    assert vectors[0].passes == 2  # the one that missed, and the next
