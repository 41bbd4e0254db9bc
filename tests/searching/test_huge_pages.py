"""Tensors in huge pages are of zeros, share no byte, and give their memory back."""

from __future__ import annotations

import mmap
import weakref

import pytest
import torch

from searching.huge_pages import LINE, MAPPING, HugePages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.float8_e4m3fn])
def test_tensors_are_of_zeros_and_share_nothing(dtype: torch.dtype) -> None:
    pages = HugePages()
    sizes = [0, 1, 3, 1000, MAPPING // dtype.itemsize + 1, 17]
    tensors = [pages.zeros(size, dtype) for size in sizes]

    assert [tensor.shape for tensor in tensors] == [(size,) for size in sizes]
    assert all(tensor.dtype == dtype for tensor in tensors)
    assert not any(tensor.float().any() for tensor in tensors)
    for number, tensor in enumerate(tensors):
        tensor.copy_(torch.full((len(tensor),), number + 1.0))
    for number, tensor in enumerate(tensors):
        assert bool((tensor.float() == number + 1).all())
        assert tensor.untyped_storage().nbytes() == len(tensor) * dtype.itemsize


def test_tensors_start_at_lines_of_the_cache() -> None:
    pages = HugePages()
    assert {pages.zeros(size, torch.bfloat16).data_ptr() % LINE for size in (1, 5, 33, 100)} == {0}


def test_a_mapping_is_freed_with_the_last_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[mmap.mmap]] = []

    class Mapping(mmap.mmap):
        def __init__(self, *_: object, **__: object) -> None:
            made.append(weakref.ref(self))

    monkeypatch.setattr(mmap, "mmap", Mapping)
    pages = HugePages()
    first, second = (pages.zeros(MAPPING // 2, torch.uint8) for _ in range(2))
    third = pages.zeros(1, torch.uint8)  # a second mapping
    large = pages.zeros(MAPPING + 1, torch.uint8)  # one of its own
    assert len(made) == 3

    del first, large
    assert [one() is not None for one in made] == [True, True, False]
    del second
    assert [one() is not None for one in made] == [False, True, False]
    assert not third.any()


def test_systems_without_huge_pages_give_plain_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    monkeypatch.setattr(mmap, "mmap", None)
    assert HugePages().zeros(3, torch.float32).tolist() == [0, 0, 0]
