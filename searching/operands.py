"""The terms of a merged tensor, held in memory: new coefficients give a new sum, and its gradient gives theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merging.engine.blocks import Inputs, merge_blocks, operands, products
from merging.engine.workspace import Workspace, torch_dtype
from merging.methods import MergeMethod

# Elements that are summed at once. Larger than a merge's blocks: there are no bytes to read, and few operations.
AT_ONCE = 512 * 1024


# Makes a tensor of zeros, given how many there are and their dtype.
Zeros = Callable[[int, torch.dtype], Tensor]


def small_pages(elements: int, dtype: torch.dtype) -> Tensor:
    """A tensor of zeros, (elements,), freed on its own."""
    return torch.zeros(elements, dtype=dtype)


@dataclass(frozen=True)
class Operands:
    """The tensor is base + Σ cᵢ termᵢ.

    Attributes:
        terms: K tensors of shape (n,): float32 task vectors, or models in the dtype they are stored in
        base: (n,) in its stored dtype; None where no base is subtracted
        factors: the K coefficients under a method's arguments
    """

    terms: tuple[Tensor, ...]
    base: Tensor | None
    factors: Callable[[Mapping[str, Any]], Sequence[float]]

    @property
    def nbytes(self) -> int:
        held = self.terms if self.base is None else (*self.terms, self.base)
        return sum(tensor.untyped_storage().nbytes() for tensor in held)

    @property
    def is_constant(self) -> bool:
        """Whether the sum is the same for all coefficients, to the last bit."""
        if self.base is None or any(term.stride() != (0,) for term in self.terms):
            return False
        return not bool((self.base.eq(0) & self.base.signbit()).any())  # -0 + 0 is 0, and -0 + -0 is not

    def write(
        self, coefficients: Sequence[float], out: Tensor, dtype: torch.dtype, buffers: Workspace
    ) -> None:
        """Write the sum, with the bits that a merge has.

        Args:
            coefficients: K
            out: (n,) tensor to write to
            dtype: that the sum is rounded to before
            buffers: of the thread
        """
        for start in range(0, len(out), AT_ONCE):
            part = slice(start, min(start + AT_ONCE, len(out)))
            target = out[part]
            block, spare = buffers.rows(2, len(target), torch.float32)
            block = target if out.dtype == torch.float32 else block
            torch.mul(_as_float(self.terms[0][part], block), coefficients[0], out=block)
            for term, coefficient in zip(self.terms[1:], coefficients[1:], strict=True):
                block.add_(_as_float(term[part], spare), alpha=coefficient)
            if self.base is not None:
                block.add_(_as_float(self.base[part], spare))
            if dtype != torch.float32:
                (rounded,) = buffers.rows(1, len(target), dtype)
                target.copy_(rounded.copy_(block))
            elif block is not target:
                target.copy_(block)

    def dots(self, gradient: Tensor, buffers: Workspace) -> NDArray[np.float64]:
        """The dot product of each term with the gradient of the sum.

        Args:
            gradient: (n,) float32

        Returns:
            (K,), the derivatives by the coefficients
        """
        found = np.zeros(len(self.terms))
        for start in range(0, len(gradient), AT_ONCE):
            part = slice(start, min(start + AT_ONCE, len(gradient)))
            (spare,) = buffers.rows(1, part.stop - start, torch.float32)
            for index, term in enumerate(self.terms):
                if term.stride() != (0,):
                    found[index] += torch.dot(gradient[part], _as_float(term[part], spare)).item()
        return found


def _as_float(block: Tensor, spare: Tensor) -> Tensor:
    """The block in float32, where need be in the memory of another."""
    return block if block.dtype == torch.float32 else spare.copy_(block)


def are_sums(method: MergeMethod, arguments: Mapping[str, Any]) -> bool:
    """Whether the tensors of a method are sums of operands that its coefficients can change."""
    return method.coefficients is not None or (method.from_products and method.over(arguments) == "tensor")


def read_operands(
    method: MergeMethod, arguments: Mapping[str, Any], inputs: Inputs, zeros: Zeros, device: str
) -> Operands:
    """Read what a tensor is the sum of.

    Args:
        method: one whose tensors are sums, see `are_sums`
        arguments: of the method
        inputs: of the tensor
        zeros: makes the tensors that are kept, on a processor
        device: that holds the result
    """
    everything = range(len(inputs.dtypes))
    subtracts = method.subtracts(len(everything), arguments)
    if method.coefficients is None:
        found = products(inputs, "tensor", subtracts)
        stored = tuple(_stored(inputs, index, zeros, device) for index in everything)

        def factors(arguments: Mapping[str, Any]) -> Sequence[float]:
            own = method.function(found, **arguments)
            return [1 - sum(own), *own] if subtracts else own

        return Operands(stored, None, factors)
    if not subtracts:
        stored = tuple(_stored(inputs, index, zeros, device) for index in everything)
        return Operands(stored, None, method.coefficients)
    base = _stored(inputs, 0, zeros, device)
    terms: list[Tensor | None] = [None for _ in everything[1:]]
    for start, _, vectors in operands(method, arguments, inputs):
        for index, vector in enumerate(vectors):
            term = terms[index]
            if term is None and vector.view(torch.int32).any():
                is_here = device == "cpu"
                term = (
                    zeros(inputs.size, torch.float32) if is_here else torch.zeros(inputs.size, device=device)
                )
                terms[index] = term
            if term is not None:
                term[start : start + len(vector)].copy_(vector)
    return Operands(
        tuple(_without_zeros(term, inputs.size, device) for term in terms), base, method.coefficients
    )


def read_change(method: MergeMethod, arguments: Mapping[str, Any], inputs: Inputs, device: str) -> Operands:
    """The base, and all that a method adds to it, whose factor is `lambda`; arguments as for `read_operands`."""
    base = _stored(inputs, 0, small_pages, device)
    change = torch.empty(inputs.size, dtype=torch.float32, device=device)
    for start, block in merge_blocks(method, {**arguments, "lambda_": 1.0}, inputs):
        part = slice(start, start + len(block))
        change[part] = block - base[part]
    return Operands((change,), base, lambda arguments: [arguments["lambda_"]])


def _stored(inputs: Inputs, index: int, zeros: Zeros, device: str) -> Tensor:
    """An input, whole, in the dtype it is stored in."""
    stored = zeros(inputs.size, torch_dtype(inputs.dtypes[index]))
    inputs.read(index, 0, stored.view(torch.uint8).numpy().data)
    return stored.to(device)


def _without_zeros(term: Tensor | None, size: int, device: str) -> Tensor:
    """The term; one of zeros alone takes no memory."""
    if term is not None and term.count_nonzero():
        return term
    return torch.zeros(1, dtype=torch.float32, device=device).expand(size)
