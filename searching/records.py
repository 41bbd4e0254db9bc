"""What a search has done so far: a file of JSON lines that survives a kill at any moment.

    {"ask": 7, "after": 6, "point": {...}}
    {"who": "trial 7", "part": "search", "state": "done", "figures": {...}, "seconds": 2.5}

A search is rebuilt from these lines alone. A last line without its end is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from checkpoints.problems import Problem
from merging.methods.parameters import Scalar
from searching.figures import Figures
from searching.goals import Goal, Part
from searching.optimiser import SearchError

State = Literal["done", "stopped", "failed"]


@dataclass(frozen=True)
class Asked:
    """A point that the optimiser chose.

    Args:
        ask: the number of the trial
        after: how many trials were told before
        point: the values
        shared: its number in a study that machines share; None in any other search
        elsewhere: whether another machine scored it
    """

    ask: int
    after: int
    point: Mapping[str, Scalar]
    shared: int | None = None
    elsewhere: bool = False


@dataclass(frozen=True)
class Scored:
    """A recipe's figures on one part.

    Args:
        who: `trial 7`, `given`, `average`, `parent org/model`, `start lm_cocktail`, `soup 1+3` of these parents
        part: of the data
        state: "stopped" if it was worse than the best on the first documents; "failed" with a problem
        figures: by document
        seconds: that it took, making the model among them
        making: seconds of these that made the model
        told: what the optimiser was told; nothing of a failed trial, or of what is no trial
        gradient: derivatives by the numbers of the space, of a step of a descent
        problem: why it failed
    """

    who: str
    part: Part
    state: State
    figures: Figures
    seconds: float = 0.0
    making: float = 0.0
    told: tuple[float, ...] = ()
    gradient: tuple[float, ...] = ()
    problem: Problem | None = None


class Records:
    """The lines of a file, and more of them.

    Args:
        path: of the file, which need not exist
        on_added: called after each line that was written

    Raises:
        SearchError: a line is no record.
    """

    def __init__(self, path: Path, on_added: Callable[[], None] | None = None):
        self.asked: dict[int, Asked] = {}
        self.scored: dict[tuple[str, Part], Scored] = {}
        self._path = path
        self._on_added = on_added
        # Where the file ends in the middle of a line, that line is cut off.
        whole = path.read_bytes() if path.exists() else b""
        kept = whole[: whole.rfind(b"\n") + 1]
        if kept != whole:
            with path.open("r+b") as file:
                file.truncate(len(kept))
        for number, line in enumerate(kept.split(b"\n")[:-1], 1):
            try:
                self._enter(from_data(json.loads(line)))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                values = {"file": str(path), "line": number}
                raise SearchError(Problem("damaged-records", values)) from error

    def add(self, record: Asked | Scored) -> None:
        """Write a line, to the disk."""
        line = json.dumps(to_data(record), ensure_ascii=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._enter(record)
        if self._on_added:
            self._on_added()

    def _enter(self, record: Asked | Scored) -> None:
        if isinstance(record, Asked):
            self.asked[record.ask] = record
        else:
            self.scored[record.who, record.part] = record

    def trials(self) -> Iterator[tuple[Asked, Scored]]:
        """The trials that have ended, in the order in which they did."""
        for (who, part), scored in self.scored.items():
            if part == "search" and who.startswith("trial "):
                yield self.asked[int(who.removeprefix("trial "))], scored

    def pending(self) -> list[Asked]:
        """Trials that were asked for and have not ended, in order."""
        return [
            asked
            for number, asked in sorted(self.asked.items())
            if (f"trial {number}", "search") not in self.scored
        ]

    def references(self, goals: Sequence[Goal], base: str, part: Part) -> Figures:
        """The figures that relative limits move with, by goal, of models that could be scored.

        Args:
            goals: guards among them
            base: the name of the base model
        """
        found = {}
        for goal in goals:
            if goal.limit and goal.limit.of:
                model = base if goal.limit.of == "base" else goal.limit.of
                scored = self.scored.get((f"parent {model}", part))
                found[goal.name] = scored.figures.get(goal.name, ()) if scored else ()
        return found

    @property
    def seconds(self) -> float:
        """Spent on all that is here."""
        return sum(scored.seconds for scored in self.scored.values())

    @property
    def seconds_here(self) -> float:
        """The same without what other machines scored."""
        others = (f"trial {asked.ask}" for asked in self.asked.values() if asked.elsewhere)
        return self.seconds - sum(self.scored[who, "search"].seconds for who in others)


def to_data(record: Asked | Scored) -> dict[str, Any]:
    """A record, ready for JSON."""
    found = asdict(record)
    if isinstance(record, Scored):
        found["seconds"], found["making"] = round(record.seconds, 4), round(record.making, 4)
    return {
        key: value for key, value in found.items() if value is not None and value != () and value is not False
    }


def from_data(line: Mapping[str, Any]) -> Asked | Scored:
    """The record that `to_data` wrote."""
    if "ask" in line:
        return Asked(**line)
    figures: Mapping[str, Sequence[Sequence[float]]] = line["figures"]
    rows = {name: tuple((row[0], row[1]) for row in found) for name, found in figures.items()}
    problem = Problem.from_data(line["problem"]) if "problem" in line else None
    lists = {name: tuple(line[name]) for name in ("told", "gradient") if name in line}
    return Scored(**{**line, **lists, "figures": rows, "problem": problem})
