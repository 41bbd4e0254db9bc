"""The registry of merge methods, and the decorator that fills it.

A method is a function; the name of its first argument says what it is given, and so how the engine runs it:

    weights           list of K float32 blocks, one a model, the same elements of each; returns the merged block
    task_vectors      the same, each model minus the base; what it returns is added to the base
    weight_products   K x K float64 matrix of the dot products between the models' whole tensors; returns K
                      coefficients, and the result is the sum of the models weighted by them. Products over rows
                      or columns come as K x K x G, one for each of G rows or columns, and so do K x G coefficients
    task_vector_products  the same for models minus base; the sum is added to the base

    task_vector_matrices  list of K float32 matrices, the task vectors of a tensor of two axes (or of one of those that
                      a tensor of three packs); returns the matrix to be added. `elsewhere` does for all other
                      tensors what a method of task_vectors does, and where a switch for some roles is off

A method that has to know something of the whole tensor first declares `measure`, a function that is given the blocks
(`selection.Blocks`) and the parameters. The method is then given two more arguments before its parameters: what was
measured, and the offset at which its blocks begin.

A method whose result is a sum of what it is given, with factors that depend on the parameters alone, declares them as
`coefficients`, so that a search can take its derivatives. Methods of products are such sums by nature.

Blocks belong to the method: it may overwrite them. A method sees neither names, files, devices nor recipes.
Importing a method does not import torch, so that a plan is made without waiting for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, Unpack, cast, get_args

from merging.methods import singular
from merging.methods.parameters import Parameter, Scalar, parameters_of
from merging.methods.sparsify import Sparsifier

Over = Literal["tensor", "rows", "columns"]
Operand = Literal[
    "weights", "task_vectors", "weight_products", "task_vector_products", "task_vector_matrices"
]
Base = Literal["subtracted", "optional", "first", "ordinary"]
METHODS: dict[str, MergeMethod] = {}
# Parameters that mergekit 0.1.5 does not read, in methods that it has.
OWN_PARAMETERS = ("election", "rescale_norm")


@dataclass(frozen=True)
class MergeMethod:
    """One way to merge.

    Args:
        name: as recipes write it
        title: as people write it
        paper: URL of the source
        formula: what comes out, in Unicode: θ the result, θ₀ the base, θᵢ the models, δᵢ = θᵢ − θ₀, wᵢ their weights, λ
            `lambda`, d `density`, other letters as in the parameters; products and comparisons go entry by entry
        summary: one line, the first of the docstring
        operand: what the function is given (see the module)
        function: the arithmetic
        parameters: what a recipe may set, the sparsifier's among them
        min_models, max_models: how many models, the base not counted where it is subtracted; None: any number
        base: "subtracted" from the models, "optional": subtracted where a recipe names one, the "first" of them, or
            an "ordinary" model if it is one of them at all
        target_first: config, tokenizer and what is left alone come from the first model, which receives the others
        over: whether dot products are taken over the whole tensor, its rows (the last axis) or its columns (all the
            others; a tensor of one axis is one row), under these arguments
        measure: finds out what the function has to know of the whole tensor
        elsewhere: what a method of matrices does with other tensors
        matrices_held: bytes that a method of matrices needs, given a tensor's shape and the number of task vectors
        whole_rows: the function or `measure` needs blocks of whole rows
        sparsify: applied to each task vector before the function sees it
        ignored: parameters that recipes for mergekit carry and that change nothing, there or here
        in_mergekit: mergekit 0.1.5 has a method of this name
        decided_by: the index of the one model whose tensor is the result as it stands, under these arguments
            (-1: the subtracted base), or None
        check: what is wrong with these arguments, or None
        coefficients: where the result is a sum of the operands: the factor of each, under these arguments; None for
            every other method. The operands do not depend on the arguments, but for those of the sparsifier
    """

    name: str
    title: str
    paper: str
    formula: str
    summary: str
    operand: Operand
    function: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    min_models: int = 1
    max_models: int | None = None
    base: Base = "ordinary"
    target_first: bool = False
    over: Callable[[Mapping[str, Any]], Over] = field(default=lambda _: "tensor")
    measure: Callable[..., Any] | None = None
    whole_rows: bool = False
    elsewhere: Callable[..., Any] | None = None
    matrices_held: Callable[[Sequence[int], int], int] = singular.held
    sparsify: Sparsifier | None = None
    ignored: tuple[str, ...] = ()
    in_mergekit: bool = True
    decided_by: Callable[[Mapping[str, Any]], int | None] = field(default=lambda _: None)
    check: Callable[[Mapping[str, Any]], dict[str, Any] | None] = field(default=lambda _: None)
    coefficients: Callable[[Mapping[str, Any]], Sequence[float]] | None = None

    @property
    def needs_base(self) -> bool:
        return self.base in ("subtracted", "first")

    @property
    def takes_base(self) -> bool:
        """Whether a base does something else than lie among the models, if there is one."""
        return self.base != "ordinary"

    @property
    def may_subtract(self) -> bool:
        """Whether a base that a recipe names is subtracted from the models."""
        return self.base in ("subtracted", "optional")

    def takes_off(self, names_base: bool) -> bool:
        """Whether the base is subtracted from the models, in a recipe that names one or does not."""
        return self.base == "subtracted" or (self.may_subtract and names_base)

    def subtracts(self, inputs: int, arguments: Mapping[str, Any]) -> bool:
        """Whether the first of `inputs` tensors is a base that is subtracted: it has no weight among the arguments."""
        if self.base != "optional":
            return self.base == "subtracted"
        return inputs > max(len(arguments[p.argument]) for p in self.parameters if p.per_model)

    @property
    def own_parameters(self) -> tuple[str, ...]:
        """Those that mergekit 0.1.5 does not read in a method that it has."""
        return tuple(p.name for p in self.parameters if p.name in OWN_PARAMETERS) if self.in_mergekit else ()

    @property
    def is_random(self) -> bool:
        return self.sparsify is not None and self.sparsify.is_random

    @property
    def by_rows(self) -> bool:
        """Whether blocks have to be whole rows."""
        return self.whole_rows or (self.sparsify is not None and self.sparsify.by_rows)

    def rereads(self, parameters: Mapping[str, Any]) -> bool:
        """Whether merging passes over the inputs more than once (to measure, and then to merge), or in other pieces
        than they come in."""
        sparsify = self.sparsify
        measures = self.measure is not None or (sparsify is not None and sparsify.measures(parameters))
        return measures or self.from_products or self.by_rows or self.by_matrices

    @property
    def from_products(self) -> bool:
        """Whether the function makes coefficients of a Gram matrix."""
        return self.operand.endswith("_products")

    @property
    def by_matrices(self) -> bool:
        """Whether the function is given whole matrices."""
        return self.operand.endswith("_matrices")

    def wants_matrices(self, parameters: Mapping[str, Any]) -> bool:
        """Whether a tensor is merged as a matrix, if it is one: no switch for tensors of its role is off."""
        return all(parameters[p.argument] for p in self.parameters if p.roles)

    def parameter(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


class _Options(TypedDict, total=False):
    """Fields of `MergeMethod` that a method declares where it is not of the usual kind."""

    target_first: bool
    over: Callable[[Mapping[str, Any]], Over]
    measure: Callable[..., Any]
    whole_rows: bool
    elsewhere: Callable[..., Any]
    matrices_held: Callable[[Sequence[int], int], int]
    ignored: tuple[str, ...]
    in_mergekit: bool
    decided_by: Callable[[Mapping[str, Any]], int | None]
    coefficients: Callable[[Mapping[str, Any]], Sequence[float]]


def merge_method(
    *,
    title: str,
    paper: str,
    formula: str,
    models: tuple[int, int | None] = (1, None),
    base: Base = "ordinary",
    sparsify: Sparsifier | None = None,
    check: Callable[[Mapping[str, Any]], dict[str, Any] | None] = lambda _: None,
    name: str | None = None,
    summary: str | None = None,
    defaults: Mapping[str, Scalar] | None = None,
    **options: Unpack[_Options],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function into `METHODS` under its own name, and return it untouched.

    A method that shares its function with another, and differs in what is done to the task vectors before, is entered
    by a second call, with a name, a summary and, where they differ, defaults of its own.

    Args:
        models: how few and how many, see `MergeMethod`
        options: its other fields

    Raises:
        TypeError: the first argument is not one of the operands, or a parameter is not declared in full.
    """

    def check_all(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        return check(arguments) or (sparsify.check(arguments) if sparsify else None)

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        operand = _operand(function)
        METHODS[name or function.__name__] = MergeMethod(
            name=name or function.__name__,
            title=title,
            paper=paper,
            formula=formula,
            summary=summary or (inspect.getdoc(function) or "").splitlines()[0],
            operand=operand,
            function=function,
            parameters=_parameters(function, defaults or {}) + (sparsify.parameters if sparsify else ()),
            min_models=models[0],
            max_models=models[1],
            base="subtracted" if operand.startswith("task_vector") else base,
            sparsify=sparsify,
            check=check_all,
            **options,
        )
        return function

    return enter


def _operand(function: Callable[..., Any]) -> Operand:
    first = next(iter(inspect.signature(function).parameters))
    if first not in get_args(Operand):
        raise TypeError(f"{function.__name__}: the first argument must be one of {get_args(Operand)}")
    return cast("Operand", first)


def _parameters(function: Callable[..., Any], defaults: Mapping[str, Scalar]) -> tuple[Parameter, ...]:
    """What a function declares, with other defaults for some."""
    declared = parameters_of(function)
    return tuple(replace(one, default=defaults.get(one.name, one.default)) for one in declared)
