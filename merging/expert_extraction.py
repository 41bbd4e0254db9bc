"""The experts of a layer as PEFT takes them: one product for each, packed into one pair of factors.

Loaders pack the matrices of all experts of a layer into one parameter, and PEFT puts one pair of factors beside it
(`target_parameters`). A fine-tune holds the matrices one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from checkpoints import Checkpoint
from checkpoints.loading import load
from checkpoints.naming import EXPERT_MATRICES, assume_loading

if TYPE_CHECKING:
    from torch import Tensor

# What the matrices of experts are called.
EXPERT_WORDS = {word for matrices in EXPERT_MATRICES.values() for words in matrices for word in words}
# What an expert's matrix becomes: factors of shapes (out, r) and (r, in).
Decompose = Callable[["Tensor"], tuple["Tensor", "Tensor"]]


@dataclass(frozen=True)
class Experts:
    """The experts of a layer that are packed into one parameter.

    Args:
        holder: the module of the parameter
        parameter: its name there
        matrices: by expert, the names of the tensors that are stacked in its matrix
    """

    holder: str
    parameter: str
    matrices: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        return f"{self.holder}.{self.parameter}"


@dataclass(frozen=True)
class PackedFactors:
    """What the experts of a layer gained: `a` of shape (experts * rank, in) and `b` of shape (out, rank * experts).

    `error` is the distance that is left, relative to the difference.
    """

    a: Tensor
    b: Tensor
    rank: int
    error: float


def find_experts(model: Checkpoint) -> list[Experts]:
    """The experts of a model that are stored one by one."""
    shapes = {name: header.shape for name, header in model.tensors.items()}
    loading = assume_loading(shapes)
    packed = {
        name: parts
        for name, parts in loading.parameters.items()
        if name.rpartition(".")[2] in EXPERT_MATRICES and name not in shapes
    }
    known = load(model.config, shapes) if packed else None
    called = {parts[0].tensor: name for name, parts in known.parameters.items()} if known else {}
    found = []
    for name, parts in packed.items():
        holder, _, parameter = called.get(parts[0].tensor, name).rpartition(".")
        width = len(EXPERT_MATRICES[parameter])
        tensors = [part.tensor for part in parts]
        matrices = (tuple(tensors[first : first + width]) for first in range(0, len(tensors), width))
        found.append(Experts(holder, parameter, tuple(matrices)))
    return found


def pack(
    experts: Experts, difference: Callable[[str], Tensor], decompose: Decompose, kind: torch.dtype
) -> PackedFactors | None:
    """Factors of what the experts of a layer gained; None if they gained nothing.

    Args:
        difference: float32 (rows, columns) of a stored matrix
        decompose: the best product of two small matrices for a large one
        kind: dtype of the factors
    """
    factors: dict[int, tuple[Tensor, Tensor]] = {}
    whole = left = 0.0
    shape = (0, 0)
    for number, names in enumerate(experts.matrices):
        delta = torch.cat([difference(name) for name in names])
        shape = (delta.shape[0], delta.shape[1])
        if delta.any():
            b, a = (part.to(kind) for part in decompose(delta))
            factors[number] = b, a
            whole += delta.double().square().sum().item()
            left += torch.addmm(delta, b.float(), a.float(), alpha=-1).double().square().sum().item()
    if not factors:
        return None
    rank, count = max(a.shape[0] for _, a in factors.values()), len(experts.matrices)
    packed_a, packed_b = (
        torch.zeros(count, rank, shape[1], dtype=kind),
        torch.zeros(shape[0], rank, count, dtype=kind),
    )
    for number, (b, a) in factors.items():
        packed_a[number, : a.shape[0]] = a
        packed_b[:, : b.shape[1], number] = b
    return PackedFactors(packed_a.flatten(0, 1), packed_b.flatten(1), rank, (left / whole) ** 0.5)


def modules(packed: Mapping[Experts, PackedFactors]) -> dict[Experts, str]:
    """What PEFT calls the module of each pair of factors: it wraps the parameters of a module one in the other."""
    order: Sequence[str] = [name for name in EXPERT_MATRICES if any(e.parameter == name for e in packed)]
    return {
        experts: experts.holder + ".base_layer" * (len(order) - 1 - order.index(experts.parameter))
        for experts in packed
    }
