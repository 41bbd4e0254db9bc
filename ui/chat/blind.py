"""A blind comparison: which model answers in which conversation is hidden until the visitor has voted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Blind:
    """A comparison of the models that were chosen.

    Args:
        order: the number of the model in each conversation, from left to right
        lines: what is to be said below each conversation once the names are shown, as HTML
        revealed: whether the visitor has voted, so that the names are shown
    """

    order: tuple[int, ...]
    lines: tuple[str, ...] = ()
    revealed: bool = False

    @classmethod
    def of(cls, count: int) -> Blind:
        """That many models, in an order that nobody can guess."""
        return cls(tuple(random.SystemRandom().sample(range(count), count)))

    def names(self, chosen: Sequence[str]) -> list[str]:
        """The models by conversation, from left to right."""
        return [chosen[number] for number in self.order]
