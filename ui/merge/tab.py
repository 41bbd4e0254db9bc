"""The Merge tab: the recipe, its plan, the destination, and the visitor's merges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.events import Dependency

from checkpoints.problems import ProblemError
from checkpoints.repositories.repository import HUB_SCHEME
from merging import MergeError, Plan
from merging.gguf.destination import SUFFIX
from ui.heal.offer import HealOffers, usual_chain
from ui.heal.panel import HealPanel
from ui.host import Host
from ui.hub.account import Account, account, visitor
from ui.hub.recipes import QUERY, recipe_of
from ui.hub.search import HubSearch
from ui.languages.translate import in_each_language, t
from ui.merge.action_bar import FORGET_OTHERS, SHOW_BEGUN, ActionBar, said_of
from ui.merge.commands import gguf_command, hf_job
from ui.merge.destination import PULL_REQUEST, REVISION, DestinationChoice
from ui.merge.destination_panel import DestinationPanel
from ui.merge.editor import RecipeEditor
from ui.merge.editor_script import MEND_COMPONENTS
from ui.merge.gguf_panel import USUAL, GgufPanel, shell
from ui.merge.history import record
from ui.merge.my_merges import MAX_REMEMBERED, MyMerges, remembered
from ui.merge.naming import default_name
from ui.merge.plan_card import problems_card
from ui.merge.plan_panel import PlanPanel
from ui.merge.start import build_start
from ui.merge.try_first import try_first
from ui.rented.heal import begin as begin_to_heal
from ui.rented.merge import begin
from ui.rented.panel import RentPanel
from ui.server.heals import HealService
from ui.server.in_memory_merges import TryRequest
from ui.server.jobs import MergeRequest
from ui.server.merge_service import MergeService
from ui.widgets.events import LONG, PLANNING, PRIVATE, QUIET, Given, Updates, unchanged
from ui.widgets.html import html, note, section, trouble

# So that a reload shows the recipe that the visitor was writing, and not the link again.
FORGET_QUERY = """() => {
  const address = new URL(window.location);
  if (!address.searchParams.has("recipe")) return;
  address.searchParams.delete("recipe");
  history.replaceState(null, "", address);
}"""


class MergeTab:
    """The tab: made inside the page's Blocks, and wired when the other tabs are there.

    Attributes:
        editor: the recipe
        mine: the visitor's merges
        tried: a state with the merge that the page has in memory, or None
        trial: the event after which it is there
        trying_it, merging_it: keyword arguments of an event that tries, or merges, the recipe that the tab shows
    """

    def __init__(self, host: Host, service: MergeService, search: HubSearch) -> None:
        self.host = host
        self.service = service
        self.start = build_start(host)
        self.editor = RecipeEditor(host, search)
        self.plan = PlanPanel(service, self.editor)
        with self.editor.beside:
            self.heal = HealPanel(host, HealService(service))
        self.destination = DestinationPanel(host)
        with self.destination.details:
            self.gguf = GgufPanel()
            self.rented = RentPanel(host)
        self.bar = ActionBar()
        gr.HTML(in_each_language(lambda: note(t("try.info"))))
        gr.HTML(in_each_language(lambda: section(t("jobs.heading"))), elem_classes="alloy-merges")
        self.mine = MyMerges(host, service, HealOffers(self.heal.heals, self.heal.rented))
        self.saved_recipe = gr.BrowserState("", storage_key="alloy-recipe", secret=host.browser_key)
        self.opened_link = gr.BrowserState("", storage_key="alloy-link", secret=host.browser_key)
        self.tried = gr.State(None)

    def wire(self, page: gr.Blocks, fields_to_try: Sequence[gr.Dropdown], tray: gr.HTML) -> None:
        """Add the events.

        Args:
            page: whose loading restores what the browser remembers
            fields_to_try: of the other tabs, that offer the newest result and its parents
            tray: see `MyMerges.wire`
        """
        editor, yaml = self.editor, self.editor.yaml
        self.start.wire(editor)
        editor.wire(self.service)
        self.plan.wire(self.destination, self.gguf, self.rented, self.bar)
        self.heal.wire(editor)
        self.destination.wire(page)
        self.mine.wire(page, fields_to_try, editor, tray)
        # In the browser: by way of the server, a page that is reloaded right after a change would lose it.
        yaml.change(None, yaml, self.saved_recipe, js="(text) => text", **PRIVATE)
        self.merging_it: dict[str, Any] = {
            "fn": self._merge,
            "inputs": {yaml, self.mine.jobs, self.gguf.types, *self.destination.inputs},
            "outputs": [self.mine.jobs, self.plan.card, self.bar.said],
            "show_progress_on": self.plan.card,
            **PLANNING,
        }
        self.bar.go.click(**self.merging_it).success(**self.mine.watching).then(
            None, None, None, js=SHOW_BEGUN, **PRIVATE
        )
        yaml.change(None, [yaml, self.bar.said], self.bar.said, js=FORGET_OTHERS, **PRIVATE)
        self._wire_rented()
        making = {
            self.mine.jobs,
            self.mine.results,
            self.gguf.types,
            self.gguf.model,
            *self.destination.inputs,
        }
        gr.on(
            [self.gguf.go.click, self.gguf.model.submit], self._gguf_of_any, making,
            [self.mine.jobs, self.gguf.message], show_progress_on=self.gguf.message, **PLANNING,
        ).success(**self.mine.watching)  # fmt: skip
        gr.on(
            [self.gguf.model.change, self.gguf.types.change, *self.destination.changes],
            self._gguf_command, making, self.gguf.command, **QUIET,
        )  # fmt: skip
        for number, slot in enumerate(self.mine.slots):
            slot.gguf.click(
                self._gguf_of_result(number), making, [self.mine.jobs, slot.message],
                show_progress_on=slot.card, **PLANNING,
            ).success(**self.mine.watching)  # fmt: skip
        healing = {
            yaml, self.heal.steps, self.heal.data, self.mine.jobs, self.mine.results, *self.destination.inputs
        }  # fmt: skip
        self.heal.go.click(
            self._heal_recipe, healing, [self.mine.jobs, self.heal.message],
            show_progress_on=self.heal.message, **PLANNING,
        ).success(**self.mine.watching)  # fmt: skip
        rented = self.heal.rented
        rented.go.click(
            self._rent_to_heal, {*healing, rented.needs, rented.machine}, [self.mine.jobs, rented.message],
            show_progress_on=rented.message, **PLANNING,
        ).success(**self.mine.watching)  # fmt: skip
        for number, slot in enumerate(self.mine.slots):
            slot.heal.click(
                self._heal_result(number), healing, [self.mine.jobs, slot.message],
                show_progress_on=slot.card, **PLANNING,
            ).success(**self.mine.watching)  # fmt: skip
        self.trying_it: dict[str, Any] = {
            "fn": self._try,
            "inputs": [yaml, self.destination.name],
            "outputs": [self.bar.said, self.tried],
            "concurrency_limit": 2,
            **LONG,
        }
        self.trial: Dependency = self.bar.try_first.click(**self.trying_it)
        remembered = [self.saved_recipe, self.opened_link]
        page.load(self._restore, remembered, [self.opened_link, *editor.outputs], **QUIET).then(
            None, None, None, js=FORGET_QUERY, **PRIVATE
        )
        page.load(None, None, None, js=MEND_COMPONENTS, **PRIVATE)

    def _wire_rented(self) -> None:
        rented, choice = self.rented, {*self.destination.inputs}
        rented.wire()
        asked = {self.editor.yaml, self.mine.jobs, self.gguf.types, rented.needs, rented.machine, *choice}
        rented.go.click(
            self._rent, asked, [self.mine.jobs, rented.message], show_progress_on=rented.message, **PLANNING
        ).success(**self.mine.watching)
        rented.machine.change(self._command, asked, rented.command, **QUIET)

    def _rent(self, values: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
        who, needs = account(self.host, oauth), values[self.rented.needs]
        try:
            offer = self.rented.offer(needs, values[self.rented.machine], who)
            choice, called, plan = self._named(values, who, visitor(who, request))
            job = begin(
                self.service,
                plan,
                choice.location(self.host, called),
                who,
                visitor(who, request),
                offer.machine.name,
                offer.seconds,
                private=choice.private,
                gguf=values[self.gguf.types],
                **choice.for_existing,
            )
        except MergeError as error:
            return {self.rented.message: html(map(trouble, error.problems))}
        return {**self._begun(job, values), self.rented.message: ""}

    def _command(self, values: Given, oauth: gr.OAuthToken | None) -> Any:
        """The command that rents the chosen machine, where the page may not; empty where that is not possible."""
        needs, choice, who = (
            values[self.rented.needs],
            self.destination.choice(values),
            account(self.host, oauth),
        )
        is_allowed = self.host.rents and not self.rented.asks(who)
        if is_allowed or not needs or not self.host.space_id:
            return gr.update(visible=False)
        text = values[self.editor.yaml]
        try:
            offer = self.rented.offer(needs, values[self.rented.machine], who)
            to = choice.location(self.host, choice.name or default_name(text))
        except MergeError:
            return gr.update(visible=False)
        if not to.startswith(HUB_SCHEME):
            return gr.update(visible=False)
        request = MergeRequest(
            text,
            to,
            choice.private,
            overwrite=choice.existing == REVISION,
            pull_request=choice.existing == PULL_REQUEST,
            seconds=offer.seconds,
            gguf=tuple(values[self.gguf.types]),
        )
        command = hf_job(request, self.host.space_id, self.host.commit, offer.machine.name)
        return gr.update(value=command, visible=True)

    def _restore(self, saved: str, opened: str, request: gr.Request) -> Updates:
        """The recipe to begin with: of the link that was opened, else what the visitor wrote, else one that works.

        On a Space the query comes again whenever the page is loaded: what the visitor made of a link must outlive
        that.
        """
        asked = str(dict(request.query_params).get(QUERY, ""))
        linked = recipe_of(asked) if asked and not (saved and asked == opened) else None
        text = linked or saved or self.editor.first_recipe
        said = t("undo.link") if linked else ""
        return {self.opened_link: asked, **self.editor.opening(text, saved or self.editor.first_recipe, said)}

    def _merge(self, values: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
        who = account(self.host, oauth)
        turn = visitor(who, request)
        try:
            choice, called, plan = self._named(values, who, turn)
            job = self.service.merge(
                plan,
                choice.location(self.host, called),
                who,
                turn,
                private=choice.private,
                **choice.for_existing,
                download=choice.is_download,
                gguf=values[self.gguf.types],
            )
        except MergeError as error:
            here = problems_card(error.problems)
            return {self.plan.card: here, self.bar.said: said_of(values[self.editor.yaml], here)}
        return {**self._begun(job, values), self.bar.said: ""}

    def _named(self, values: Given, who: Account, turn: str) -> tuple[DestinationChoice, str, Plan]:
        """The destination, the result's name there, and the plan.

        Raises:
            MergeError: the destination cannot be used.
        """
        text, choice = values[self.editor.yaml], self.destination.choice(values)
        if not who.token:
            choice = replace(choice, owners=())

        def planned(name: str) -> Plan:
            return self.plan.plan(text, choice, who, turn, choice.location(self.host, name))

        return choice, *self.plan.named(text, choice, who, planned)

    def _begun(self, job: str, values: Given) -> Updates:
        """Remember a job that was queued."""
        jobs = [record(self.service.job(job)), *remembered(values[self.mine.jobs])]
        return {self.mine.jobs: jobs[:MAX_REMEMBERED]}

    def _gguf_of_any(self, values: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
        try:
            job = self._make_gguf(self._named_model(values), values, request, oauth)
        except MergeError as error:
            return {self.gguf.message: html(map(trouble, error.problems))}
        return {**self._begun(job, values), self.gguf.message: ""}

    def _gguf_of_result(self, number: int) -> Callable[..., Updates]:
        """Makes GGUF files of the finished merge in a slot."""

        def make(values: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
            finished = self.mine.at(number, values[self.mine.jobs], values[self.mine.results])
            if finished is None:
                return unchanged()
            try:
                job = self._make_gguf(finished.location, values, request, oauth)
            except MergeError as error:
                return {self.mine.slots[number].message: html(map(trouble, error.problems))}
            return self._begun(job, values)

        return make

    def _heal_recipe(self, values: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
        try:
            job = self._healed(
                self.heal.chain(values), default_name(values[self.editor.yaml]), values, request, oauth
            )
        except ProblemError as error:
            return {self.heal.message: html(map(trouble, error.problems))}
        return {**self._begun(job, values), self.heal.message: ""}

    def _rent_to_heal(self, values: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
        rented, who = self.heal.rented, account(self.host, oauth)
        needs, choice = values[rented.needs], self.destination.choice(values)
        try:
            offer = rented.offer(needs, values[rented.machine], who)
            name = default_name(values[self.editor.yaml])
            job = begin_to_heal(
                self.heal.heals,
                self.heal.chain(values),
                choice.location(self.host, f"{name}-healed"),
                who,
                visitor(who, request),
                offer.machine.name,
                offer.seconds,
                private=choice.private,
            )
        except ProblemError as error:
            return {rented.message: html(map(trouble, error.problems))}
        return {**self._begun(job, values), rented.message: ""}

    def _heal_result(self, number: int) -> Callable[..., Updates]:
        """Heals the finished merge in a slot: its recipe, since the teacher is its parent."""

        def heal_it(values: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
            job = self.mine.job(number, values[self.mine.jobs], values[self.mine.results])
            if job is None:
                return unchanged()
            chain = usual_chain(job.request.recipe)
            try:
                begun = self._healed(chain, job.title.rpartition("/")[2], values, request, oauth)
            except ProblemError as error:
                return {self.mine.slots[number].message: html(map(trouble, error.problems))}
            return self._begun(begun, values)

        return heal_it

    def _healed(
        self, chain: str, name: str, values: Given, request: gr.Request, oauth: gr.OAuthToken | None
    ) -> str:
        """Queue a training; the job's id.

        Raises:
            ProblemError: see `HealService.start`.
        """
        who, choice = account(self.host, oauth), self.destination.choice(values)
        if not who.token:
            choice = replace(choice, owners=())
        return self.heal.heals.start(
            chain,
            choice.location(self.host, f"{name}-healed"),
            who,
            visitor(who, request),
            private=choice.private,
            download=choice.is_download,
        )

    def _gguf_command(self, values: Given, oauth: gr.OAuthToken | None) -> str:
        """The command that makes GGUF files of the named model; nothing while none is named, or none can be made."""
        model, who = self._named_model(values), account(self.host, oauth)
        try:
            request = self._gguf_request(model, values, who) if model else None
        except MergeError:
            request = None
        return shell(gguf_command(model, request)) if request else ""

    def _named_model(self, values: Given) -> str:
        """The model that is named for GGUF files; a field that was never unfolded has no value."""
        return (values[self.gguf.model] or "").strip()

    def _gguf_request(self, model: str, values: Given, who: Account) -> MergeRequest:
        """Where GGUF files of a model go, and their types: those that are ticked.

        Raises:
            MergeError: there is no such place.
        """
        choice = self.destination.choice(values)
        if not who.token:
            choice = replace(choice, owners=())
        name = model.partition("@")[0].rstrip("/").rpartition("/")[2] + SUFFIX
        return MergeRequest(
            to=choice.location(self.host, name),
            private=choice.private,
            overwrite=choice.existing == REVISION,
            download=choice.is_download,
            pull_request=choice.existing == PULL_REQUEST,
            gguf=tuple(values[self.gguf.types] or [USUAL]),
        )

    def _make_gguf(self, model: str, values: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> str:
        """Queue GGUF files of a model, of the ticked types; the job's id.

        Raises:
            MergeError: see `MergeService.gguf`.
        """
        who = account(self.host, oauth)
        asked = self._gguf_request(model, values, who)
        return self.service.gguf(
            model, asked.to, asked.gguf, who, visitor(who, request),
            private=asked.private, download=asked.download,
            overwrite=asked.overwrite, pull_request=asked.pull_request,
        )  # fmt: skip

    def _try(
        self, text: str, name: str, request: gr.Request, oauth: gr.OAuthToken | None
    ) -> Iterator[Updates]:
        who = account(self.host, oauth)
        plan = self.service.plan(text, None, who, visitor(who, request))
        page, called = str(request.session_hash), name.strip() or default_name(text)
        try:
            if not plan.ok:
                raise MergeError(plan.problems)
            for card, finished in try_first(self.service.in_memory, TryRequest(page, called, plan, who)):
                yield {self.bar.said: said_of(text, card), self.tried: finished}
        except MergeError as error:
            words = html(map(trouble, error.problems))
            yield {self.bar.said: said_of(text, words), self.tried: None}
        else:
            yield {self.bar.said: ""}
