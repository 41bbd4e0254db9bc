"""What a merge method lets a recipe vary: each parameter is declared once, in the method's signature.

A keyword-only argument is a parameter. Its annotation gives kind and range, its default the default (none:
the recipe must say it), its line under `Args:` in the docstring the meaning. Sliders, validation, tables,
cards and tests all read the `Parameter` made here.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

Kind = Literal["number", "integer", "bool", "choice"]
Scalar = bool | int | float | str


@dataclass(frozen=True)
class Range:
    """The values of a number: both ends are included.

    Args:
        low: smallest value
        high: largest value
        step: of the slider
        beyond: values outside are allowed too; low and high are then only the slider's ends
        clamps: a value outside is read as the nearer end, with a warning: nothing is gained beyond
    """

    low: float
    high: float
    step: float = 0.01
    beyond: bool = False
    clamps: bool = False


@dataclass(frozen=True)
class PerModel(Range):
    """A number of which every model has its own; the method receives a list in the order of its inputs."""


@dataclass(frozen=True)
class OnlyFor:
    """A switch that concerns only tensors that play these roles (`architecture.role_of`); for all others it is on."""

    roles: tuple[str, ...]


Weight = Annotated[list[float], PerModel(0.0, 2.0, step=0.05, beyond=True)]
Density = Annotated[list[float], PerModel(0.0, 1.0)]
Fraction = Annotated[float, Range(0.0, 1.0)]
Scaling = Annotated[float, Range(0.0, 2.0, step=0.05, beyond=True)]


@dataclass(frozen=True)
class Parameter:
    """One thing a recipe may set.

    Args:
        name: as recipes write it
        argument: as the function names it (`lambda_` for `lambda`)
        kind: number, integer, bool or choice
        default: None when the recipe has to say it (or, where `optional`, may leave it out)
        optional: may be left out although there is no default
        help: one line, from the docstring
        per_model: every model has its own value
        low, high, step: the slider; None for a bool or a choice
        beyond: numbers outside low..high are allowed too
        clamps: numbers outside low..high are read as the nearer end
        choices: for a choice
        roles: for a switch that only tensors of these roles have; for all others it is on
    """

    name: str
    argument: str
    kind: Kind
    default: Scalar | None
    help: str
    optional: bool = False
    per_model: bool = False
    low: float | None = None
    high: float | None = None
    step: float | None = None
    beyond: bool = False
    clamps: bool = False
    choices: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        return self.default is None and not self.optional

    @property
    def initial(self) -> Any:
        """The value that a field or a fix begins with: the default, or the middle of the range if it is required."""
        if self.default is not None:
            return self.default
        if self.choices:
            return self.choices[0]
        if self.low is None or self.high is None:
            return None
        return (self.low + self.high) / 2

    def nearest(self, value: object) -> float | int | None:
        """The nearest value within the range; None for what is no number, or where there is no range."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        if self.low is None or self.high is None:
            return None
        found = min(max(value, self.low), self.high)
        return round(found) if self.kind == "integer" else float(found)

    def expected(self) -> str:
        """What a value has to be, in words."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        noun = "a whole number" if self.kind == "integer" else "a number"
        return noun if self.beyond or self.low is None else f"{noun} from {self.low:g} to {self.high:g}"

    def accepts(self, value: object) -> bool:
        """Whether one value (not a gradient) may stand for this parameter."""
        if self.kind == "bool":
            # mergekit's users write 1 and 0 as well, and a gradient of switches is made of numbers.
            return isinstance(value, bool) or value in (0, 1)
        if self.kind == "choice":
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if self.kind == "integer" and value != int(value):
            return False
        return self.beyond or self.low is None or self.high is None or self.low <= value <= self.high

    def convert(self, value: Scalar) -> Scalar:
        """An accepted value in the type that the method takes."""
        if self.kind == "bool":
            return bool(value)
        if self.kind == "integer":
            return int(value)
        return float(value) if self.kind == "number" else value


def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters that a method declares by its keyword-only arguments.

    Raises:
        TypeError: an argument has no known annotation, or no line in the docstring.
    """
    helps = _argument_lines(function)
    parameters = []
    for argument in inspect.signature(function).parameters.values():
        if argument.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if argument.name not in helps:
            raise TypeError(f"{function.__name__}: no line under Args: for '{argument.name}'")
        parameters.append(_parameter(function, argument, helps[argument.name]))
    return tuple(parameters)


def _parameter(function: Callable[..., Any], argument: inspect.Parameter, text: str) -> Parameter:
    # Only the parameters' annotations are evaluated: those of the tensors would import torch, and a plan
    # must not wait for that.
    annotation = eval(argument.annotation, function.__globals__)
    default = None if argument.default is inspect.Parameter.empty else argument.default
    optional = argument.default is None
    if optional:
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    name = argument.name.rstrip("_")
    if annotation is bool:
        return Parameter(name, argument.name, "bool", default, text, optional)
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        return Parameter(name, argument.name, "choice", default, text, optional, choices=choices)
    if typing.get_origin(annotation) is Annotated:
        kind, bounds = typing.get_args(annotation)
        if kind is bool and isinstance(bounds, OnlyFor):
            return Parameter(name, argument.name, "bool", default, text, optional, roles=bounds.roles)
        if isinstance(bounds, Range):
            return Parameter(
                name,
                argument.name,
                "integer" if kind is int else "number",
                default,
                text,
                optional,
                isinstance(bounds, PerModel),
                bounds.low,
                bounds.high,
                bounds.step,
                bounds.beyond,
                bounds.clamps,
            )
    raise TypeError(f"{function.__name__}: cannot make a parameter of '{argument.name}: {annotation}'")


def _argument_lines(function: Callable[..., Any]) -> Mapping[str, str]:
    """The lines `name: meaning` under `Args:`; a meaning may go on over several lines."""
    section = inspect.getdoc(function) or ""
    _, _, section = section.partition("\nArgs:\n")
    section = re.split(r"\n\S", section)[0]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        match = re.match(r" {4}(\w+): (.+)", line)
        if match:
            name = match[1]
            found[name] = match[2].strip()
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found
