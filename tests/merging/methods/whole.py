"""The plain reference: a method applied to whole tensors at once, without blocks, buffers or threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from merging.methods import MergeMethod
from merging.methods.arithmetic import total, weighted_sum
from merging.methods.selection import keep_first
from merging.methods.singular import matrix_shape

SEED = (3, 5)


class WholeBlocks:
    """Tensors that come as one block each."""

    def __init__(self, tensors: Sequence[Tensor], shape: Sequence[int], seed: Sequence[int] = ()):
        self.tensors = [tensor.flatten() for tensor in tensors]
        self.seed = seed
        self.size = tensors[0].numel()
        self.row = shape[-1] if shape else 1

    def block(self, start: int) -> list[Tensor]:
        return [tensor.clone() for tensor in self.tensors]

    def __iter__(self) -> Iterator[tuple[int, list[Tensor]]]:
        yield 0, self.block(0)

    def sample(self) -> Iterator[tuple[int, list[Tensor]]]:
        yield 0, self.block(0)


def merge_whole(method: MergeMethod, tensors: Sequence[Tensor], arguments: Mapping[str, Any]) -> Tensor:
    """The float32 merge of whole tensors, the base first where the method subtracts it.

    Args:
        method: from the registry
        tensors: of any float dtype, one shape
        arguments: every parameter, by argument name
    """
    shape = tensors[0].shape
    models = [tensor.flatten().float() for tensor in tensors]
    base = models[0].clone()
    subtracted = method.subtracts(len(tensors), arguments)
    if subtracted:
        models = [model - base for model in models[1:]]
    if not models:
        return base.view(shape)
    if method.from_products:
        coefficients = coefficients_of(method, models, shape, arguments)
        if subtracted:
            coefficients = [1 - sum(coefficients), *coefficients]
        if isinstance(coefficients[0], Tensor):
            summed = total([c.float() * t.float() for c, t in zip(coefficients, tensors, strict=True)])
            return summed.view(shape)
        return weighted_sum([t.flatten().float().clone() for t in tensors], coefficients).view(shape)
    if method.by_matrices:
        matrix = matrix_shape(shape)
        if matrix is None or not method.wants_matrices(arguments):
            return (base + method.elsewhere(models, **arguments)).view(shape)  # type: ignore[misc]
        piles = zip(*(model.clone().view(-1, *matrix) for model in models), strict=True)
        changes = [method.function(list(pile), **arguments) for pile in piles]
        return (base + torch.stack(changes).flatten()).view(shape)
    own = dict(arguments)
    if method.sparsify:
        names = {p.argument: p.per_model for p in method.sparsify.parameters}
        given = {name: own.pop(name) for name in names}
        for i, vector in enumerate(models):
            mine = {name: given[name][i] if each else given[name] for name, each in names.items()}
            one = WholeBlocks([vector], shape, (*SEED, i + 1))
            (cuts,) = keep_first(one, [method.sparsify.numbers(one.size, mine)])
            cut = method.sparsify.measure(one, cuts, **mine)
            models[i] = method.sparsify.apply(vector.clone(), 0, cut)
    if method.measure:
        whole = WholeBlocks(models, shape)
        merged = method.function(whole.block(0), method.measure(whole, **own), 0, **own)
    else:
        merged = method.function([model.clone() for model in models], **own)
    return (base + merged if subtracted else merged).view(shape)


def coefficients_of(
    method: MergeMethod, models: Sequence[Tensor], shape: Sequence[int], arguments: Mapping[str, Any]
) -> list[Any]:
    """The coefficients of a method that makes them of dot products: numbers, or one for each row or column."""
    wide = torch.stack(models).double()
    over = method.over(arguments)
    if over == "tensor":
        return list(method.function((wide @ wide.T).numpy(), **arguments))
    shape = shape or (1,)
    rows = wide.view(len(models), -1, shape[-1])
    if over == "columns" and len(shape) > 1:
        products = torch.einsum("irc,jrc->ijc", rows, rows)
        return list(torch.tensor(method.function(products.numpy(), **arguments)))
    products = torch.einsum("irc,jrc->ijr", rows, rows)
    return list(torch.tensor(method.function(products.numpy(), **arguments)).view(-1, *shape[:-1], 1))


def merge_by_engine(
    method: MergeMethod, tensors: Sequence[Tensor], arguments: Mapping[str, Any], remote: bool = False
) -> Tensor:
    """The same by the engine: in blocks, through stored bytes."""
    from merging.engine.blocks import Inputs, Workspace, merge_blocks

    names = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
    stored = [tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() for tensor in tensors]

    def read(index: int, start: int, buffer: memoryview) -> None:
        buffer[:] = stored[index][start : start + len(buffer)]

    dtypes = [names[t.dtype] for t in tensors]
    inputs = Inputs(read, dtypes, tensors[0].shape, remote, Workspace(), seed=SEED)
    merged = torch.empty(tensors[0].numel())
    for start, block in merge_blocks(method, arguments, inputs):
        assert block.dtype == torch.float32
        merged[start : start + len(block)] = block
    return merged.view(tensors[0].shape)
