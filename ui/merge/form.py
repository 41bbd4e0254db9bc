"""The form that writes recipes: rows of models, a method, and the fields that the method declares.

Gradio's fields are made once, for every parameter of every method, and shown or hidden: rows made again by
`gr.render` were seen to submit the value of a removed row.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr
from gradio.components import Component
from markupsafe import Markup

from checkpoints.dtypes import RECIPE_DTYPES
from checkpoints.problems import Place
from checkpoints.yaml import YamlError, compose
from merging import Problem
from merging.methods import METHODS, MergeMethod, Parameter
from merging.recipe.edits import place_of, read_name
from merging.recipe.fixes import CommonBase
from ui.languages.translate import in_each_language, method_summary, parameter_help, t
from ui.merge.curve_editor import curve_editor
from ui.merge.versions import Versions
from ui.recipe.form_state import (
    MAX_MODELS,
    FormState,
    ModelEntry,
    OtherMethods,
    Setting,
    by_tensor,
    field_setting,
    field_text,
    for_method,
    is_plain,
    split_by_tensor,
)
from ui.widgets.events import Given, Updates
from ui.widgets.html import html, link, sentences, tag

METHOD, BASE, PARAMETERS, DTYPE = "method", "base", "parameters", "dtype"
# What a model is for under a method whose models differ, by the number of its row; others are numbered.
_ROLES = {
    ("chat_vector", 0): "role.target", ("chat_vector", 1): "role.giver", ("nearswap", 0): "role.swapped",
    ("arcee_fusion", 0): "role.stays", ("arcee_fusion", 1): "role.fused", ("passthrough", 0): "role.copied",
}  # fmt: skip
# What the base is for where the models were not fine-tuned from it.
_BASES = {"nearswap": "role.stays"}
# What a value says of a model.
_HINTS = {("slerp", 0): "role.at_zero", ("slerp", 1): "role.at_one"}


@dataclass(frozen=True)
class FormMemory:
    """What the form knows besides its fields.

    Args:
        state: as last shown or collected; holds what has no field
        rows: how many model rows are visible
        held: the YAML cannot be shown in the form, which must not overwrite it
        texts: by a text field's id, its text when it was last shown or collected; a field that is not here is unknown
        others: what the form held under the methods that were chosen before
        text: the YAML as it was last shown, typed or written
        undo: the YAML before the page rewrote it; empty if there is nothing to undo
        typed: whether the fields show values to type, not sliders
        version: number of the answer that wrote the YAML last
        versions: that this page's answers are numbered by
    """

    state: FormState
    rows: int = 2
    held: bool = False
    texts: Mapping[int, str | None] = field(default_factory=dict)
    others: OtherMethods = field(default_factory=OtherMethods)
    text: str = ""
    undo: str = ""
    typed: bool = False
    version: int = 0
    versions: Versions = field(default_factory=Versions)

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

    def collect(self, values: Given, typed: bool) -> Setting:
        if not typed:
            return _rounded(values[self.slider])
        typed_in = [field_setting(str(values[text] or "")) for text in self.texts]
        return by_tensor(*typed_in) if len(typed_in) > 1 else typed_in[0]

    def show(
        self,
        method: MergeMethod,
        parameter: Parameter | None,
        setting: Setting,
        typed: bool,
        explained: bool = True,
    ) -> Updates:
        if parameter is None:
            return {component: gr.update(visible=False) for component in self.components}
        info = parameter_help(method, parameter) if explained else None
        typed = typed or parameter.optional  # a slider cannot say "not set"
        slider: dict[str, Any] = {"minimum": parameter.low, "maximum": parameter.high, "step": parameter.step}
        if is_plain(parameter, setting):
            slider["value"] = setting
        updates: Updates = {
            self.slider: gr.update(label=parameter.name, info=info, visible=not typed, **slider)
        }
        several = len(self.texts) > 1
        parts = split_by_tensor(setting) if several else (setting,)
        name = parameter.name
        labels = (
            [t(f"recipe.{part}", name=name) for part in ("rest", "attention", "mlp")] if several else [name]
        )
        for i, (text, label, part) in enumerate(zip(self.texts, labels, parts, strict=True)):
            updates[text] = gr.update(
                label=label,
                info=info if i == 0 else None,
                placeholder=t("recipe.filter.empty") if i else None,
                visible=typed,
                value=field_text(part),
            )
        return updates


@dataclass(frozen=True)
class _Plain:
    """A switch or a menu."""

    component: gr.Checkbox | gr.Dropdown

    @property
    def components(self) -> list[Component]:
        return [self.component]

    def collect(self, values: Given, typed: bool) -> Setting:
        return values[self.component]

    def show(
        self, method: MergeMethod, parameter: Parameter | None, setting: Setting, typed: bool
    ) -> Updates:
        if parameter is None:
            return {self.component: gr.update(visible=False)}
        choices: dict[str, Any] = {"choices": list(parameter.choices)} if parameter.choices else {}
        info = parameter_help(method, parameter)
        return {
            self.component: gr.update(label=parameter.name, info=info, visible=True, value=setting, **choices)
        }


Field = _Number | _Plain


@dataclass(frozen=True)
class ModelFields:
    """The fields of one model; `info` is said below its name where the method has nothing better to say."""

    group: gr.Group
    model: gr.Dropdown
    remove: gr.Button
    fields: dict[str, _Number]
    note: gr.HTML
    info: str | None

    @property
    def values(self) -> list[Component]:
        return [self.model, *_components(self.fields.values())]

    def show(
        self,
        number: int,
        entry: ModelEntry,
        method: MergeMethod,
        *,
        typed: bool,
        visible: bool,
        removable: bool,
    ) -> Updates:
        hint = _HINTS.get((method.name, number))
        label = t(_role(method, number), number=number + 1)
        updates: Updates = {
            self.group: gr.update(visible=visible),
            self.remove: gr.update(visible=removable),
            self.model: gr.update(
                value=entry.name or None, label=label, info=t(hint) if hint else self.info or ""
            ),
        }
        own = {parameter.name: parameter for parameter in method.parameters if parameter.per_model}
        for name, number_field in self.fields.items():
            parameter = own.get(name)
            setting = entry.settings.get(name, parameter and parameter.initial)
            updates |= number_field.show(method, parameter, setting, typed, explained=number == 0)
        return updates


def _role(method: MergeMethod, number: int) -> str:
    """The key of what a model is called by the number of its row: by what it is for, as far as models differ."""
    if number == 0 and method.base == "first" and (method.name, 0) not in _ROLES:
        return "recipe.model.base"
    usual = "role.fine_tune" if method.base == "subtracted" else "recipe.model"
    return _ROLES.get((method.name, number), usual)


@dataclass
class RecipeForm:
    """The fields, and the two ways between them and a form state. Given and updates go by component."""

    method: gr.Dropdown
    about: gr.HTML
    base: gr.Dropdown
    rows: list[ModelFields]
    add: gr.Button
    curves: gr.HTML  # what is drawn there is written into the recipe, and not collected
    typed: gr.Checkbox
    fields: dict[tuple[str, str], Field]
    dtype: gr.Dropdown
    notes: dict[
        str, gr.HTML
    ]  # for problems, below the field that causes them; those of the rows are in the rows
    version: gr.Number  # in the browser: of the memory whose values the fields show
    again: gr.Number  # in the browser: how often it was asked to send the fields again
    memory: gr.State = field(default_factory=lambda: gr.State(FormMemory(FormState(next(iter(METHODS))))))

    @property
    def values(self) -> list[Any]:
        """Every field whose value counts."""
        fields = [self.method, self.base, self.typed, self.dtype]
        return [
            *fields,
            *(part for row in self.rows for part in row.values),
            *_components(self.fields.values()),
        ]

    @property
    def inputs(self) -> set[Any]:
        """What `collect` needs the values of."""
        return {self.memory, self.version, self.again, *self.values}

    @property
    def outputs(self) -> list[Any]:
        """What `show` may update."""
        around = [self.memory, self.about, self.add]
        return [*around, *(part for row in self.rows for part in (row.group, row.remove)), *self.values]

    @property
    def model_fields(self) -> list[gr.Dropdown]:
        return [self.base, *(row.model for row in self.rows)]

    @property
    def text_fields(self) -> list[gr.Textbox]:
        return [component for component in self.values if isinstance(component, gr.Textbox)]

    @property
    def note_fields(self) -> list[gr.HTML]:
        return list(self._notes.values())

    @property
    def _notes(self) -> dict[str | int, gr.HTML]:
        """By the spot that `spot_of` names."""
        rows: dict[str | int, gr.HTML] = {number: row.note for number, row in enumerate(self.rows)}
        return rows | self.notes

    def note_updates(self, state: FormState, recipe: str, problems: Sequence[Problem]) -> Updates:
        """Each problem below the field that causes it, if there is one."""
        found: dict[str | int, list[Problem]] = {}
        for problem in problems:
            spot = spot_of(state, recipe, problem.where)
            if spot is not None:
                found.setdefault(spot, []).append(problem)
        return {
            note: gr.update(value=_note(found.get(spot, ())), visible=spot in found)
            for spot, note in self._notes.items()
        }

    def is_current(self, values: Given, text: str) -> bool:
        """Whether an event's fields show the recipe as it was last written or typed; `text` is in the editor."""
        memory: FormMemory = values[self.memory]
        return values[self.version] == memory.version and as_shown(text).strip() == memory.text.strip()

    def texts(self, values: Given) -> dict[int, str]:
        """The text in each text field, by the field's id."""
        return {component._id: str(values[component] or "") for component in self.text_fields}

    def was_typed(self, component: gr.Textbox, values: Given) -> bool:
        """Whether a person, and not `show`, changed this text field.

        Only this one: while Gradio draws fields that were hidden, the others still have their old values.
        """
        before = values[self.memory].texts.get(component._id)
        return before is not None and before != str(values[component] or "")

    def collect(self, values: Given, method: MergeMethod | None = None, rows: int = 0) -> FormState:
        """The state that the fields hold.

        Args:
            values: of `inputs`
            method: that the fields were shown for; None: the one that is chosen
            rows: keep at least this many rows, even if the last ones name no model
        """
        before: FormState = values[self.memory].state
        method = method or METHODS[values[self.method]]
        names = [str(values[row.model] or "").strip() for row in self.rows]
        # Hidden rows are empty, so the number of visible ones is not needed.
        count = max([rows, *(i + 1 for i, name in enumerate(names) if name)])
        entries = [*before.models, *(ModelEntry(),) * MAX_MODELS]
        own = [parameter for parameter in method.parameters if parameter.per_model]
        models = tuple(
            ModelEntry(
                name, self._settings(values, method, [(p, row.fields[p.name]) for p in own], entry.settings)
            )
            for name, row, entry in zip(names[:count], self.rows, entries, strict=False)
        )
        shared = [(p, self.fields[_key(p)]) for p in method.parameters if not p.per_model]
        return replace(
            before,
            method=method.name,
            models=models,
            base=str(values[self.base] or "").strip() if method.may_subtract else "",
            settings=self._settings(values, method, shared, before.settings),
            dtype=str(values[self.dtype] or ""),
        )

    def _settings(
        self,
        values: Given,
        method: MergeMethod,
        fields: Iterable[tuple[Parameter, Field]],
        before: Mapping[str, Setting],
    ) -> dict[str, Setting]:
        """What these fields say beyond the defaults, and what the YAML said that no field holds."""
        settings = {}
        for parameter, widget in fields:
            setting = widget.collect(values, bool(values[self.typed]) or parameter.optional)
            if setting is not None and (parameter.required or setting != parameter.default):
                settings[parameter.name] = setting
        # Settings without a field are kept; the plan may refuse them.
        return settings | {name: value for name, value in before.items() if method.parameter(name) is None}

    def show(self, state: FormState, *, typed: bool | None = None, values: Given | None = None) -> Updates:
        """Make the fields hold a state.

        Args:
            typed: whether values are typed instead of set by sliders; None: only if a slider cannot show one
            values: that the fields have already; these are left alone, so that nothing overwrites what the visitor
                types while the answer is on its way
        """
        method = state.merge_method
        if typed is None:
            typed = needs_typing(state)
        least = max(method.min_models, 1 if method.max_models == 1 else 2)
        count = min(max(len(state.models), least), MAX_MODELS)
        most = min(MAX_MODELS, method.max_models or MAX_MODELS)
        updates: Updates = {
            self.about: in_each_language(lambda: method_text(method)),
            self.add: gr.update(visible=count < most),
            self.method: method.name,
            self.base: gr.update(
                value=state.base or None,
                visible=method.may_subtract,
                label=t(_BASES.get(method.name, "recipe.base")),
            ),
            self.typed: typed,
            self.dtype: state.dtype,
        }
        entries = [*state.models, *(ModelEntry() for _ in range(MAX_MODELS - len(state.models)))]
        for i, (row, entry) in enumerate(zip(self.rows, entries, strict=True)):
            updates |= row.show(i, entry, method, typed=typed, visible=i < count, removable=count > least)
        for key, widget in self.fields.items():
            shared = next((p for p in method.parameters if not p.per_model and _key(p) == key), None)
            setting = state.settings.get(key[0], shared and shared.initial)
            updates |= widget.show(method, shared, setting, typed)
        texts = {text._id: updates[text].get("value") for text in self.text_fields}
        updates[self.memory] = FormMemory(state, count, texts=texts, typed=typed)
        return updates if values is None else self._without_known(updates, values)

    def _without_known(self, updates: Updates, values: Given) -> Updates:
        """The updates without values that the fields have already."""
        left = dict(updates)
        for component in self.values:
            update, value = updates[component], values[component]
            if not isinstance(update, dict):
                if update == value:
                    del left[component]
            elif "value" in update and (update["value"] or None) == (value or None):
                left[component] = {key: part for key, part in update.items() if key != "value"}
        return left

    def after_method(self, values: Given, common_base: CommonBase) -> tuple[FormState, OtherMethods]:
        """The state after another method was chosen, see `for_method`."""
        memory: FormMemory = values[self.memory]
        before = self.collect(values, memory.state.merge_method)
        return for_method(before, METHODS[values[self.method]], common_base, memory.others)

    def after_typing_switch(self, values: Given) -> FormState:
        """The state before the switch, which says how to read the fields, was flipped."""
        before = {**values, self.typed: not values[self.typed]}
        return self.collect(before, rows=values[self.memory].rows)

    def without_row(self, index: int, values: Given) -> FormState:
        """The state after a row was removed."""
        state = self.collect(values, rows=values[self.memory].rows)
        return replace(state, models=state.models[:index] + state.models[index + 1 :])

    def with_row(self, values: Given) -> FormState:
        """The state after an empty row was added."""
        state = self.collect(values, rows=values[self.memory].rows)
        return replace(state, models=(*state.models, ModelEntry()))


def as_shown(text: str) -> str:
    """A text as the editor shows it: Gradio strips what it is sent, which must not leave the other lines indented."""
    return textwrap.dedent(text).lstrip()


def build_form(known: Sequence[str], allow_folders: bool) -> RecipeForm:
    """Make the form's fields where the page is being built.

    Args:
        known: models to offer before anything is typed
        allow_folders: say that a folder of this machine will do as well
    """
    info = t("recipe.model.folder" if allow_folders else "recipe.model.info")
    methods = [(method.title, name) for name, method in METHODS.items()]
    method = gr.Dropdown(methods, label=t("recipe.method"), filterable=True)
    about = gr.HTML()
    notes = {METHOD: gr.HTML(visible=False)}
    base = _model_field(known, t("recipe.base"), t("recipe.base.info"))
    notes[BASE] = gr.HTML(visible=False)
    rows = [_model_row(number, known, info) for number in range(MAX_MODELS)]
    add = gr.Button(t("recipe.add"), size="sm")
    shared_parameters = _union(lambda p: not p.per_model)
    with gr.Row():
        shared = {_key(p): _field(p) for p in shared_parameters if p.kind != "bool"}
    # Not in the row: beside other fields Gradio squeezes a checkbox into one syllable a line.
    shared |= {_key(p): _field(p) for p in shared_parameters if p.kind == "bool"}
    notes[PARAMETERS] = gr.HTML(visible=False)
    curves = curve_editor()
    typed = gr.Checkbox(label=t("recipe.typed"), info=t("recipe.typed.info"))
    dtypes = [(t("recipe.dtype.stored"), ""), *((name, name) for name in RECIPE_DTYPES)]
    dtype = gr.Dropdown(dtypes, value="", label=t("recipe.dtype"))
    notes[DTYPE] = gr.HTML(visible=False)
    version, again = (
        gr.Number(0, label=t(key), visible=False, precision=0) for key in ("recipe.version", "recipe.again")
    )
    return RecipeForm(method, about, base, rows, add, curves, typed, shared, dtype, notes, version, again)


def _model_row(number: int, known: Sequence[str], info: str) -> ModelFields:
    with gr.Group(visible=number < 2, elem_classes="alloy-model") as group:
        with gr.Row(equal_height=False):
            label = t("recipe.model", number=number + 1)
            model = _model_field(known, label, info if number == 0 else None)
            remove = gr.Button(t("recipe.remove"), size="sm", scale=0, elem_id=f"remove-model-{number + 1}")
        with gr.Row():
            fields = {p.name: _number(p, texts=1) for p in _union(lambda p: p.per_model)}
        note = gr.HTML(visible=False)
    return ModelFields(group, model, remove, fields, note, info if number == 0 else None)


def _model_field(known: Sequence[str], label: str, info: str | None) -> gr.Dropdown:
    return gr.Dropdown(
        list(known), value=None, label=label, info=info, allow_custom_value=True, min_width=220, scale=8
    )


def method_text(method: MergeMethod) -> Markup:
    """What a method does, in a line, with its source."""
    paper = [" ", link(method.paper, t("recipe.paper"))] if method.paper else None
    return tag.div(method_summary(method), paper, class_="alloy-method")


def spot_of(state: FormState, recipe: str, where: Place | str) -> str | int | None:
    """The field that a problem's place in the recipe belongs to: a name in `RecipeForm.notes`, or a row's number."""
    try:
        tree = compose(recipe)
    except YamlError:
        return None
    path = place_of(tree, where)
    match path:
        case None:
            named = str(where)  # some problems of the plan name the model
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


def _note(problems: Sequence[Problem]) -> Markup:
    lines = dict.fromkeys(map(sentences, problems))
    return html(tag.p(line, class_="alloy-trouble") for line in lines)


def _field(parameter: Parameter) -> Field:
    if parameter.kind == "bool":
        return _Plain(gr.Checkbox(label=parameter.name, visible=False))
    if parameter.kind == "choice":
        return _Plain(gr.Dropdown(list(parameter.choices), label=parameter.name, visible=False))
    return _number(parameter, texts=3)


def _number(parameter: Parameter, texts: int) -> _Number:
    low, high = parameter.low or 0.0, 1.0 if parameter.high is None else parameter.high
    slider = gr.Slider(
        low, high, value=parameter.initial or low, step=parameter.step, label=parameter.name, visible=False,
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


def _components(fields: Iterable[Field]) -> list[Component]:
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
