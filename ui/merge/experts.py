"""The fields of a mixture of experts: a model and its prompts for each expert, and where prompts would go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from checkpoints import Token
from checkpoints.problems import ProblemError
from merging import Cancelled, Plan, Problem, Routing
from merging.plan import Prompt
from merging.planning.parameters_by_layer import last_part
from merging.prompt_routing import read_prompts_apart, route_planned
from merging.recipe.mixture import GATE_MODES
from ui.host import Host
from ui.hub.account import account, visitor
from ui.languages.translate import in_each_language, t
from ui.merge.form import RecipeForm
from ui.merge.special_form import SpecialForm
from ui.recipe import mixture_state
from ui.recipe.mixture_state import MAX_EXPERTS, MOST_PER_TOKEN, ExpertEntry, MixtureState
from ui.server.internal_error import log_unexpected
from ui.server.merge_service import MergeService
from ui.server.model_process import MODELS
from ui.server.work import watched
from ui.widgets.events import LONG, QUIET, Given, Updates
from ui.widgets.html import (
    column,
    figure,
    html,
    problem_list,
    quiet,
    scrolling,
    status,
    table,
    table_row,
    tag,
    trouble,
)

SHOWN = 60  # characters of a prompt


@dataclass(frozen=True)
class ExpertFields:
    """The fields of one expert."""

    group: gr.Group
    model: gr.Dropdown
    prompts: gr.Textbox


class ExpertsForm(SpecialForm[MixtureState]):
    """The fields, made inside the page's Blocks."""

    def __init__(self, host: Host, known: tuple[str, ...]) -> None:
        self.host = host
        with gr.Column(visible=False, elem_classes="alloy-fields") as self.column:
            gr.HTML(in_each_language(lambda: quiet(t("experts.about"))))
            self.base = self._model(known, t("experts.base"))
            with gr.Row():
                self.mode = gr.Dropdown(
                    list(GATE_MODES), label=t("experts.mode"), info=t("experts.mode.info")
                )
                self.per_token = gr.Slider(
                    1, MOST_PER_TOKEN, value=2, step=1, label=t("experts.per_token"), min_width=150
                )
            self.rows = [self._row(number, known) for number in range(MAX_EXPERTS)]
            self.add = gr.Button(t("experts.add"), size="sm")
            self.tried = gr.Textbox(label=t("experts.tried"), info=t("experts.tried.info"), lines=1)
            self.route = gr.Button(t("experts.route"), size="sm")
            self.routing = gr.HTML()
        self.shown = gr.State(None)

    def _row(self, number: int, known: tuple[str, ...]) -> ExpertFields:
        with gr.Group(elem_classes="alloy-model") as group:
            model = self._model(known, t("experts.model", number=number))
            prompts = gr.Textbox(
                label=t("experts.prompts", number=number), info=t("experts.prompts.info"), lines=2
            )
        return ExpertFields(group, model, prompts)

    @staticmethod
    def _model(known: tuple[str, ...], label: str) -> gr.Dropdown:
        return gr.Dropdown(list(known), value=None, label=label, allow_custom_value=True, min_width=220)

    @property
    def model_fields(self) -> list[gr.Dropdown]:
        return [self.base, *(row.model for row in self.rows)]

    @property
    def values(self) -> list[Any]:
        """Every field whose value counts."""
        fields: list[Any] = [self.base, self.mode, self.per_token]
        return fields + [part for row in self.rows for part in (row.model, row.prompts)]

    @property
    def outputs(self) -> list[Any]:
        return [self.column, self.shown, self.add, *(row.group for row in self.rows), *self.values]

    def wire(self, yaml: gr.Code, form: RecipeForm, service: MergeService) -> None:
        super().wire(yaml, form, service)
        fields = {self.shown, yaml, form.memory, *self.values}
        self.add.click(self._added, fields, self.outputs, **QUIET)
        self.route.click(
            self._router(service), [yaml, self.tried], self.routing, show_progress_on=self.routing, **LONG
        )

    # -- between fields and state ----------------------------------------------------------------------

    def show(self, state: MixtureState) -> Updates:
        """Make the fields hold a state, and show them."""
        count = max(len(state.experts), 2)
        entries = [*state.experts, *(ExpertEntry() for _ in range(MAX_EXPERTS))]
        updates: Updates = {
            self.column: gr.update(visible=True),
            self.shown: state,
            self.add: gr.update(visible=count < MAX_EXPERTS),
            self.base: gr.update(value=state.base or None),
            self.mode: state.mode,
            self.per_token: state.per_token,
        }
        for number, (row, entry) in enumerate(zip(self.rows, entries, strict=False)):
            updates[row.group] = gr.update(visible=number < count)
            updates[row.model] = gr.update(value=entry.model or None)
            updates[row.prompts] = entry.prompts
        return updates

    def collect(self, values: Given) -> MixtureState:
        """The state that the fields hold."""
        before: MixtureState = values[self.shown] or MixtureState()
        entries = [*before.experts, *(ExpertEntry() for _ in range(MAX_EXPERTS))]
        experts = [
            ExpertEntry(str(values[row.model] or "").strip(), str(values[row.prompts] or ""), entry.extra)
            for row, entry in zip(self.rows, entries, strict=False)
        ]
        while experts and not experts[-1].model and not experts[-1].prompts:
            experts.pop()
        base, mode = str(values[self.base] or "").strip(), str(values[self.mode])
        return MixtureState(base, mode, int(values[self.per_token]), tuple(experts), before.extra)

    def read(self, text: str) -> MixtureState | None:
        return mixture_state.read(text) if mixture_state.is_mixture(text) else None

    def rewritten(self, text: str, state: MixtureState) -> str:
        return mixture_state.rewritten(text, state)

    def same(self, one: MixtureState, other: MixtureState) -> bool:
        return mixture_state.write(one) == mixture_state.write(other)

    def _added(self, values: Given) -> Updates:
        state = self.collect(values)
        visible = max(len(state.experts), 2) + 1
        updates: Updates = {
            row.group: gr.update(visible=number < visible) for number, row in enumerate(self.rows)
        }
        return {**updates, self.add: gr.update(visible=visible < MAX_EXPERTS)}

    # -- where prompts go ------------------------------------------------------------------------------

    def _router(self, service: MergeService) -> Callable[..., Iterator[Markup]]:
        def find_out(
            text: str, tried: str, request: gr.Request, oauth: gr.OAuthToken | None
        ) -> Iterator[Markup]:
            who = account(self.host, oauth)
            plan = service.plan(text, None, who, visitor(who, request))
            if not plan.ok:
                yield html(map(trouble, plan.problems))
                return
            yield status(t("experts.reading"))
            texts = [tried.strip()] if tried.strip() else []
            try:
                prompts = read_prompts_apart(plan, texts, who.for_hub) if texts else []
                with closing(MODELS.stream(routed, plan, prompts, who.for_hub)) as reading:
                    for news in reading:
                        yield (
                            routing_card(news) if isinstance(news, Routing) else status(t("experts.reading"))
                        )
            except ProblemError as error:
                yield html(map(trouble, error.problems))
            except Exception as error:
                problem = Problem("defect", {"error": log_unexpected(error, who.token)})
                yield html(trouble(problem))

        return find_out


def routed(plan: Plan, prompts: list[Prompt], token: Token) -> Iterator[Routing | None]:
    """Find out where prompts go, in the process that runs models; yields the answer in the end."""

    def find_out(_: Callable[[Any], None], cancel: threading.Event) -> Routing:
        def check() -> None:
            if cancel.is_set():
                raise Cancelled

        return route_planned(plan, prompts, token=token, check=check)

    return watched(find_out)


def routing_card(routing: Routing) -> Markup:
    """Which expert each prompt would reach: what each gets of it, and what makes the routers useless."""
    columns = [
        column(t("experts.table.prompt")),
        *(column(last_part(expert), of_figures=True) for expert in routing.experts),
        column(t("experts.table.reaches")),
    ]
    rows = []
    for prompt in routing.prompts:
        right = prompt.expert in (None, prompt.reached)
        reached = last_part(routing.experts[prompt.reached])
        weights = [figure(f"{weight:.2f}") for weight in prompt.weights]
        verdict = tag.td(reached, class_=None if right else "alloy-heed")
        rows.append(table_row(prompt.text[:SHOWN], weights, verdict))
    warnings = problem_list(routing.warnings) if routing.warnings else None
    meaning = t("experts.table.meaning", chance=f"{1 / len(routing.experts):.2f}")
    return html(scrolling(table(columns, rows), focusable=True), quiet(meaning), warnings)
