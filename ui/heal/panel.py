"""Below the plan of a recipe with one parent: which layers matter, cuts to take over, and training that repairs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Protocol

import gradio as gr

from checkpoints.problems import ProblemError
from healing.data import PYTHON_TOPICS
from merging import Recipe, read_recipe
from ui.heal.card import layers_found_card
from ui.heal.offer import USUAL_STEPS
from ui.host import Host
from ui.hub.account import account, visitor
from ui.languages.translate import in_each_language, t
from ui.rented.heal import needs_of
from ui.rented.panel import RentPanel
from ui.server.heals import HealService, LayersFound, chain_of
from ui.server.internal_error import log_unexpected
from ui.widgets.events import LONG, PLANNING, QUIET, Given, Updates, unchanged
from ui.widgets.html import html, note, quiet, status, trouble

# Cuts that have a button.
MOST_CUTS = 5


class Editor(Protocol):
    """The recipe's editor."""

    yaml: Any
    form: Any
    outputs: list[Any]

    def show(self, recipe: str, memory: Any, said: str) -> Updates:
        """Show a recipe."""


class HealPanel:
    """The fields, made inside the page's Blocks.

    Attributes:
        steps, data: of a training
        go: asks for one
        message: what is wrong with it
    """

    def __init__(self, host: Host, heals: HealService) -> None:
        self.host = host
        self.heals = heals
        with gr.Accordion(t("heal.heading"), open=False, elem_classes="alloy-heal") as self.box:
            gr.HTML(in_each_language(lambda: note(t("heal.meaning"))))
            with gr.Row(equal_height=True):
                self.drop = gr.Slider(1, 12, 4, step=1, label=t("heal.drop"), min_width=180)
                self.tries = gr.Slider(1, MOST_CUTS, 3, step=1, label=t("heal.tries"), min_width=180)
            self.measure = gr.Button(t("heal.measure"), size="sm")
            self.layers = gr.HTML()
            with gr.Row(elem_classes="alloy-fixes"):
                self.uses = [gr.Button(visible=False, size="sm", min_width=140) for _ in range(MOST_CUTS)]
            self.found = gr.State(None)
            with gr.Row(equal_height=True):
                self.steps = gr.Slider(
                    10,
                    200,
                    USUAL_STEPS,
                    step=10,
                    label=t("heal.steps"),
                    info=t("heal.steps.info"),
                    min_width=280,
                )
                self.data = gr.Dropdown(
                    [(t("heal.data.topics"), PYTHON_TOPICS)], value=PYTHON_TOPICS, label=t("heal.data"),
                    info=t("heal.data.info"), allow_custom_value=True, min_width=280,
                )  # fmt: skip
            with gr.Row():
                self.check = gr.Button(t("heal.plan"), size="sm")
                self.go = gr.Button(t("heal.button"), size="sm", variant="primary")
            self.message = gr.HTML()
            self.rented = RentPanel(host, "rent.button.heal", visible=host.rents)

    def wire(self, editor: Editor) -> None:
        """Add the events that stay in the panel."""
        self.editor = editor
        yaml = editor.yaml
        self.measure.click(
            self._measure_layers, {yaml, self.drop, self.tries}, [self.layers, self.found, *self.uses],
            concurrency_limit=2, **LONG,
        )  # fmt: skip
        for number, button in enumerate(self.uses):
            button.click(self._user(number), [self.found, editor.form.memory], editor.outputs, **QUIET)
        self.check.click(
            self._plan_training,
            {yaml, self.steps, self.data},
            self.message,
            show_progress_on=self.message,
            **PLANNING,
        )

        self.rented.wire()
        self.rented.box.expand(
            self._needs,
            {yaml, self.steps, self.data},
            [self.rented.needs, self.rented.message],
            **PLANNING,
        )

    def _needs(self, given: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
        """What the training takes of a rented machine."""
        who = account(self.host, oauth)
        try:
            needs = needs_of(self.heals, self.chain(given), who, visitor(who, request))
        except ProblemError as error:
            return {self.rented.needs: None, self.rented.message: html(map(trouble, error.problems))}
        return {self.rented.needs: needs, self.rented.message: ""}

    def chain(self, given: Given) -> str:
        """The recipe with its training."""
        return chain_of(
            given[self.editor.yaml],
            datasets=[str(given[self.data] or PYTHON_TOPICS)],
            steps=int(given[self.steps]),
        )

    def _plan_training(self, given: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> str:
        who = account(self.host, oauth)
        try:
            plan = self.heals.plan(self.chain(given), who, visitor(who, request))
        except ProblemError as error:
            return html(map(trouble, error.problems))
        if not plan.ok:
            return html(map(trouble, plan.problems))
        minutes = max(round(plan.seconds / 60), 1)
        words = t(
            "heal.planned", tokens=f"{plan.training.arguments.tokens:,}", minutes=minutes,
            memory=f"{plan.memory_bytes / 1e9:.1f}", documents=len(plan.judged),
            licences=", ".join(plan.licences.values()),
        )  # fmt: skip
        return status(words)

    def _measure_layers(self, given: Given, oauth: gr.OAuthToken | None) -> Iterator[Updates]:
        hidden: Updates = dict.fromkeys(self.uses, gr.update(visible=False))
        model = parent_of(given[self.editor.yaml])
        if model is None:
            yield {self.layers: quiet(t("heal.one_parent")), self.found: None, **hidden}
            return
        yield {self.layers: status(t("heal.measuring", model=model)), self.found: None, **hidden}
        who = account(self.host, oauth)
        try:
            with closing(
                self.heals.layers(model, int(given[self.drop]), int(given[self.tries]), who)
            ) as news:
                for found in news:
                    if found is not None:
                        yield self._shown(found)
        except ProblemError as error:
            yield {self.layers: html(map(trouble, error.problems))}
        except Exception as error:
            message = t("unexpected", error=log_unexpected(error, who.token))
            raise gr.Error(message, print_exception=False) from None

    def _shown(self, found: LayersFound) -> Updates:
        updates: Updates = {self.layers: layers_found_card(found), self.found: found}
        for button, cut in zip(self.uses, found.tried, strict=False):
            updates[button] = gr.update(value=t("heal.use", layers=cut.name), visible=True)
        return updates

    def _user(self, number: int) -> Callable[..., Updates]:
        """Takes over the recipe of a cut."""

        def use(found: LayersFound | None, memory: Any) -> Updates:
            if found is None or number >= len(found.tried):
                return unchanged()
            cut = found.tried[number]
            return self.editor.show(cut.recipe, memory, t("undo.cut", layers=cut.name))

        return use


def parent_of(text: str) -> str | None:
    """The only model of a recipe, as it names it; None if it has several, or cannot be read."""
    try:
        recipe: Recipe = read_recipe(text)
    except ProblemError:
        return None
    names = {str(reference) for reference in recipe.references()}
    return names.pop() if len(names) == 1 and not recipe.intermediates else None
