"""The form that writes recipes: rows of models, a method, and the fields that the method declares.

Gradio's fields are made once, for every parameter of every method, and shown or hidden: rows made anew by
`gr.render` were seen to submit the value of a removed row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr
import yaml
from gradio.components import Component

from checkpoints.dtypes import RECIPE_DTYPES
from merging import Problem
from merging.methods import METHODS, MergeMethod, Parameter
from merging.recipe.yaml import Loader
from ui.languages.translate import of_registry, t
from ui.recipe.form_state import (
    MOST_MODELS,
    FormState,
    ModelEntry,
    Setting,
    by_tensor,
    field_setting,
    field_text,
    for_method,
    initial,
    is_plain,
    split_by_tensor,
)
from ui.recipe.quick_fixes import place_of, read_name
from ui.widgets import html

Update = Any
METHOD, BASE, PARAMETERS, DTYPE = "method", "base", "parameters", "dtype"


@dataclass(frozen=True)
class FormMemory:
    """What the form knows beside its fields.

    Args:
        state: as last shown or collected; carries what has no field
        rows: how many model rows are visible
        held: the YAML cannot be shown in the form, which must not overwrite it
        texts: what the text fields said when they were last shown or collected; None: not known
    """

    state: FormState
    rows: int = 2
    held: bool = False
    texts: tuple[str | None, ...] = ()

    def names(self) -> tuple[str, ...]:
        """The models chosen so far, the base last."""
        return self.state.names()


@dataclass(frozen=True)
class _Number:
    """A numeric parameter: a slider, or text fields where values are typed."""

    slider: gr.Slider
    texts: tuple[gr.Textbox, ...]  # everything else, attention, MLP; per model only the first

    @property
    def components(self) -> list[Component]:
        return [self.slider, *self.texts]

    def collect(self, values: Sequence[Any], typed: bool) -> Setting:
        if not typed:
            return _rounded(values[0])
        said = [field_setting(str(value or "")) for value in values[1:]]
        return by_tensor(*said) if len(said) > 1 else said[0]

    def show(
        self, parameter: Parameter | None, setting: Setting, typed: bool, explained: bool = True
    ) -> list[Update]:
        if parameter is None:
            return [gr.update(visible=False) for _ in self.components]
        info = of_registry(parameter.help) if explained else None
        typed = typed or parameter.optional  # a slider cannot say "not set"
        slider: dict[str, Any] = {"minimum": parameter.low, "maximum": parameter.high, "step": parameter.step}
        if is_plain(parameter, setting):
            slider["value"] = setting
        updates = [gr.update(label=parameter.name, info=info, visible=not typed, **slider)]
        parts = split_by_tensor(setting) if len(self.texts) > 1 else (setting,)
        keys = ("recipe.rest", "recipe.attention", "recipe.mlp") if len(parts) > 1 else ("recipe.typed.one",)
        for i, (key, part) in enumerate(zip(keys, parts, strict=True)):
            updates.append(
                gr.update(
                    label=t(key, name=parameter.name),
                    info=info if i == 0 else None,
                    placeholder=t("recipe.filter.empty") if i else None,
                    visible=typed,
                    value=field_text(part),
                )
            )
        return updates


@dataclass(frozen=True)
class _Plain:
    """A switch or a choice."""

    component: gr.Checkbox | gr.Dropdown

    @property
    def components(self) -> list[Component]:
        return [self.component]

    def collect(self, values: Sequence[Any], typed: bool) -> Setting:
        return values[0]

    def show(self, parameter: Parameter | None, setting: Setting, typed: bool) -> list[Update]:
        if parameter is None:
            return [gr.update(visible=False)]
        choices: dict[str, Any] = {"choices": list(parameter.choices)} if parameter.choices else {}
        return [
            gr.update(
                label=parameter.name, info=of_registry(parameter.help), visible=True, value=setting, **choices
            )
        ]


Field = _Number | _Plain


@dataclass(frozen=True)
class _Row:
    """One model's row."""

    group: gr.Group
    model: gr.Dropdown
    remove: gr.Button
    fields: dict[str, _Number]
    note: gr.HTML


@dataclass
class Form:
    """The fields, in one fixed order, and the two ways between them and a state."""

    method: gr.Dropdown
    about: gr.HTML
    base: gr.Dropdown
    rows: list[_Row]
    add: gr.Button
    typed: gr.Checkbox
    fields: dict[tuple[str, str], Field]
    dtype: gr.Dropdown
    notes: dict[str, gr.HTML]  # for problems, below the field that causes them; those of the rows stand there
    memory: gr.State = field(default_factory=lambda: gr.State(FormMemory(FormState(next(iter(METHODS))))))

    @property
    def values(self) -> list[Any]:
        """Every field whose value counts, in the order in which `collect` takes them."""
        return [
            self.method, self.base, self.typed, self.dtype,
            *(part for row in self.rows for part in (row.model, *_parts(row.fields.values()))),
            *_parts(self.fields.values()),
        ]  # fmt: skip

    @property
    def outputs(self) -> list[Any]:
        """What `show` updates: the memory, the surroundings, then the fields."""
        return [
            self.memory,
            self.about,
            self.add,
            *(x for row in self.rows for x in (row.group, row.remove)),
            *self.values,
        ]

    @property
    def model_fields(self) -> list[gr.Dropdown]:
        return [self.base, *(row.model for row in self.rows)]

    @property
    def note_fields(self) -> list[gr.HTML]:
        return [*self.notes.values(), *(row.note for row in self.rows)]

    def note_updates(self, state: FormState, recipe: str, problems: Sequence[Problem]) -> list[Update]:
        """Updates of `note_fields`: each problem below the field that causes it, as far as there is one."""
        found: dict[str | int, list[Problem]] = {}
        for problem in problems:
            spot = spot_of(state, recipe, problem.where)
            if spot is not None:
                found.setdefault(spot, []).append(problem)
        spots = [*self.notes, *range(len(self.rows))]
        return [gr.update(value=_note(found.get(spot, ())), visible=spot in found) for spot in spots]

    @property
    def text_fields(self) -> list[gr.Textbox]:
        return [component for component in self.values if isinstance(component, gr.Textbox)]

    def texts(self, values: Sequence[Any]) -> tuple[str, ...]:
        """What the text fields say."""
        pairs = zip(self.values, values, strict=True)
        return tuple(str(value or "") for component, value in pairs if isinstance(component, gr.Textbox))

    def was_typed(self, index: int, memory: FormMemory, values: Sequence[Any]) -> bool:
        """Whether a person, and not `show`, changed the text field of this index.

        Of this one alone: while Gradio draws fields that were hidden, the others still have their old values.
        """
        before = memory.texts[index] if memory.texts else None
        return before is not None and before != self.texts(values)[index]

    def collect(
        self, memory: FormMemory, values: Sequence[Any], method: MergeMethod | None = None, rows: int = 0
    ) -> FormState:
        """The state that the fields say.

        Args:
            memory: carries what has no field
            values: of the fields
            method: that the fields were shown for; None: the one that is chosen
            rows: keep at least so many rows, though the last ones name no model
        """
        at = dict(zip((component._id for component in self.values), values, strict=True))
        method = method or METHODS[at[self.method._id]]
        typed = bool(at[self.typed._id])

        def said(
            fields: Sequence[tuple[Parameter, Field]], before: Mapping[str, Setting]
        ) -> dict[str, Setting]:
            settings = {}
            for parameter, widget in fields:
                values = [at[part._id] for part in widget.components]
                setting = widget.collect(values, typed or parameter.optional)
                if setting is not None and (parameter.required or setting != parameter.default):
                    settings[parameter.name] = setting
            # What the YAML said and the form has no field for is kept; the plan may refuse it.
            return settings | {
                name: value for name, value in before.items() if method.parameter(name) is None
            }

        names = [str(at[row.model._id] or "").strip() for row in self.rows]
        # Hidden rows are empty, so that nobody has to be told how many are visible.
        count = max([rows, *(i + 1 for i, name in enumerate(names) if name)])
        before = [*memory.state.models, *(ModelEntry(),) * MOST_MODELS]
        models = tuple(
            ModelEntry(
                name,
                said([(p, row.fields[p.name]) for p in method.parameters if p.per_model], earlier.settings),
            )
            for name, row, earlier in zip(names[:count], self.rows, before, strict=False)
        )
        shared = [(p, self.fields[_key(p)]) for p in method.parameters if not p.per_model]
        return replace(
            memory.state,
            method=method.name,
            models=models,
            base=str(at[self.base._id] or "").strip() if method.may_subtract else "",
            settings=said(shared, memory.state.settings),
            dtype=str(at[self.dtype._id] or ""),
        )

    def show(
        self, state: FormState, *, typed: bool | None = None, values: Sequence[Any] | None = None
    ) -> list[Update]:
        """Updates that make the fields say the state.

        Args:
            typed: whether values are typed instead of slid; None: only if a slider cannot show one
            values: that the fields have already; these are left alone, and with them what the visitor
                writes into a field while the answer is on its way
        """
        method = state.merge_method
        if typed is None:
            typed = needs_typing(state)
        least = max(method.min_models, 1 if method.max_models == 1 else 2)
        count = min(max(len(state.models), least), MOST_MODELS)
        most = min(MOST_MODELS, method.max_models or MOST_MODELS)
        models = [*state.models, *(ModelEntry() for _ in range(MOST_MODELS - len(state.models)))]
        shown: list[Update] = [
            FormMemory(state, count),
            method_text(method),
            gr.update(visible=count < most),
        ]
        for i in range(MOST_MODELS):
            shown += [gr.update(visible=i < count), gr.update(visible=count > least)]
        shown += [
            method.name,
            gr.update(value=state.base or None, visible=method.may_subtract),
            typed,
            state.dtype,
        ]
        for i, (row, model) in enumerate(zip(self.rows, models, strict=True)):
            is_base = i == 0 and method.base == "first"
            label = t("recipe.model.base" if is_base else "recipe.model", number=i + 1)
            shown.append(gr.update(value=model.name or None, label=label))
            for name, number in row.fields.items():
                own = next((p for p in method.parameters if p.per_model and p.name == name), None)
                setting = model.settings.get(name, own and initial(own))
                shown += number.show(own, setting, typed, explained=i == 0)
        for key, widget in self.fields.items():
            shared = next((p for p in method.parameters if not p.per_model and _key(p) == key), None)
            shown += widget.show(shared, state.settings.get(key[0], shared and initial(shared)), typed)
        updates = zip(self.outputs, shown, strict=True)
        texts = tuple(update.get("value") for part, update in updates if isinstance(part, gr.Textbox))
        shown[0] = FormMemory(state, count, texts=texts)
        start = len(shown) - len(self.values)
        for i, value in enumerate(() if values is None else values, start):
            if not isinstance(shown[i], dict):
                shown[i] = gr.skip() if shown[i] == value else shown[i]
            elif "value" in shown[i] and (shown[i]["value"] or None) == (value or None):
                del shown[i]["value"]
        return shown

    def after_method(self, memory: FormMemory, values: Sequence[Any]) -> FormState:
        """The state after another method was chosen."""
        name = values[self.values.index(self.method)]
        return for_method(self.collect(memory, values, memory.state.merge_method), METHODS[name])

    def after_typing_switch(self, memory: FormMemory, values: Sequence[Any]) -> FormState:
        """The state before the switch, which says how to read the fields, was turned."""
        turned = list(values)
        place = self.values.index(self.typed)
        turned[place] = not turned[place]
        return self.collect(memory, turned, rows=memory.rows)

    def without_row(self, index: int, memory: FormMemory, values: Sequence[Any]) -> FormState:
        """The state after a row was removed."""
        state = self.collect(memory, values, rows=memory.rows)
        return replace(state, models=state.models[:index] + state.models[index + 1 :])

    def with_row(self, memory: FormMemory, values: Sequence[Any]) -> FormState:
        """The state after an empty row was added."""
        state = self.collect(memory, values, rows=memory.rows)
        return replace(state, models=(*state.models, ModelEntry()))


def build_form(known: Sequence[str], allow_folders: bool) -> Form:
    """Make the form's fields where the page is being built.

    Args:
        known: models to offer before anything is typed
        allow_folders: say that a folder of this machine will do as well
    """
    info = t("recipe.model.folder" if allow_folders else "recipe.model.info")

    def model_field(label: str, info: str | None) -> gr.Dropdown:
        return gr.Dropdown(
            list(known), value=None, label=label, info=info, allow_custom_value=True, min_width=220, scale=8
        )

    method = gr.Dropdown(
        [(method.title, name) for name, method in METHODS.items()], label=t("recipe.method"), filterable=True
    )
    about = gr.HTML()
    notes = {METHOD: gr.HTML(visible=False)}
    base = model_field(t("recipe.base"), t("recipe.base.info"))
    notes[BASE] = gr.HTML(visible=False)
    rows = []
    per_model = _union(lambda p: p.per_model)
    for i in range(MOST_MODELS):
        with gr.Group(visible=i < 2, elem_classes="alloy-model") as group:
            with gr.Row(equal_height=False):
                model = model_field(t("recipe.model", number=i + 1), info if i == 0 else None)
                remove = gr.Button(t("recipe.remove"), size="sm", scale=0, elem_id=f"remove-model-{i + 1}")
            with gr.Row():
                fields = {p.name: _number(p, texts=1) for p in per_model}
            note = gr.HTML(visible=False)
        rows.append(_Row(group, model, remove, fields, note))
    add = gr.Button(t("recipe.add"), size="sm")
    with gr.Row():
        shared = {_key(p): _field(p) for p in _union(lambda p: not p.per_model)}
    notes[PARAMETERS] = gr.HTML(visible=False)
    typed = gr.Checkbox(label=t("recipe.typed"), info=t("recipe.typed.info"))
    dtype = gr.Dropdown(
        [(t("recipe.dtype.stored"), ""), *((name, name) for name in RECIPE_DTYPES)],
        value="",
        label=t("recipe.dtype"),
    )
    notes[DTYPE] = gr.HTML(visible=False)
    return Form(method, about, base, rows, add, typed, shared, dtype, notes)


def method_text(method: MergeMethod) -> str:
    """What a method does, in a line, with its source."""
    paper = f" {html.link(method.paper, t('recipe.paper'))}" if method.paper else ""
    return f'<div class="alloy-method">{html.text(of_registry(method.summary))}{paper}</div>'


def spot_of(state: FormState, recipe: str, where: str) -> str | int | None:
    """The field that a problem's place in the recipe belongs to: a name in `Form.notes`, or a row's number."""
    try:
        tree = yaml.compose(recipe, Loader=Loader)
    except (yaml.YAMLError, RecursionError):
        return None
    path = place_of(tree, where)
    match path:
        case None:
            named = where  # some problems of the plan name the model
        case ("merge_method",):
            return METHOD
        case ("dtype",):
            return DTYPE
        case ("base_model", *_):
            named = str(read_name(tree, "base_model"))
        case ("models", int(number), *_):
            named = str(read_name(tree, "models", number, "model"))
        case ("parameters", *_) | ():
            return PARAMETERS
        case _:
            return None
    rows = [model.name for model in state.models]
    return rows.index(named) if named and named in rows else BASE if named and named == state.base else None


def _note(problems: Sequence[Problem]) -> str:
    lines = dict.fromkeys(map(html.sentences, problems))
    return "".join(f'<p class="alloy-trouble">{line}</p>' for line in lines)


def _field(parameter: Parameter) -> Field:
    if parameter.kind == "bool":
        return _Plain(gr.Checkbox(label=parameter.name, visible=False))
    if parameter.kind == "choice":
        return _Plain(gr.Dropdown(list(parameter.choices), label=parameter.name, visible=False))
    return _number(parameter, texts=3)


def _number(parameter: Parameter, texts: int) -> _Number:
    low, high = parameter.low or 0.0, 1.0 if parameter.high is None else parameter.high
    slider = gr.Slider(
        low, high, value=initial(parameter) or low, step=parameter.step, label=parameter.name, visible=False,
        min_width=150,
    )  # fmt: skip
    boxes = tuple(
        gr.Textbox(label=parameter.name, visible=False, max_lines=1, min_width=150) for _ in range(texts)
    )
    return _Number(slider, boxes)


def _union(wanted: Callable[[Parameter], bool]) -> list[Parameter]:
    """One parameter of each name and kind, over all methods."""
    found = {_key(p): p for method in METHODS.values() for p in method.parameters if wanted(p)}
    return list(found.values())


def _key(parameter: Parameter) -> tuple[str, str]:
    return parameter.name, "number" if parameter.kind == "integer" else parameter.kind


def _parts(fields: Any) -> list[Component]:
    return [component for widget in fields for component in widget.components]


def needs_typing(state: FormState) -> bool:
    """Whether a value of the state (a gradient, a filter) is more than a slider can show."""
    for parameter in state.merge_method.parameters:
        holders = [model.settings for model in state.models] if parameter.per_model else [state.settings]
        if any(
            name == parameter.name and not is_plain(parameter, s) for h in holders for name, s in h.items()
        ):
            return True
    return False


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
