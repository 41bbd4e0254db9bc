"""Selecting the k-th largest magnitude without holding the vector: exact, whatever the values are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merging.methods.selection import Cut, cuts_at


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
