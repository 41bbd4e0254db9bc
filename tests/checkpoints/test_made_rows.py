"""Rows that are made of a model's own rows: by hand, and the laws that hold for any way of reading them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from checkpoints import made_rows
from checkpoints.approximation import Approximation, Guided, Mean, Subword
from checkpoints.dtypes import safetensors_name
from checkpoints.formats.header import TensorHeader
from checkpoints.made_rows import MadeRows, TensorPlace
from checkpoints.problems import Cancelled

NAME = "embedding"


class Table:
    """A model of one tensor, which counts the bytes that are read."""

    def __init__(self, table: Tensor):
        self._raw = table.contiguous().view(torch.uint8).numpy().tobytes()
        dtype = safetensors_name(str(table.dtype).removeprefix("torch."))
        self.tensors = {NAME: TensorHeader(NAME, dtype, tuple(table.shape), "", 0, len(self._raw))}
        self.read = 0

    def read_into(self, tensor: str, start: int, buffer: memoryview) -> None:
        buffer[:] = self._raw[start : start + len(buffer)]
        self.read += len(buffer)


def place(table: Tensor) -> TensorPlace:
    model: Any = Table(table)
    return TensorPlace(model, NAME)


def rows(made: MadeRows, number: int, count: int) -> Tensor:
    raw = bytearray(count * 4 * (made.own.shape[1] if len(made.own.shape) > 1 else 1))
    made.fill(number, 0, 0, memoryview(raw))
    return torch.frombuffer(raw, dtype=torch.float32).view(count, -1)


def table(count: int, width: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def guided(rule: Any, k: int, shared: int, tokens: tuple[int, ...]) -> Guided:
    return Guided(rule, k, 1, tuple(range(shared)), tuple(range(shared)), tokens)


def test_rows_by_hand() -> None:
    own = torch.tensor([[1.0, 0.0], [0.0, 2.0], [4.0, 4.0], [9.0, 9.0]], dtype=torch.bfloat16)
    guide = torch.tensor([[2.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 0], [3.0, 0.0, 0]])
    approximations: list[Approximation] = [
        Subword(((0, 1), (2,))),
        Mean(2, 3),
        guided("omp", 2, 3, (3,)),
        guided("nearest", 1, 3, (4,)),
    ]

    made = MadeRows(place(own), approximations, {1: place(guide)})

    assert rows(made, 0, 2).tolist() == [[0.5, 1], [4, 4]]
    torch.testing.assert_close(rows(made, 1, 2), torch.tensor([[5 / 3, 2], [5 / 3, 2]]))
    # (1, 1, 0) is 0.5 times the first and once the second.
    torch.testing.assert_close(rows(made, 2, 1), torch.tensor([[0.5, 2]]))
    assert rows(made, 3, 1).tolist() == [[1, 0]]


def test_a_guide_that_lacks_the_tensor_and_numbers_without_width_give_averages() -> None:
    own = torch.tensor([1.0, 2.0, 6.0])

    without = MadeRows(place(own[:, None]), [guided("omp", 2, 2, (2,))], {})
    bias = MadeRows(place(own), [guided("omp", 2, 2, (2, 1))], {1: place(own)})

    assert rows(without, 0, 1).tolist() == [[3]]
    assert rows(bias, 0, 2).tolist() == [[3], [3]]


def test_of_its_own_table_a_model_gets_its_own_rows_back() -> None:
    """What the guide says of a token holds exactly where the two spaces are one."""
    own = table(80, 12, 1)

    made = MadeRows(place(own), [guided("omp", 12, 60, tuple(range(60, 80)))], {1: place(own)})

    torch.testing.assert_close(rows(made, 0, 20), own[60:], atol=1e-4, rtol=1e-4)


def test_a_permuted_vocabulary_gives_the_same_rows() -> None:
    own, guide = table(50, 12, 2), table(60, 10, 3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(4))
    straight = guided("omp", 6, 50, tuple(range(50, 60)))
    shuffled = Guided("omp", 6, 1, tuple(order.tolist()), tuple(order.tolist()), tuple(range(50, 60)))

    first, second = (MadeRows(place(own), [each], {1: place(guide)}) for each in (straight, shuffled))

    torch.testing.assert_close(rows(first, 0, 10), rows(second, 0, 10))


@pytest.mark.parametrize("rule", ["omp", "nearest"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_bits_for_any_reads_and_threads(
    rule: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, guide = table(300, 24, 5, dtype), table(400, 16, 6, dtype)
    each = guided(rule, 5, 300, tuple(range(300, 400)))
    monkeypatch.setattr(made_rows, "VECTORS", 32)
    whole = rows(MadeRows(place(own), [each], {1: place(guide)}), 0, 100)

    threaded = MadeRows(place(own), [each], {1: place(guide)})
    threaded.make(lambda done, total: None, threads=3)
    monkeypatch.setattr(made_rows, "MADE", 50)
    found = bytearray(whole.nbytes)
    for start in range(0, len(found), 52):  # across the borders of rows
        threaded.fill(0, 0, start, memoryview(found)[start : start + 52])

    assert bytes(found) == whole.numpy().tobytes()
    later = bytearray(24 * 4)
    threaded.fill(0, 70, 0, memoryview(later))
    assert bytes(later) == whole[70].numpy().tobytes()


def test_each_table_is_read_once() -> None:
    own, guide = place(table(20, 8, 7)), place(table(30, 8, 8))
    made = MadeRows(own, [guided("omp", 2, 20, (25, 26)), Mean(1, 5)], {1: guide})

    for _ in range(3):
        rows(made, 0, 2)

    models: list[Any] = [own.model, guide.model]
    assert [model.read for model in models] == [own.nbytes, guide.nbytes]
    assert made.nbytes == own.nbytes + guide.nbytes
    assert made.cost.held >= made.nbytes


def test_progress_is_reported_and_can_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_rows, "VECTORS", 4)
    made = MadeRows(
        place(table(20, 8, 7)), [guided("omp", 2, 20, tuple(range(10)))], {1: place(table(20, 8, 8))}
    )

    def stop(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        made.make(stop)
    seen: list[tuple[int, int]] = []
    made.make(lambda done, total: seen.append((done, total)))

    assert seen[-1] == (10, 10)
