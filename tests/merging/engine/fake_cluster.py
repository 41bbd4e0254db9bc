"""A cluster in this process, that does one step when it is asked for events. What befalls it is written down."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from checkpoints import Token
from checkpoints.cluster import Call, Ended, Failed, Line, LossCause, Lost, Machine

GB = 10**9

# Called before each line of each call (0 is the first), with the count of all lines so far; a loss ends the call.
Fate = Callable[[Call, int, int], LossCause | None]


def spared(call: Call, line: int, lines: int) -> None:
    """Nothing happens."""


class FakeCluster:
    """Runs calls in turn, a line of each, as many at a time as there are machines.

    Args:
        sizes: of the machines
        fate: what befalls a call

    Attributes:
        calls: that were submitted, with their tokens
        under_way: the machine's number, the call and its lines, of each that runs
        cancelled: whether all calls have been cancelled
        machine: number of the machine whose call is being run
    """

    name = "fake"

    def __init__(
        self, sizes: Sequence[Machine] = (Machine(2, 8 * GB), Machine(2, 8 * GB)), fate: Fate = spared
    ):
        self.sizes = list(sizes)
        self.fate = fate
        self.calls: list[tuple[Call, Token]] = []
        self.waiting: list[Call] = []
        self.under_way: list[tuple[int, Call, Iterator[tuple[int, str]]]] = []
        self.cancelled = False
        self.machine = 0
        self.lines = 0

    def machines(self) -> list[Machine]:
        return self.sizes

    def submit(self, call: Call, token: Token) -> None:
        self.calls.append((call, token))
        self.waiting.append(call)

    def events(self, seconds: float) -> list[Line | Ended | Lost | Failed]:
        free = {*range(len(self.sizes))} - {number for number, _, _ in self.under_way}
        for number in sorted(free)[: len(self.waiting)]:
            call = self.waiting.pop(0)
            self.under_way.append((number, call, self._lines(call)))
        self.machine, call, lines = self.under_way.pop(0)
        try:
            number, text = next(lines)
        except StopIteration:
            return [Ended(call)]
        except Exception as error:
            return [Failed(call, error)]
        loss = self.fate(call, number, self.lines)
        if loss:
            lines.close()  # type: ignore[attr-defined]
            return [Lost(call, loss)]
        self.lines += 1
        self.under_way.append((self.machine, call, lines))
        return [Line(call, text)]

    def cancel(self) -> None:
        self.cancelled = True
        for _, _, lines in self.under_way:
            lines.close()  # type: ignore[attr-defined]
        self.under_way.clear()
        self.waiting.clear()

    def _lines(self, call: Call) -> Iterator[tuple[int, str]]:
        module, _, name = call.function.partition(":")
        _, token = next(pair for pair in self.calls if pair[0] == call)
        with closing(getattr(importlib.import_module(module), name)(call.text, token, call.cpus)) as lines:
            yield from zip(itertools.count(), lines, strict=False)
