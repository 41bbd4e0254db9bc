"""The rows of one tensor that are approximated: which of the model's own rows make them is found once, and the rows
themselves are made when they are read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, NamedTuple

from checkpoints.approximation import Approximation, Guided, Mean, Subword
from checkpoints.checkpoint import Checkpoint
from checkpoints.dtypes import torch_name
from checkpoints.pursuit import VECTORS, Combinations, nearest, omp, pursuit_held, pursuit_operations
from checkpoints.torch_threads import one_torch_thread

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

# Bytes of a table that are read at a time, and elements of rows that are made at a time.
PART, MADE = 16 * 1024 * 1024, 256 * 1024
# Seconds between two reports.
PULSE = 0.1

# Called with how many rows are found, and of how many.
Report = Callable[[int, int], None]


class TensorPlace(NamedTuple):
    """A tensor of a model."""

    model: Checkpoint
    tensor: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.model.tensors[self.tensor].shape

    @property
    def nbytes(self) -> int:
        return self.model.tensors[self.tensor].nbytes


class MadeCost(NamedTuple):
    """What approximating rows takes.

    Args:
        held: bytes of tables, and of what the rows are made of
        each_thread: bytes that each thread holds besides
        operations: multiplications, roughly
    """

    held: int = 0
    each_thread: int = 0
    operations: float = 0.0

    def with_another(self, other: MadeCost) -> MadeCost:
        """Of two tensors, whose rows are found one after the other."""
        return MadeCost(
            self.held + other.held,
            max(self.each_thread, other.each_thread),
            self.operations + other.operations,
        )


class MadeRows:
    """Rows of a tensor with a row per token.

    Args:
        own: the tensor, which has the rows that others are made of
        approximations: of its rows
        guides: the same tensor of the guides, by their numbers; those that have none are left out
    """

    def __init__(
        self, own: TensorPlace, approximations: Sequence[Approximation], guides: Mapping[int, TensorPlace]
    ):
        self.own = own
        self.guides = guides
        # Numbers of a head's bias resemble nothing, and a guide may lack the tensor.
        self.approximations = tuple(
            Mean(each.count, own.shape[0])
            if isinstance(each, Guided) and (len(own.shape) < 2 or each.guide not in guides)
            else each
            for each in approximations
        )
        self._making = threading.Lock()
        self._table: Tensor | None = None
        self._found: list[Combinations | NDArray[np.float32]] = []
        self._kept: dict[int, tuple[int, NDArray[np.float32]]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that are read to make the rows."""
        used = {each.guide for each in self.approximations if isinstance(each, Guided)}
        return self.own.nbytes + sum(self.guides[guide].nbytes for guide in used)

    @property
    def cost(self) -> MadeCost:
        """What finding and making the rows takes."""
        found, each_thread, operations = 4 * MADE * len(self.approximations), 16 * MADE, 0.0
        for each in self.approximations:
            if isinstance(each, Guided):
                width, atoms = self.guides[each.guide].shape[-1], len(each.own)
                found += 8 * each.k * each.count
                each_thread = max(each_thread, pursuit_held(width, each.k, atoms))
                operations += pursuit_operations(each.count, width, each.k, atoms)
            elif isinstance(each, Subword):
                found += 8 * max(map(len, each.pieces)) * each.count
        return MadeCost(self.nbytes + found, each_thread, operations)

    def make(self, report: Report, threads: int = 1, device: str = "cpu") -> None:
        """Find what the rows are made of, if that is not known.

        Args:
            report: called from this thread; raises to stop
            threads: that compute
            device: that computes
        """
        with self._making:
            if self._table is not None:
                return
            total = sum(each.count for each in self.approximations)

            def read(place: TensorPlace) -> Tensor:
                return _read(place, lambda: report(0, total))

            table = read(self.own)
            found: list[Combinations | NDArray[np.float32]] = []
            for each in self.approximations:
                if isinstance(each, Guided):
                    found.append(_combined(each, read(self.guides[each.guide]), report, threads, device))
                elif isinstance(each, Subword):
                    found.append(_averages(each))
                else:
                    found.append(_mean(table, each.rows))
            self._found, self._table = found, table

    def fill(self, number: int, row: int, start: int, out: memoryview) -> None:
        """Bytes of an approximation's rows, in float32.

        Args:
            number: of the approximation
            row: of it, that `start` counts from
            start: offset in bytes
        """
        import numpy as np

        self.make(lambda done, total: None)
        assert self._table is not None
        size = 4 * self._table[0].numel()
        step = max(MADE * 4 // size, 1)
        done = 0
        while done < len(out):
            chunk, inside = divmod(row * size + start + done, step * size)
            part = self._chunk(number, chunk, step).view(np.uint8)[inside : inside + len(out) - done]
            out[done : done + len(part)] = part.data
            done += len(part)

    def _chunk(self, number: int, chunk: int, step: int) -> NDArray[np.float32]:
        """The numbers of `step` rows of an approximation. The last ones are kept, as tokens that have rows lie between
        them: what is read next is often in the same chunk."""
        import numpy as np

        kept = self._kept.get(number)
        if kept and kept[0] == chunk:
            return kept[1]
        table, found = self._table, self._found[number]
        assert table is not None
        if isinstance(found, np.ndarray):
            made = np.tile(found, (min(step, self.approximations[number].count - chunk * step), 1))
        else:
            made = _sums(table, found, chunk * step, step)
        self._kept[number] = chunk, made.reshape(-1)
        return made.reshape(-1)


def _read(place: TensorPlace, check: Callable[[], None]) -> Tensor:
    """A whole tensor, as it is stored.

    Args:
        check: called before each part; raises to stop
    """
    import torch

    header = place.model.tensors[place.tensor]
    raw = bytearray(header.nbytes)
    for start in range(0, len(raw), PART):
        check()
        place.model.read_into(place.tensor, start, memoryview(raw)[start : start + PART])
    dtype = getattr(torch, torch_name(header.dtype))
    return torch.frombuffer(raw, dtype=dtype).view(header.shape)


def _combined(each: Guided, table: Tensor, report: Report, threads: int, device: str) -> Combinations:
    """What the tokens of a guide are made of, as numbers of the model's own rows.

    Args:
        table: of the guide
    """
    import torch

    table = table.to(device)
    theirs = torch.tensor(each.theirs, device=device)
    rule = omp if each.rule == "omp" else nearest

    def gather(numbers: Tensor) -> Tensor:
        return table.index_select(0, theirs[numbers]).float()

    def part(start: int) -> Combinations:
        tokens = torch.tensor(each.tokens[start : start + VECTORS], device=device)
        return rule(table.index_select(0, tokens).float(), gather, len(theirs), each.k)

    starts = range(0, each.count, VECTORS)
    with one_torch_thread(), ThreadPoolExecutor(threads if device == "cpu" else 1) as pool:
        futures = [pool.submit(part, start) for start in starts]
        try:
            _follow(futures, each.count, report)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    own = torch.tensor(each.own, dtype=torch.int32)
    parts = [future.result() for future in futures]
    atoms = torch.cat([found.atoms.cpu() for found in parts])
    factors = torch.cat([found.factors.cpu() for found in parts])
    return Combinations(torch.where(atoms < 0, -1, own[atoms.clamp_min(0)]), factors)


def _follow(futures: Sequence[Future[Combinations]], count: int, report: Report) -> None:
    """Report how many of the tokens are done, until all are."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, PULSE)
        for future in done:
            future.result()
        report(min(VECTORS * (len(futures) - len(waiting)), count), count)


def _averages(each: Subword) -> Combinations:
    import torch

    longest = max(map(len, each.pieces))
    atoms = [[*own, *[-1] * (longest - len(own))] for own in each.pieces]
    factors = [[1 / len(own)] * longest for own in each.pieces]
    return Combinations(torch.tensor(atoms, dtype=torch.int32), torch.tensor(factors))


def _mean(table: Tensor, rows: int) -> NDArray[np.float32]:
    """The average of the first rows (1, d)."""
    import numpy as np
    import torch

    flat = table.view(len(table), -1)
    total = np.zeros(flat.shape[1])
    step = max(PART // flat.shape[1], 1) // 4 + 1
    for start in range(0, rows, step):
        total += flat[start : min(start + step, rows)].to(torch.float64).numpy().sum(0)
    return (total / rows).astype(np.float32)[None]


def _sums(table: Tensor, found: Combinations, first: int, count: int) -> NDArray[np.float32]:
    """Rows of combinations: (count, d). Atoms are added in their order, so that the sum is the same for any count."""
    import torch

    atoms, factors = found.atoms[first : first + count].long(), found.factors[first : first + count]
    flat = table.view(len(table), -1)
    total = torch.zeros((len(atoms), flat.shape[1]))
    for numbers, own in zip(atoms.T, factors.T, strict=True):
        if numbers.min() >= 0:
            # Not fused: where a fused sum ends in a row would show in its bits.
            total += flat.index_select(0, numbers).float().mul_(own[:, None])
        else:
            [used] = torch.where(numbers >= 0)
            total[used] += own[used, None] * flat.index_select(0, numbers[used]).float()
    made: NDArray[np.float32] = total.numpy()
    return made
