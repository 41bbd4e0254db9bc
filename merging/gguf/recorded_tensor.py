"""A tensor of torch without numbers that records what is done to it; see `expression`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch.utils._pytree import tree_map

from merging.gguf.expression import OPERATIONS, Operation

# What says where a tensor is, and not what it is.
_PLACE = ("device", "layout", "pin_memory", "non_blocking")


class RecordedTensor(torch.Tensor):
    """Has a shape and a dtype, and the step that makes it.

    Args:
        step: that makes it
        like: a tensor on the meta device, of its shape, strides and dtype
    """

    step: Operation
    like: torch.Tensor
    # What stands for its numbers where the converter asks for an array of numpy: the converter's own lazy array.
    array_of: ClassVar[Callable[[str, tuple[int, ...]], Any]]

    @staticmethod
    def __new__(cls, step: Operation, like: torch.Tensor) -> Self:
        tensor: Self = torch.Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=torch.device("cpu")
        )
        tensor.step, tensor.like = step, like
        return tensor

    def __init__(self, step: Operation, like: torch.Tensor):
        pass

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"RecordedTensor({self.dtype}, {tuple(self.shape)})"

    def numpy(self, *, force: bool = False) -> Any:
        """An array without numbers, as the converter's own lazy tensors give it."""
        return type(self).array_of(str(self.dtype).removeprefix("torch."), tuple(self.shape))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Record an operation.

        Raises:
            NotImplementedError: it is none of those that can be recorded.
        """
        name = str(func)
        if name not in OPERATIONS:
            raise NotImplementedError(f"it applies the operation {name} to a tensor")
        options = {key: value for key, value in (kwargs or {}).items() if key not in _PLACE}
        made = func(*tree_map(_meta, args), **tree_map(_meta, options))
        step = Operation(name, tuple(args), options)
        if isinstance(made, torch.Tensor):
            return cls(step, made)
        return [cls(Operation("item", (step, number), {}), one) for number, one in enumerate(made)]


def _meta(value: Any) -> Any:
    if isinstance(value, RecordedTensor):
        return value.like
    return value.to("meta") if isinstance(value, torch.Tensor) else value
