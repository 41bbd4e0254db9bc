"""The value of a parameter as a recipe writes it: a number, a gradient over layers, or values by tensor name.

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
class ConditionalParameter:
    """A value for the tensors whose name contains `filter`.

    Args:
        value: one for all layers, or a gradient: anchors at equal distances from the first layer to the last
        filter: part of a tensor's name; None or "*" for all tensors
    """

    value: Scalar | tuple[Scalar, ...]
    filter: str | None = None

    def matches(self, name: str) -> bool:
        return self.filter in (None, "*") or str(self.filter) in name

    def scalars(self) -> tuple[Scalar, ...]:
        return self.value if isinstance(self.value, tuple) else (self.value,)


# The first that matches a tensor decides.
ParameterSetting = tuple[ConditionalParameter, ...]


def value_at(setting: ParameterSetting, name: str, position: float) -> Scalar | None:
    """The value that a setting gives to one tensor.

    Args:
        setting: conditional values; the first that matches decides
        name: the tensor's name
        position: of the tensor's layer in the slice, from 0 (the first) to 1 (the last)

    Returns:
        None if nothing matches.
    """
    for conditional in setting:
        if conditional.matches(name):
            value = conditional.value
            return on_gradient(value, position) if isinstance(value, tuple) else value
    return None


def on_gradient(anchors: Sequence[Scalar], position: float) -> Scalar:
    """Interpolate linearly between equally spaced anchors; booleans and strings change in steps.

    Args:
        anchors: at least one
        position: from 0 (the first anchor) to 1 (the last)
    """
    place = position * (len(anchors) - 1)
    left = int(place)
    if any(isinstance(anchor, bool | str) for anchor in anchors):
        return anchors[left]
    fraction = place - left
    low, high = anchors[left], anchors[min(left + 1, len(anchors) - 1)]
    return (1 - fraction) * low + fraction * high  # type: ignore[operator]
