"""The value of a parameter, as a recipe writes it: a number, a gradient over layers, choices by tensor name.

weight: 0.5                                  one value for all
weight: [0, 0.5, 1]                          a gradient over the layers of the slice
weight:                                      the first filter found in the tensor's name decides
  - filter: self_attn
    value: [0, 1]
  - value: 0.5                               no filter: every other tensor
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from merging.methods.parameters import Scalar


@dataclass(frozen=True)
class Choice:
    """A value for the tensors whose name contains `filter`; None or "*" for all of them."""

    value: Scalar | tuple[Scalar, ...]
    filter: str | None = None

    def matches(self, name: str) -> bool:
        return self.filter in (None, "*") or str(self.filter) in name

    def scalars(self) -> tuple[Scalar, ...]:
        return self.value if isinstance(self.value, tuple) else (self.value,)


Setting = tuple[Choice, ...]


def value_at(setting: Setting, name: str, position: float) -> Scalar | None:
    """The value that a setting gives to one tensor.

    Args:
        setting: choices, the first that matches decides
        name: the tensor's name
        position: of its layer in the slice, from 0 (the first) to 1 (the last)

    Returns:
        None if no choice matches.
    """
    for choice in setting:
        if choice.matches(name):
            return on_gradient(choice.value, position) if isinstance(choice.value, tuple) else choice.value
    return None


def on_gradient(anchors: Sequence[Scalar], position: float) -> Scalar:
    """The value at a position from 0 to 1 on equally spaced anchors; lines between numbers, else steps."""
    place = position * (len(anchors) - 1)
    left = int(place)
    if any(isinstance(anchor, bool | str) for anchor in anchors):
        return anchors[left]
    fraction = place - left
    low, high = anchors[left], anchors[min(left + 1, len(anchors) - 1)]
    return (1 - fraction) * low + fraction * high  # type: ignore[operator]
