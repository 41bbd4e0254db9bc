"""The value that each parameter of the method has for one tensor."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from checkpoints.architecture import role_of
from checkpoints.problems import Place, Problem
from merging.methods import MergeMethod, Parameter
from merging.methods.parameters import Scalar
from merging.plan import Value
from merging.planning.runs import Run
from merging.recipe.gradients import value_at
from merging.recipe.recipe import Parameters


class _Found(NamedTuple):
    """What was found for the tensors of a run.

    Args:
        run: of layers
        filters: all that its parameters have
        values: by what they depend on
    """

    run: Run
    filters: tuple[str, ...]
    values: dict[Hashable, dict[str, Value] | None]


class ParameterValues:
    """Finds the values of a method's parameters. Tensors of a layer that no filter tells apart share theirs.

    Args:
        method: it
        problems: that are added to
    """

    def __init__(self, method: MergeMethod, problems: list[Problem]):
        self.method = method
        self.problems = problems
        self._found: dict[int, _Found] = {}
        self._has_roles = any(parameter.roles for parameter in method.parameters)

    def of(self, run: Run, name: str, names: Sequence[str], position: float) -> dict[str, Value] | None:
        """Every parameter's value for one tensor; None if there is a problem.

        Args:
            run: that the tensor belongs to
            name: of the result's tensor, by which shared parameters are filtered
            names: of its inputs, by which the others are
            position: in the run, from 0 to 1, for gradients
        """
        found = self._found.get(id(run))
        if found is None:
            found = self._found[id(run)] = _Found(run, _filters(run), {})
        key: Hashable = position
        if found.filters or self._has_roles:
            traits = {one: self._traits(one, found.filters) for one in (name, *names)}
            key = position, traits[name], *(traits[one] for one in names)
        if key not in found.values:
            found.values[key] = self._of(run, name, names, position)
        return found.values[key]

    def _traits(self, name: str, filters: Sequence[str]) -> Hashable:
        """What of a tensor's name decides about values."""
        return tuple(part in name for part in filters), role_of(name) if self._has_roles else None

    def _of(self, run: Run, name: str, names: Sequence[str], position: float) -> dict[str, Value] | None:
        shared = run.levels
        values: dict[str, Value] = {}
        for parameter in self.method.parameters:
            if not parameter.per_model:
                values[parameter.name] = self.value(parameter, shared, name, position, run.where)
                continue
            own = []
            for source, source_name in list(zip(run.sources, names, strict=True))[run.subtracts :]:
                levels = (source.parameters, *shared)
                own.append(self.value(parameter, levels, source_name, position, source.where))
            values[parameter.name] = own  # type: ignore[assignment]
        if any(value is None or (isinstance(value, list) and None in value) for value in values.values()):
            return None
        wrong = self.method.check(self.arguments(values))
        if wrong:
            # Once for each slice: along a gradient every layer has numbers of its own.
            where = run.where or run.sources[run.subtracts].where
            if not any(p.code == "parameters" and p.where == where for p in self.problems):
                names = [parameter.name for parameter in self.method.parameters if parameter.per_model]
                said = {"method": self.method.name, "title": self.method.title, "tensor": name}
                self.problems.append(
                    Problem("parameters", {**said, "wrong": wrong, "parameters": names}, where)
                )
            return None
        return values

    def value(
        self,
        parameter: Parameter,
        levels: Iterable[Parameters],
        name: str,
        position: float,
        where: Place | str,
    ) -> Scalar | None:
        if parameter.roles and role_of(name) not in parameter.roles:
            return True
        for level in levels:
            if parameter.name in level:
                value = value_at(level[parameter.name], name, position)
                if value is not None:
                    return parameter.convert(value)
        if parameter.required and not self._is_reported(where):
            values = {"parameter": parameter.name, "tensor": name}
            self.problems.append(Problem("no-filter-matches", values, where))
        return parameter.default

    def _is_reported(self, where: Place | str) -> bool:
        return any(p.code == "no-filter-matches" and p.where == where for p in self.problems)

    def arguments(self, values: Mapping[str, Value]) -> dict[str, Value]:
        return {parameter.argument: values[parameter.name] for parameter in self.method.parameters}


def _filters(run: Run) -> tuple[str, ...]:
    """The parts of names that the parameters of a run ask for."""
    levels = (*run.levels, *(source.parameters for source in run.sources))
    settings = (setting for level in levels for setting in level.values())
    return tuple(
        {str(one.filter): None for setting in settings for one in setting if one.filter not in (None, "*")}
    )
