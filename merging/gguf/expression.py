"""How a tensor of a GGUF file is computed from tensors of the model, as data.

The converter runs in a process of its own, on tensors without numbers. What it does to them is recorded, one operation
of torch after the other, goes through JSON, and is done to the numbers here.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor

# The operations that may be recorded, and are done here: none draws at random, reads a file or writes in place.
OPERATIONS = frozenset(
    f"aten.{name}"
    for name in (
        "_reshape_copy.default", "_to_copy.default", "_unsafe_view.default", "abs.default", "add.Scalar", "add.Tensor",
        "alias.default", "cat.default", "chunk.default", "clone.default", "detach.default", "div.Scalar", "div.Tensor",
        "exp.default", "expand.default", "flip.default", "index_select.default", "log.default", "mul.Scalar",
        "mul.Tensor", "neg.default", "permute.default", "pow.Tensor_Scalar", "reciprocal.default", "repeat.default",
        "rsqrt.default", "rsub.Scalar", "select.int", "slice.Tensor", "split.Tensor", "split_with_sizes.default",
        "sqrt.default", "squeeze.default", "squeeze.dim", "squeeze.dims", "stack.default", "sub.Scalar", "sub.Tensor",
        "t.default", "tanh.default", "transpose.int", "unbind.int", "unsqueeze.default", "view.default",
    )
)  # fmt: skip
# Those that leave the numbers and their order as they are.
_PLAIN = frozenset(
    f"aten.{name}"
    for name in (
        "_unsafe_view.default", "alias.default", "clone.default", "detach.default", "squeeze.default", "squeeze.dim",
        "squeeze.dims", "unsqueeze.default", "view.default",
    )
)  # fmt: skip
_JOINS = ("aten.stack.default", "aten.cat.default")
# Numbers of a tensor that the converter makes itself: factors of positions, and such.
MOST_CONSTANTS = 1 << 20


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor that follow from some tensors of the model.

    Args:
        inputs: names of these tensors
        elements: of the piece
        steps: an input, a constant or an operation each, as JSON has them; the last is the result
        is_plain: whether the piece is its only input as it is, in float32
    """

    inputs: tuple[str, ...]
    elements: int
    steps: tuple[Any, ...]
    is_plain: bool

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        return cls(tuple(data["inputs"]), data["elements"], tuple(data["steps"]), data["is_plain"])

    def computed(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The piece in float32, contiguous.

        Args:
            inputs: by name

        Raises:
            ValueError: it is not made of the operations that are known.
        """
        import torch

        values: list[Any] = []
        for kind, *rest in self.steps:
            if kind == "input":
                values.append(inputs[rest[0]])
            elif kind == "constant":
                raw = bytearray(base64.b64decode(rest[1]))
                values.append(torch.frombuffer(raw, dtype=torch.float32).reshape(rest[0]))
            elif kind == "item":
                values.append(values[rest[0]][rest[1]])
            else:
                arguments, options = rest
                values.append(_done(kind, arguments, options, values))
        result: Tensor = values[-1].to(torch.float32).contiguous()
        if result.numel() != self.elements:
            raise ValueError(f"{result.numel()} elements instead of {self.elements}")
        return result


def _done(name: str, arguments: Sequence[Any], options: Mapping[str, Any], values: Sequence[Any]) -> Any:
    """What an operation makes of earlier values."""
    import torch

    if name not in OPERATIONS:
        raise ValueError(f"unknown operation {name}")

    def read(value: Any) -> Any:
        if isinstance(value, list):
            return [read(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        [(kind, content)] = value.items()
        return values[content] if kind == "step" else getattr(torch, content)

    _, packet, overload = name.split(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload)
    return operation(*map(read, arguments), **{key: read(value) for key, value in options.items()})


@dataclass(frozen=True, eq=False)
class Operation:
    """A recorded step.

    Args:
        kind: "input", "constant", "item", or the name of an operation
        arguments, options: of it; steps among them
    """

    kind: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


def recorded(name: str, dtype: str, shape: Sequence[int]) -> Any:
    """A tensor without numbers that records what is done to it.

    Args:
        name: of the tensor of the model
        dtype: by torch's name
    """
    import torch

    from merging.gguf.recorded_tensor import RecordedTensor

    like = torch.empty(tuple(shape), dtype=getattr(torch, dtype), device="meta")
    return RecordedTensor(Operation("input", (name,), {}), like)


def pieces(tensor: Any) -> list[dict[str, Any]]:
    """The pieces that a recorded tensor is made of, in order, as data; of one that has numbers, a constant.

    Raises:
        NotImplementedError: it has too many numbers of its own.
    """
    from merging.gguf.recorded_tensor import RecordedTensor

    if not isinstance(tensor, RecordedTensor):
        return [_data(_constant(tensor), tensor.numel())]
    step = _without_copies(tensor.step)
    if step.kind in _JOINS and _dimension(step) == 0:
        return [_data(_step_of(part), part.numel()) for part in step.arguments[0]]
    return [_data(step, tensor.numel())]


def _dimension(step: Operation) -> int:
    return int(step.arguments[1] if len(step.arguments) > 1 else step.options.get("dim", 0))


def _step_of(value: Any) -> Operation:
    from merging.gguf.recorded_tensor import RecordedTensor

    return value.step if isinstance(value, RecordedTensor) else _constant(value)


def _constant(tensor: Any) -> Operation:
    import torch

    if tensor.numel() > MOST_CONSTANTS:
        raise NotImplementedError(
            f"a tensor of {tensor.numel()} numbers that come from no tensor of the model"
        )
    numbers = tensor.detach().to(torch.float32).contiguous().numpy()
    return Operation("constant", (list(numbers.shape), base64.b64encode(numbers.tobytes()).decode()), {})


def _without_copies(step: Operation) -> Operation:
    while _is_copy(step) and step.kind != "aten.view.default":
        step = _step_of(step.arguments[0])
    return step


def _is_copy(step: Operation) -> bool:
    """Whether a step leaves numbers and order as they are."""
    import torch

    if step.kind == "aten._to_copy.default":
        return bool(step.options.get("dtype", torch.float32) == torch.float32)
    return step.kind in _PLAIN


def _data(step: Operation, elements: int) -> dict[str, Any]:
    """A piece that ends in a step, as JSON has it."""
    numbers: dict[Operation, int] = {}
    steps: list[Any] = []

    def write(value: Any) -> Any:
        import torch

        if isinstance(value, torch.Tensor):
            return {"step": number(_step_of(value))}
        if isinstance(value, Operation):
            return number(value)
        if isinstance(value, list | tuple):
            return [write(item) for item in value]
        if isinstance(value, torch.dtype | torch.memory_format):
            return {"torch": str(value).removeprefix("torch.")}
        if isinstance(value, bool | int | float | str | None):
            return value
        raise NotImplementedError(f"an argument {value!r} of {step.kind}")

    def number(one: Operation) -> int:
        if one not in numbers:
            if one.kind.startswith("aten."):
                line = [one.kind, write(one.arguments), {key: write(v) for key, v in one.options.items()}]
            else:
                line = [one.kind, *map(write, one.arguments)]
            steps.append(line)
            numbers[one] = len(steps) - 1
        return numbers[one]

    number(step)
    plain = step
    while _is_copy(plain):
        plain = _step_of(plain.arguments[0])
    inputs = list(dict.fromkeys(line[1] for line in steps if line[0] == "input"))
    return {"inputs": inputs, "elements": elements, "steps": steps, "is_plain": plain.kind == "input"}
