"""A recipe as the form holds it, and its conversion from and to YAML.

The form can show recipes that list whole models. What has no field but can be kept (other top-level keys, unknown
parameters) is kept and written back; what the form cannot hold (slices, a syntax error) raises `NotShown`, and then
only the YAML counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from checkpoints.dtypes import RECIPE_DTYPES
from checkpoints.yaml import YamlError, load
from merging.methods import METHODS, MergeMethod, Parameter
from merging.recipe.dump import dump, on_one_line
from merging.recipe.fixes import CommonBase
from merging.recipe.patch import patched, same
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


def rewritten(text: str, state: FormState) -> str:
    """A text that says the state: as few edits as possible of one that the form can show, else a text of its own.

    Comments, the order of keys and models, indentation, defaults that are written out and keys without a field stay.
    """
    try:
        changed = patched(text, _with_state(_top_level(text), read(text), state))
        return changed if same(_meaning(read(changed)), _meaning(state)) else write(state)
    except NotShown:
        return write(state)


def _meaning(state: FormState) -> dict[str, Any]:
    """What a state says, whether or not defaults are written out."""
    models = [
        {"model": model.name, "settings": _telling(state.merge_method, model.settings)}
        for model in state.models
        if model.name
    ]
    settings = _telling(state.merge_method, state.settings)
    about = {"method": state.method, "base": state.base, "dtype": state.dtype, "extra": dict(state.extra)}
    return {**about, "models": models, "settings": settings}


def _telling(method: MergeMethod, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """The settings that differ from their defaults."""
    return {name: value for name, value in settings.items() if not same(value, _default(method, name))}


def _default(method: MergeMethod, name: str) -> Setting:
    parameter = method.parameter(name)
    return parameter.default if parameter else None


def _with_state(recipe: dict[str, Any], before: FormState, after: FormState) -> dict[str, Any]:
    """A recipe's data, which `before` was read from, changed to what another state says."""
    method, rows = after.merge_method, [model for model in after.models if model.name]
    wanted = recipe | {"merge_method": after.method}
    for key in before.extra.keys() - after.extra.keys():
        del wanted[key]
    wanted |= {key: value for key, value in after.extra.items() if not same(value, before.extra.get(key))}
    base = rows[0].name if method.base == "first" and rows else after.base
    if method.takes_base and base:
        beginning = {"merge_method": after.method, "base_model": base}
        wanted = wanted | beginning if "base_model" in wanted else beginning | wanted
    elif "base_model" not in after.extra:
        wanted.pop("base_model", None)
    if after.dtype != before.dtype:
        wanted["dtype"] = after.dtype
        if not after.dtype:
            del wanted["dtype"]
    wanted["models"] = _entries(recipe, before, after, rows)
    shared = dict(_mapping(recipe.get("parameters")))
    own = {name for name in shared if _is_own(before.merge_method, name)}
    for name in own if after.method != before.method else ():
        if not _is_own(method, name):
            del shared[name]
    kept = {name: value for name, value in shared.items() if name in own}
    rest = {name: value for name, value in shared.items() if name not in own}
    return _with_parameters(wanted, kept | _changed(rest, rest, after.settings, before, method))


def _entries(
    recipe: Mapping[str, Any], before: FormState, after: FormState, rows: Sequence[ModelEntry]
) -> list[Any]:
    """The list of models: a row's entry stays at its place, whichever order the form shows them in."""
    shared = _mapping(recipe.get("parameters"))
    for_all = {name: value for name, value in shared.items() if _is_own(before.merge_method, name)}
    for_all_after = {name: value for name, value in for_all.items() if _is_own(after.merge_method, name)}
    given = _list(recipe.get("models"))
    free = list(range(len(given)))
    places = []
    for row in before.models:
        place = next(place for place in free if _model(given[place], for_all) == row)
        free.remove(place)
        places.append(place)
    # What is left is the base, listed among the models.
    found: list[tuple[int, int, Any]] = (
        [(place, 0, given[place]) for place in free] if after.base == before.base else []
    )
    at, names = -1, [row.name for row in before.models]
    steps = SequenceMatcher(None, names, [row.name for row in rows], autojunk=False).get_opcodes()
    for _, first, last, new_first, new_last in steps:
        for number, row in enumerate(rows[new_first:new_last]):
            is_new = first + number >= last
            entry: dict[str, Any] = {"model": row.name}
            held: Mapping[str, Setting] = for_all_after
            if not is_new:
                at = places[first + number]
                entry = given[at] if names[first + number] == row.name else given[at] | entry
                held = before.models[first + number].settings
            own = _changed(_mapping(entry.get("parameters")), held, row.settings, before, after.merge_method)
            found.append((at, len(found) if is_new else -1, _with_parameters(entry, own)))
    return [entry for *_, entry in sorted(found, key=lambda item: item[:2])]


def _with_parameters(owner: Mapping[str, Any], parameters: Mapping[str, Setting]) -> dict[str, Any]:
    """A recipe, or an entry of it, with other parameters; none are left out."""
    if parameters:
        return {**owner, "parameters": dict(parameters)}
    return {key: value for key, value in owner.items() if key != "parameters"}


def _changed(
    written: Mapping[str, Setting],
    held: Mapping[str, Setting],
    wanted: Mapping[str, Setting],
    before: FormState,
    method: MergeMethod,
) -> dict[str, Setting]:
    """The parameters of one place in the recipe.

    Args:
        written: what is written there
        held: what holds there, whether it is written there or for all models
        wanted: what shall hold there; a default may be left out
        before: the state that was read
        method: the one that is wanted
    """
    stays = method.name == before.method
    result = dict(written)
    for name in dict.fromkeys([*written, *held, *wanted]):
        default = _default(method, name)
        value, old = wanted.get(name, default), held.get(name, default if stays else None)
        if name not in wanted and (default is None or not stays):
            result.pop(name, None)
        elif not same(value, old):
            result[name] = value
    return result


def _is_own(method: MergeMethod, name: str) -> bool:
    parameter = method.parameter(name)
    return parameter is not None and parameter.per_model


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
    base = plain_name(recipe.get("base_model"))
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
    except YamlError as error:
        is_busy = error.problems[0].code == "too-many-recipes"
        raise NotShown(t("held.busy" if is_busy else "held.yaml")) from None
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


@dataclass(frozen=True)
class OtherMethods:
    """What the form held under the methods that were chosen before, so that it comes back with them.

    Args:
        states: by method, as the form was when another one was chosen
        spare: models for which the chosen method has no place
    """

    states: Mapping[str, FormState] = field(default_factory=dict)
    spare: tuple[ModelEntry, ...] = ()


def for_method(
    state: FormState,
    method: MergeMethod,
    common_base: CommonBase = lambda names: "",
    others: OtherMethods | None = None,
) -> tuple[FormState, OtherMethods]:
    """The state under another method: models stay, and so do settings that the method accepts.

    Required settings that are missing start in the middle of their range.

    Args:
        common_base: says which model the named ones were made from; asked only if the method subtracts a base and the
            state has none
        others: what the form held under other methods

    Returns:
        The state, and what the form held under other methods from now on.
    """
    others = others or OtherMethods()
    before = others.states.get(method.name)
    names, base = [model.name for model in state.models], state.base
    models = [*state.models, *(model for model in others.spare if model.name not in names)]
    if method.may_subtract:
        base = base or (before.base if before else "")
        if method.base == "subtracted" and not base:
            base = common_base([model.name for model in models if model.name])
        if base != state.base:
            models = [model for model in models if model.name != base]
    else:
        # A base that nothing is subtracted from is a model like the others; those that have enough do without it.
        if base and sum(bool(model.name) for model in models) < min(2, method.max_models or 2):
            models.insert(0, ModelEntry(base))
        base = ""
    most = method.max_models or len(models)
    models, spare = models[:most], models[most:]
    while len(models) < method.min_models:
        models.append(ModelEntry())
    held = {model.name: model.settings for model in before.models} if before else {}
    rows = tuple(_row_for(method, model, held.get(model.name, {})) for model in models)
    remembered = before.settings if before else {}
    settings = {**_required(method, False), **remembered, **_taken(method, state.settings, False)}
    extra = {key: value for key, value in state.extra.items() if key != "base_model"}
    now = FormState(method.name, rows, base, settings, state.dtype, extra)
    return now, OtherMethods({**others.states, state.method: state}, tuple(spare))


def _row_for(method: MergeMethod, model: ModelEntry, remembered: Mapping[str, Setting]) -> ModelEntry:
    settings = {**_required(method, True), **remembered, **_taken(method, model.settings, True)}
    return ModelEntry(model.name, settings)


def _taken(method: MergeMethod, settings: Mapping[str, Setting], per_model: bool) -> dict[str, Setting]:
    return {name: value for name, value in settings.items() if _takes(method, name, value, per_model)}


def field_text(setting: Setting) -> str:
    """A setting on one line, as a text field shows it: `0.5`, `[0, 0.5, 1]`, `[{filter: mlp, value: 1}]`."""
    if setting is None or setting == "":
        return ""
    return on_one_line(setting)


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
    return ModelEntry(plain_name(entry["model"]), {**for_all, **_mapping(entry.get("parameters"))})


def plain_name(value: Any) -> str:
    """The name of a model in a recipe; empty where there is none.

    Raises:
        NotShown: it is no plain name.
    """
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
