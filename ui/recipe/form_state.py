"""A recipe as the form holds it, and its conversion from and to YAML.

The form can show recipes that list whole models. What has no field but can be kept (other top-level keys, unknown
parameters) is kept and written back; what the form cannot hold (slices, a syntax error) raises `NotShown`, and then
only the YAML counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from checkpoints.dtypes import RECIPE_DTYPES
from checkpoints.yaml import YamlError, load
from merging.methods import METHODS, MergeMethod, Parameter
from ui.languages.translate import t

MAX_MODELS = 6
ATTENTION, MLP = "self_attn", "mlp"

# A parameter's value as YAML writes it: a scalar, a gradient, or a list of filters.
Setting = Any


class NotShown(ValueError):  # noqa: N818 (not an error: the recipe may be perfectly good)
    """The form cannot show the recipe; the text says why, as the end of a sentence."""


@dataclass(frozen=True)
class ModelEntry:
    """One model's row: its name as typed, and its own parameters."""

    name: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class FormState:
    """What the form holds.

    Args:
        method: a name in METHODS
        models: the rows, in order; if the method's base is the first model, that row comes first
        base: the base model's name; empty if the method has none, or if its first model is the base
        settings: shared parameters that differ from their default, by name
        dtype: of the result; empty for the stored one
        extra: top-level keys that the form does not show, as they were read
    """

    method: str
    models: tuple[ModelEntry, ...] = ()
    base: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    dtype: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def merge_method(self) -> MergeMethod:
        return METHODS[self.method]

    def names(self) -> tuple[str, ...]:
        """The models chosen so far, the base last."""
        return tuple(name for name in (*(model.name for model in self.models), self.base) if name)


def write(state: FormState) -> str:
    """The state as YAML, its keys in the usual order; rows without a model are left out."""
    method = state.merge_method
    chosen = [model for model in state.models if model.name]
    recipe: dict[str, Any] = {"merge_method": state.method}
    base = chosen[0].name if method.base == "first" and chosen else state.base
    if method.takes_base and base:
        recipe["base_model"] = base
    recipe["models"] = [
        {"model": model.name} | ({"parameters": dict(model.settings)} if model.settings else {})
        for model in chosen
    ]
    if state.settings:
        recipe["parameters"] = dict(state.settings)
    if state.dtype:
        recipe["dtype"] = state.dtype
    return dump(recipe | dict(state.extra))


def read(text: str) -> FormState:
    """The form state of a YAML text.

    Raises:
        NotShown: the form cannot show it.
    """
    recipe = _top_level(text)
    method = METHODS.get(str(recipe.pop("merge_method", None)))
    if method is None:
        raise NotShown(t("held.method"))
    if "slices" in recipe or "modules" in recipe:
        raise NotShown(t("held.slices"))
    shared = _mapping(recipe.pop("parameters", None))
    # A per-model parameter may be given once for all models; each row then shows it as its own.
    own = {parameter.name for parameter in method.parameters if parameter.per_model}
    for_all = {name: value for name, value in shared.items() if name in own}
    base = _name(recipe.get("base_model"))
    models = [_model(entry, for_all) for entry in _list(recipe.pop("models", None))]
    models = _ordered(models, base, method)
    if method.takes_base:
        recipe.pop("base_model", None)
    dtype = _dtype(recipe.pop("dtype", None))
    _check_choices(shared, method)
    return FormState(
        method=method.name,
        models=tuple(models),
        base=base if method.may_subtract else "",
        settings={name: value for name, value in shared.items() if name not in own},
        dtype=dtype,
        extra=recipe,
    )


def _top_level(text: str) -> dict[str, Any]:
    """A recipe's top-level keys."""
    try:
        recipe = load(text)
    except YamlError:
        raise NotShown(t("held.yaml")) from None
    if not isinstance(recipe, dict):
        raise NotShown(t("held.empty"))
    return dict(recipe)


def _ordered(models: list[ModelEntry], base: str, method: MergeMethod) -> list[ModelEntry]:
    """The rows: a base that is one of the models comes first; one that is subtracted has a field of its own."""
    if method.base == "first" and base:
        models = sorted(models, key=lambda model: model.name != base)
        if not models or models[0].name != base:
            raise NotShown(t("held.base"))
    elif method.may_subtract:
        models = [model for model in models if model.name != base or model.settings]
    if len(models) > MAX_MODELS:
        raise NotShown(t("held.many", most=MAX_MODELS))
    return models


def _dtype(value: Any) -> str:
    dtype = str(value or "").removeprefix("torch.")
    if dtype and dtype not in RECIPE_DTYPES:
        raise NotShown(t("held.dtype", dtype=dtype[:40]))
    return dtype


def _check_choices(shared: Mapping[str, Setting], method: MergeMethod) -> None:
    """A switch or a menu shows one value only."""
    for parameter in method.parameters:
        setting = shared.get(parameter.name)
        if parameter.kind in ("bool", "choice") and setting is not None and not is_plain(parameter, setting):
            raise NotShown(t("held.choice", name=parameter.name))


def for_method(state: FormState, method: MergeMethod) -> FormState:
    """The state under another method: models stay, and so do settings that the method accepts.

    Required settings that are missing start in the middle of their range.
    """
    models = [
        ModelEntry(model.name, {k: v for k, v in model.settings.items() if _takes(method, k, v, True)})
        for model in state.models
    ]
    base = state.base
    if method.base == "first" and base and not any(model.name == base for model in models):
        models.insert(0, ModelEntry(base))
    if method.base == "subtracted" and not base and models:
        base, models = models[0].name, models[1:]
    if method.max_models is not None:
        models = models[: method.max_models]
    while len(models) < method.min_models:
        models.append(ModelEntry())
    models = [ModelEntry(model.name, _required(method, True) | dict(model.settings)) for model in models]
    settings = _required(method, False) | {
        k: v for k, v in state.settings.items() if _takes(method, k, v, False)
    }
    extra = {key: value for key, value in state.extra.items() if key != "base_model"}
    kept_base = base if method.may_subtract else ""
    return FormState(method.name, tuple(models), kept_base, settings, state.dtype, extra)


def field_text(setting: Setting) -> str:
    """A setting on one line, as a text field shows it: `0.5`, `[0, 0.5, 1]`, `[{filter: mlp, value: 1}]`."""
    if setting is None or setting == "":
        return ""
    text = yaml.dump(setting, Dumper=_Dumper, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def field_setting(text: str) -> Setting:
    """The setting in a text field; None if it is empty. Text that is not YAML stays text, for the plan to refuse."""
    try:
        return load(text)
    except YamlError:
        return text.strip()


def by_tensor(rest: Setting, attention: Setting, mlp: Setting) -> Setting:
    """One setting from the fields for attention, MLP and everything else; None if all are empty."""
    choices = [
        {"filter": name, "value": value}
        for name, value in ((ATTENTION, attention), (MLP, mlp))
        if value is not None
    ]
    if not choices:
        return rest
    if isinstance(rest, list) and rest and all(isinstance(choice, dict) for choice in rest):
        return choices + rest
    return choices + ([] if rest is None else [{"value": rest}])


def split_by_tensor(setting: Setting) -> tuple[Setting, Setting, Setting]:
    """The setting for everything else, attention and MLP: the inverse of `by_tensor`."""
    named: dict[str, Setting] = {}
    if (
        not isinstance(setting, list)
        or not all(isinstance(choice, dict) for choice in setting)
        or not setting
    ):
        return setting, None, None
    rest = list(setting)
    # Only the leading ones: the first filter that matches decides, so the order of the others matters.
    while rest and rest[0].get("filter") in {ATTENTION, MLP} - named.keys() and "value" in rest[0]:
        first = rest.pop(0)
        named[first["filter"]] = first["value"]
    if len(rest) == 1 and rest[0].keys() == {"value"}:
        return rest[0]["value"], named.get(ATTENTION), named.get(MLP)
    return rest or None, named.get(ATTENTION), named.get(MLP)


def is_plain(parameter: Parameter, setting: Setting) -> bool:
    """Whether a slider, a box or a menu can show the setting."""
    if isinstance(setting, bool) or parameter.kind == "bool":
        return isinstance(setting, bool) and parameter.kind == "bool"
    if parameter.choices:
        return setting in parameter.choices
    if not isinstance(setting, int | float) or parameter.low is None or parameter.high is None:
        return False
    return parameter.low <= setting <= parameter.high


def dump(recipe: Mapping[str, Any]) -> str:
    """A recipe as YAML: keys in the given order, gradients and short filters on one line."""
    return yaml.dump(dict(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """Indents lists under their key, and writes lists of plain values on one line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    plain = not any(isinstance(value, dict | list) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=plain or None)


_Dumper.add_representer(list, _represent_list)


def _required(method: MergeMethod, per_model: bool) -> dict[str, Setting]:
    return {p.name: p.initial for p in method.parameters if p.required and p.per_model == per_model}


def _takes(method: MergeMethod, name: str, setting: Setting, per_model: bool) -> bool:
    parameter = method.parameter(name)
    if parameter is None or parameter.per_model != per_model:
        return False
    return not parameter.choices or setting in parameter.choices


def _model(entry: Any, for_all: Mapping[str, Setting]) -> ModelEntry:
    if not isinstance(entry, dict) or not entry.keys() <= {"model", "parameters"} or "model" not in entry:
        raise NotShown(t("held.model"))
    return ModelEntry(_name(entry["model"]), {**for_all, **_mapping(entry.get("parameters"))})


def _name(value: Any) -> str:
    if isinstance(value, dict | list):
        raise NotShown(t("held.name"))
    return "" if value is None else str(value)


def _mapping(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise NotShown(t("held.parameters"))
    return {str(key): setting for key, setting in value.items()}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise NotShown(t("held.models"))
    return value
