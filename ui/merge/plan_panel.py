"""The plan of the recipe on the page, made again whenever the recipe or its destination changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from checkpoints.repositories.repository import HUB_SCHEME
from evaluation import EvaluationError
from merging import METHODS, MergeError, Plan, Problem
from merging.planning.confined_fixes import confined_offers
from ui.host import Host
from ui.hub.account import Account, account, visitor
from ui.languages.translate import in_each_language, t
from ui.merge.action_bar import ActionBar, plan_line, problems_line
from ui.merge.destination import HUB, NO_OWNER, REFUSE, REVISION, DestinationChoice
from ui.merge.destination_panel import DestinationPanel
from ui.merge.editor import RecipeEditor
from ui.merge.form import FormMemory
from ui.merge.gguf_panel import GgufPanel
from ui.merge.layers_card import layers_card
from ui.merge.naming import default_name, named, numbered, recipe_or_none
from ui.merge.plan_card import Surroundings, no_plan_card, plan_card, problems_card
from ui.merge.similarity import similarity
from ui.recipe.presets import family
from ui.recipe.quick_fixes import QuickFix, quick_fixes
from ui.rented.panel import RentPanel, needs_of
from ui.server import gpu
from ui.server.merge_service import MergeService, exists
from ui.widgets.events import PLANNING, QUIET, UNSEEN, Given, Updates, unchanged
from ui.widgets.html import html, quiet, status, trouble

MAX_FIXES = 4


class PlanPanel:
    """The plan's card, the fixes that it offers, and what can be seen of the models: below the editor's text.

    Attributes:
        card: the plan, or what is wrong with it
    """

    def __init__(self, service: MergeService, editor: RecipeEditor) -> None:
        self.service = service
        self.host: Host = service.host
        self.editor = editor
        self._newest: dict[str, object] = {}  # by page: the plan that was asked for last
        with editor.beside:
            gr.HTML(in_each_language(lambda: quiet(t("plan.checking"))), elem_classes="alloy-checking")
            self.card = gr.HTML(in_each_language(no_plan_card), elem_classes="alloy-plan")
            with gr.Row(elem_classes="alloy-fixes"):
                self.fixes = [gr.Button(visible=False, size="sm", min_width=160) for _ in range(MAX_FIXES)]
            with gr.Accordion(t("layers.heading"), open=False):
                self.layers = gr.HTML()
            with gr.Accordion(t("alike.heading"), open=False):
                self.compare = gr.Button(t("alike.button"), size="sm")
                self.alike = gr.HTML(in_each_language(_about_similarity))
            self.offered = gr.State(())  # the fixes on the buttons

    def wire(self, destination: DestinationPanel, gguf: GgufPanel, rented: RentPanel, bar: ActionBar) -> None:
        """Add the events.

        Args:
            destination: the plan says whether the result may go there
            gguf: the plan says how large its files are
            rented: the plan says what a rented machine would need
            bar: says the plan in a line
        """
        self.destination, self.gguf, self.rented, self.bar = destination, gguf, rented, bar
        yaml, memory = self.editor.yaml, self.editor.form.memory
        inputs: set[Any] = {yaml, memory, *destination.inputs}
        outputs = [
            self.card, bar.state, destination.name, self.layers, self.offered, gguf.types, rented.needs, *self.fixes,
            *self.editor.form.note_fields,
        ]  # fmt: skip
        gr.on(
            [yaml.change, *destination.changes], self._plan, inputs, outputs,
            trigger_mode="always_last", show_progress="minimal", show_progress_on=self.card, **PLANNING,
        )  # fmt: skip
        self.editor.check.click(self._plan, inputs, outputs, show_progress_on=self.card, **PLANNING)
        for number, button in enumerate(self.fixes):
            button.click(
                self._fixer(number), [self.offered, memory],
                [*self.editor.outputs, destination.name, destination.existing], **QUIET,
            ).then(self._plan, inputs, outputs, show_progress="hidden", **PLANNING)  # fmt: skip
        self.compare.click(
            self._compare, yaml, self.alike, concurrency_limit=2, trigger_mode="once", **UNSEEN
        )
        yaml.change(_about_similarity, None, self.alike, **QUIET)

    def named(
        self, text: str, choice: DestinationChoice, who: Account, planned: Callable[[str], Plan]
    ) -> tuple[str, Plan]:
        """The result's name, chosen or suggested, and its plan."""

        def is_taken(called: str) -> bool:
            return self.service.is_taken(choice.location(self.host, called), who)

        return named(text, choice.name, planned, is_taken)

    def plan(
        self, text: str, choice: DestinationChoice, who: Account, turn: str, location: str | None
    ) -> Plan:
        """The plan of a merge into a location; None, and a download, are not checked.

        Args:
            turn: see `visitor`
        """
        to = None if choice.is_download else location
        return self.service.plan(text, to, who, turn, **choice.for_existing)

    def _plan(self, values: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
        page, mine = str(request.session_hash), object()
        self._newest[page] = mine
        text, choice, who = (
            values[self.editor.yaml],
            self.destination.choice(values),
            account(self.host, oauth),
        )
        turn = visitor(who, request)
        called, plan = self.named(
            text,
            choice,
            who,
            lambda name: self.plan(text, choice, who, turn, self._location(choice, name)[0]),
        )
        location, problems = self._location(choice, called)
        other_names = self._other_names(text, choice, who) if choice.name and exists(plan.problems) else ()
        reported = [*plan.problems, *problems]
        updates = {
            self.bar.state: problems_line(reported) if reported else plan_line(plan, choice, location),
            **self._shown(
                plan,
                reported,
                text,
                called,
                values[self.editor.form.memory],
                who,
                other_names,
            ),
            self.gguf.types: self.gguf.sizes(plan),
            self.rented.needs: needs_of(plan),
            self.destination.name: _name_field(text, choice, called, location if plan.ok else None),
        }
        if self._newest.get(page) is not mine:
            # Two events that begin at one moment run side by side, whatever their mode: the older may come last.
            return unchanged()
        del self._newest[page]
        return updates

    def _location(self, choice: DestinationChoice, name: str) -> tuple[str | None, Sequence[Problem]]:
        """Where the result goes, or why that is not allowed."""
        try:
            return choice.location(self.host, name), ()
        except MergeError as error:
            # A plan needs no account; the Merge button asks for one.
            return None, [problem for problem in error.problems if problem.code not in NO_OWNER]

    def _shown(
        self,
        plan: Plan,
        problems: Sequence[Problem],
        text: str,
        called: str,
        memory: FormMemory,
        who: Account,
        other_names: Sequence[QuickFix],
    ) -> Updates:
        parents = self.service.cards.parents(plan, who.for_hub)
        around = Surroundings(parents, called, self.host.on_space, gpu.is_zero_gpu())
        reported = [*problems, *plan.warnings]
        of_recipe = quick_fixes(text, confined_offers(text, reported, who.for_hub)) if reported else ()
        offered = (*other_names, *of_recipe)[:MAX_FIXES]
        buttons: Updates = dict.fromkeys(self.fixes, gr.update(visible=False))
        for button, fix in zip(self.fixes, offered, strict=False):
            buttons[button] = gr.update(value=fix.title, visible=True)
        return {
            self.card: problems_card(problems, self._lacking(problems))
            if problems
            else plan_card(plan, around),
            self.layers: layers_card(plan, recipe_or_none(text) if plan.ok else None),
            self.offered: offered,
            **buttons,
            **self.editor.form.note_updates(memory.state, text, problems),
        }

    def _lacking(self, problems: Sequence[Problem]) -> str:
        """That the Hub has none of the models that the page's recipes name, which is no fault of the recipe's."""
        lacking = [problem.values for problem in problems if problem.code == "model-not-found"]
        examples = {str(values["model"]).partition("@")[0] for values in lacking}
        if not examples or not examples <= {*family(self.host.demo).models}:
            return ""
        return t("plan.no_examples", host=lacking[0]["host"])

    def _other_names(self, text: str, choice: DestinationChoice, who: Account) -> tuple[QuickFix, ...]:
        """What can be done about a chosen name that is taken: another one, or a new commit of the model there."""
        names = numbered(choice.name.strip())
        free = next(
            (name for name in names if not self.service.is_taken(choice.location(self.host, name), who)), ""
        )
        another = (QuickFix(t("fix.name", name=free), text, name=free),) if free else ()
        return (*another, QuickFix(t("fix.replace"), text, existing=REVISION))

    def _fixer(self, number: int) -> Callable[..., Updates]:
        def mend(offered: Sequence[QuickFix], memory: FormMemory) -> Updates:
            if number >= len(offered):
                return unchanged()
            fix = offered[number]
            if fix.name:
                return {self.destination.name: fix.name}
            if fix.existing:
                return {self.destination.existing: fix.existing}
            return self.editor.show(fix.recipe, memory, t("undo.fix", done=fix.title))

        return mend

    def _compare(self, text: str, request: gr.Request, oauth: gr.OAuthToken | None) -> Iterator[str]:
        who = account(self.host, oauth)
        plan, recipe = self.service.plan(text, None, who, visitor(who, request)), recipe_or_none(text)
        if not plan.ok or recipe is None:
            yield html(map(trouble, plan.problems))
            return
        base = recipe.base_model.name if recipe.base_model else None
        if not METHODS[plan.method].may_subtract:
            base = None
        try:
            yield from similarity(plan, base, who, self.host.allow_folders)
        except EvaluationError as error:
            yield html(map(trouble, error.problems))


def _name_field(text: str, choice: DestinationChoice, called: str, location: str | None) -> Any:
    """The suggested name, as a placeholder: it can never overwrite a name that the visitor is just typing."""
    info = t("destination.name.info")
    if choice.kind == HUB and choice.existing == REFUSE and location and location.startswith(HUB_SCHEME):
        info = f"{info} {t('destination.free', name=location.removeprefix(HUB_SCHEME))}"
    return gr.update(placeholder=called if called != choice.name else default_name(text), info=info)


def _about_similarity() -> str:
    return status(t("alike.info"))
