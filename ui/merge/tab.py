"""The Merge tab: the form beside the YAML, the plan, the destination, and the visitor's merges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.events import Dependency

from evaluation import EvaluationError
from merging import METHODS, MergeError, Plan, Problem, Recipe, read_recipe
from ui.host import Host
from ui.hub.account import Account, Identity, account, identify, visitor
from ui.hub.licences import common_base
from ui.hub.recipes import COPY, QUERY, link_to, recipe_of
from ui.hub.search import HubSearch, search_as_you_type
from ui.languages.translate import in_each_language, t
from ui.merge.destination import (
    DOWNLOAD,
    FOLDER,
    HUB,
    PULL_REQUEST,
    REFUSE,
    REVISION,
    numbered,
    place,
    suggested_name,
    ways,
)
from ui.merge.form import Form, FormMemory, build_form, needs_typing
from ui.merge.history import record
from ui.merge.layers_card import layers_card
from ui.merge.my_merges import MOST_REMEMBERED, FinishedMerge, MyMerges, remembered
from ui.merge.plan_card import Surroundings, empty_card, plan_card, problems_card
from ui.merge.similarity import similarity
from ui.merge.start import build_start, line_of, trouble
from ui.merge.try_first import try_first
from ui.recipe.form_state import FormState, NotShown, read, write
from ui.recipe.presets import family, presets
from ui.recipe.quick_fixes import Fix, fixes
from ui.server import gpu
from ui.server.merge_service import MergeService, exists
from ui.widgets import html
from ui.widgets.events import LONG, NETWORK, PRIVATE, QUIET, UNSEEN

MOST_FIXES = 3
# So that a reload shows the draft, and not the link again.
FORGET_QUERY = """() => {
  const address = new URL(window.location);
  if (!address.searchParams.has("recipe")) return;
  address.searchParams.delete("recipe");
  history.replaceState(null, "", address);
}"""


class MergeTab:
    """The tab: made inside the page's Blocks, and wired when the other tabs are there."""

    def __init__(self, host: Host, service: MergeService, search: HubSearch):
        self.host = host
        self.service = service
        self.search = search
        self.first_recipe = presets(host.demo)[0].recipe
        self._planning: dict[str, object] = {}  # by page: the newest plan that is being made
        self._build()

    # -- layout ----------------------------------------------------------------------------------------

    def _build(self) -> None:
        host, known = self.host, family(self.host.demo).models
        self.start = build_start(host)
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=340, elem_classes="alloy-form"):
                self.notice = gr.HTML(visible=False)
                self.rewrite = gr.Button(t("recipe.rewrite"), size="sm", visible=False)
                with gr.Column(elem_classes="alloy-fields"):
                    self.form: Form = build_form(known, host.allow_folders)
            with gr.Column(scale=5, min_width=340):
                self.yaml = gr.Code(
                    language="yaml", label=t("recipe.yaml"), lines=14, max_lines=24, interactive=True,
                    elem_classes="alloy-yaml", buttons=["copy", "download"],
                )  # fmt: skip
                with gr.Row():
                    self.check = gr.Button(t("plan.button"), size="sm", min_width=120)
                    self.share = gr.Button(t("recipe.link"), size="sm", min_width=120)
                # Without a copy button inside: the label would belong to that.
                self.link = gr.Textbox(
                    label=t("recipe.linked"), info=t("recipe.linked.info"), visible=False, max_lines=1,
                    interactive=False,
                )  # fmt: skip
                self.plan = gr.HTML(in_each_language(empty_card))
                with gr.Row(elem_classes="alloy-fixes"):
                    self.fixes = [
                        gr.Button(visible=False, size="sm", min_width=160) for _ in range(MOST_FIXES)
                    ]
                with gr.Accordion(t("layers.heading"), open=False):
                    self.layers = gr.HTML()
                with gr.Accordion(t("alike.heading"), open=False):
                    self.compare = gr.Button(t("alike.button"), size="sm")
                    self.alike = gr.HTML(in_each_language(lambda: line_of(t("alike.info"))))
        _section("destination.heading")
        self._destination()
        with gr.Row(elem_classes="alloy-go"):
            self.go = gr.Button(t("merge.button"), variant="primary", size="lg", scale=3, min_width=200)
            self.try_first = gr.Button(t("try.button"), size="lg", scale=1, min_width=160)
        self.trying = gr.HTML(in_each_language(_about_trying))
        _section("jobs.heading")
        self.mine = MyMerges(host, self.service)
        self.saved_recipe = gr.BrowserState("", storage_key="alloy-recipe", secret=host.browser_key)
        self.opened_link = gr.BrowserState("", storage_key="alloy-link", secret=host.browser_key)
        self.identity = gr.State(Identity())
        self.offered = gr.State(())  # the fixes on the buttons

    def _destination(self) -> None:
        self.whose = gr.HTML()
        with gr.Group():
            with gr.Row():
                self.kind = gr.Radio(
                    [(t("destination.hub"), HUB), self._files()],
                    value=HUB,
                    label=t("destination.kind"),
                    info=t("destination.kind.info", folder=self.host.results)
                    if self.host.allow_folders
                    else t("destination.kind.download"),
                    min_width=240,
                )
                self.owner = gr.Dropdown([], label=t("destination.owner"), min_width=160)
                self.name = gr.Textbox(
                    label=t("destination.name"),
                    info=t("destination.name.info"),
                    max_lines=1,
                    min_width=240,
                    scale=2,
                )
            # Not in a row: on a phone Gradio squeezes a checkbox beside another field into one letter a line.
            self.private = gr.Checkbox(
                True, label=t("destination.private"), info=t("destination.private.info")
            )
            self.existing = gr.Radio(
                self._existing(folders=False),
                value=REFUSE,
                label=t("destination.existing"),
                info=t("destination.existing.info"),
            )

    @staticmethod
    def _existing(folders: bool) -> list[tuple[str, str]]:
        """What may happen to a model that stands there: a folder takes no pull request."""
        ways = [(t("destination.refuse"), REFUSE), (t("destination.revision"), REVISION)]
        return ways if folders else [*ways, (t("destination.pull_request"), PULL_REQUEST)]

    def _files(self) -> tuple[str, str]:
        """Where files go: to this machine if it is the visitor's own, else over the line."""
        if self.host.allow_folders:
            return t("destination.folder"), FOLDER
        return t("destination.download"), DOWNLOAD

    @property
    def recipe(self) -> list[Any]:
        """What `show` updates: the YAML and the form."""
        return [self.yaml, self.notice, self.rewrite, *self.form.outputs]

    # -- events ----------------------------------------------------------------------------------------

    def wire(self, page: gr.Blocks, fields_to_try: Sequence[gr.Dropdown]) -> None:
        """Add the events.

        Args:
            page: whose loading restores what the browser remembers
            fields_to_try: of the other tabs, that offer the newest result and its parents
        """
        form = self.form
        fields = [form.memory, *form.values]
        recipe = self.recipe

        self.start.wire(self.show, form.memory, recipe, QUIET)
        for number, button in enumerate(self.fixes):
            button.click(self._fixer(number), [self.offered, form.memory], recipe, **QUIET)
        self.share.click(self._link, self.yaml, self.link, **QUIET).then(
            None, self.link, None, js=COPY, **PRIVATE
        )
        # A link that is shown goes with the recipe.
        self.yaml.change(self._linked, [self.yaml, self.link], self.link, trigger_mode="always_last", **QUIET)
        self.yaml.input(
            self._yaml_typed, [self.yaml, form.memory], recipe[1:], trigger_mode="always_last", **QUIET
        )
        self.rewrite.click(self._rewrite, form.memory, recipe, **QUIET)
        form.method.input(self._method_chosen, fields, recipe, **QUIET)
        form.typed.input(self._typing_switched, fields, recipe, **QUIET)
        form.add.click(self._row_added, fields, recipe, **QUIET)
        for index, row in enumerate(form.rows):
            row.remove.click(self._remover(index), fields, recipe, **QUIET)
        written = [form.memory, self.yaml]
        elsewhere = (form.method, form.typed, *form.text_fields)
        changed = [component.input for component in form.values if component not in elsewhere]
        gr.on(changed, self._field_changed, fields, written, trigger_mode="always_last", **QUIET)
        # The `input` of Gradio's text fields tells of typed characters, but not of deleted and pasted ones;
        # their `change` tells of all, and also of what the page itself wrote.
        for index, text in enumerate(form.text_fields):
            text.change(self._text_watcher(index), fields, written, trigger_mode="always_last", **QUIET)
        known = family(self.host.demo).models
        for dropdown in form.model_fields:
            search_as_you_type(dropdown, self.search, self.host, known, form.memory)

        place_fields = [self.kind, self.owner, self.name, self.existing, self.identity]
        planned = [self.plan, self.name, self.layers, self.offered, *self.fixes, *form.note_fields]
        self.yaml.change(lambda text: text, self.yaml, self.saved_recipe, trigger_mode="always_last", **QUIET)
        gr.on(
            [
                self.yaml.change,
                self.kind.input,
                self.owner.input,
                self.name.input,
                self.name.blur,
                self.existing.input,
            ],
            self._plan,
            [self.yaml, form.memory, *place_fields],
            planned,
            trigger_mode="always_last",
            show_progress="hidden",
            **NETWORK,
        )
        self.check.click(
            self._plan,
            [self.yaml, form.memory, *place_fields],
            planned,
            show_progress_on=self.plan,
            **NETWORK,
        )
        self.kind.change(self._kind_chosen, self.kind, [self.owner, self.private, self.existing], **QUIET)

        self.mine.wire(page, fields_to_try, self.names_to_try, self.show, form.memory, recipe, QUIET)
        self.go.click(
            self._merge,
            [
                self.yaml,
                self.kind,
                self.owner,
                self.name,
                self.private,
                self.existing,
                self.identity,
                self.mine.jobs,
            ],
            [self.mine.jobs, self.plan],
            show_progress_on=self.plan,
            **NETWORK,
        ).success(**self.mine.watching)
        self.compare.click(
            self._alike, self.yaml, self.alike,
            concurrency_limit=2, trigger_mode="once", **UNSEEN,
        )  # fmt: skip
        self.yaml.change(lambda: line_of(t("alike.info")), None, self.alike, **QUIET)
        self.tried = gr.State(None)  # what the page has in memory
        self.trial: Dependency = self.try_first.click(
            self._try, [self.yaml, self.name], [self.trying, self.tried],
            concurrency_limit=2, **LONG,
        )  # fmt: skip
        page.load(self._who, None, [self.identity, self.whose, self.kind, self.owner, self.private], **QUIET)
        page.load(
            self._restore, [self.saved_recipe, self.opened_link], [self.opened_link, *recipe], **QUIET
        ).then(None, None, None, js=FORGET_QUERY, **PRIVATE)

    # -- recipe ----------------------------------------------------------------------------------------

    def _shown(self, state: FormState, text: str, **how: Any) -> list[Any]:
        hidden = gr.update(visible=False)
        return [text, gr.update(value="", visible=False), hidden, *self.form.show(state, **how)]

    def _held(self, memory: FormMemory, text: Any, reason: str) -> list[Any]:
        notice = f'<div class="alloy-held" role="status">{html.text(t("recipe.held", reason=reason))}</div>'
        rest = [gr.skip() for _ in self.form.outputs[1:]]
        shown = gr.update(value=notice, visible=True)
        return [text, shown, gr.update(visible=True), replace(memory, held=True), *rest]

    def show(self, text: str, memory: FormMemory) -> list[Any]:
        """Form and YAML for a text that did not come from the form."""
        try:
            return self._shown(read(text), text)
        except NotShown as reason:
            return self._held(memory, text, str(reason))

    def _fixer(self, number: int) -> Any:
        def fix(offered: Sequence[Fix], memory: FormMemory) -> list[Any]:
            if number >= len(offered):
                return [gr.skip() for _ in range(3 + len(self.form.outputs))]
            return self.show(offered[number].recipe, memory)

        return fix

    def _link(self, text: str, request: gr.Request) -> Any:
        """A link that holds the recipe, to the page as the visitor sees it."""
        return gr.update(value=link_to(self.host, text, request), visible=True)

    def _linked(self, text: str, link: str, request: gr.Request) -> Any:
        return self._link(text, request) if link else gr.skip()

    def _restore(self, saved: str, opened: str, request: gr.Request) -> list[Any]:
        """The recipe to begin with: of the link that was opened, else the visitor's draft, else one that works.

        On a Space the query comes again whenever the page is loaded: the draft that grew from a link must
        outlive that.
        """
        asked = str(dict(request.query_params).get(QUERY, ""))
        linked = recipe_of(asked) if asked and not (saved and asked == opened) else None
        memory = FormMemory(self._first_draft())
        shown = self.show(linked or saved or self.first_recipe, memory)
        if shown[3].held:  # the fields are still empty: fill them with something that works
            shown[4:] = self.form.show(memory.state)[1:]
        return [asked, *shown]

    def _first_draft(self) -> FormState:
        return read(self.first_recipe)

    def _yaml_typed(self, text: str, memory: FormMemory) -> list[Any]:
        return self.show(text, memory)[1:]

    def _rewrite(self, memory: FormMemory) -> list[Any]:
        return self._shown(memory.state, write(memory.state))

    def _form_changed(self, memory: FormMemory, values: Sequence[Any], state: FormState) -> list[Any]:
        if memory.held:
            return [gr.skip() for _ in range(3 + len(self.form.outputs))]
        typed = self._is_typed(values) or needs_typing(state)
        return self._shown(state, write(state), typed=typed, values=values)

    def _field_changed(self, memory: FormMemory, *values: Any) -> tuple[Any, Any]:
        if memory.held:
            return gr.skip(), gr.skip()
        state = self.form.collect(memory, values)
        return replace(memory, state=state, texts=self.form.texts(values)), write(state)

    def _text_watcher(self, index: int) -> Any:
        def changed(memory: FormMemory, *values: Any) -> tuple[Any, Any]:
            if not self.form.was_typed(index, memory, values):
                return gr.skip(), gr.skip()
            return self._field_changed(memory, *values)

        return changed

    def _is_typed(self, values: Sequence[Any]) -> bool:
        return bool(values[self.form.values.index(self.form.typed)])

    def _method_chosen(self, memory: FormMemory, *values: Any) -> list[Any]:
        return self._form_changed(memory, values, self.form.after_method(memory, values))

    def _typing_switched(self, memory: FormMemory, *values: Any) -> list[Any]:
        state = self.form.after_typing_switch(memory, values)
        if not self._is_typed(values) and needs_typing(state):
            gr.Info(t("recipe.typed.needed"))
        return self._form_changed(memory, values, state)

    def _row_added(self, memory: FormMemory, *values: Any) -> list[Any]:
        return self._form_changed(memory, values, self.form.with_row(memory, values))

    def _remover(self, index: int) -> Any:
        def remove(memory: FormMemory, *values: Any) -> list[Any]:
            return self._form_changed(memory, values, self.form.without_row(index, memory, values))

        return remove

    # -- plan and destination --------------------------------------------------------------------------

    def _who(self, oauth: gr.OAuthToken | None) -> tuple[Any, ...]:
        who = account(self.host, oauth)
        identity = identify(who)
        if identity.name:
            line = t(f"account.{who.source}", name=identity.name)
        elif identity.trouble:
            line = identity.trouble
        else:
            line = t("account.nobody.laptop" if self.host.allow_folders else "account.nobody.space")
        kind = HUB if identity.name else FOLDER if self.host.allow_folders else DOWNLOAD
        owner = gr.update(choices=list(identity.owners), value=identity.name or None, visible=kind == HUB)
        line = " ".join(filter(None, [line, gpu.quota(who.token)]))
        whose = f'<p class="alloy-method">{html.text(line)}</p>'
        return identity, whose, kind, owner, gr.update(visible=kind == HUB)

    def _kind_chosen(self, kind: str) -> tuple[Any, ...]:
        shown = gr.update(visible=kind == HUB)
        existing = gr.update(
            visible=kind != DOWNLOAD, choices=self._existing(folders=kind == FOLDER), value=REFUSE
        )
        return shown, shown, existing

    def _plan(
        self, text: str, memory: FormMemory, kind: str, owner: str | None, name: str, existing: str,
        identity: Identity, request: gr.Request, oauth: gr.OAuthToken | None,
    ) -> list[Any]:  # fmt: skip
        page, mine = str(request.session_hash), object()
        self._planning[page] = mine
        to: str | None = None
        problems: tuple[Problem, ...] = ()
        who = account(self.host, oauth)

        def planned(called: str) -> Plan:
            nonlocal to, problems
            try:
                to = place(self.host, kind, owner or "", called, identity.owners)
            except MergeError as error:
                # A plan needs no account; the Merge button asks for one.
                problems = tuple(problem for problem in error.problems if problem.code != "no-owner")
            return self.service.plan(text, None if kind == DOWNLOAD else to, who, **ways(existing))

        called, plan = named(text, name, planned, self._taken(kind, owner, identity.owners, who))
        every = (*plan.problems, *problems)
        parents = self.service.cards.parents(plan, who)
        around = Surroundings(parents, called, self.host.on_space, gpu.is_zero_gpu())
        card = problems_card(every) if every else plan_card(plan, around)
        offered = fixes(text, every, lambda names: common_base(names, who))[:MOST_FIXES]
        buttons = [gr.update(value=fix.title, visible=True) for fix in offered]
        buttons += [gr.update(visible=False)] * (MOST_FIXES - len(offered))
        notes = self.form.note_updates(memory.state, text, every)
        if self._planning.get(page) is not mine:
            # Two events that begin at one moment run side by side, whatever their mode: the older may come last.
            return [gr.skip()] * (4 + len(buttons) + len(notes))
        del self._planning[page]
        layers = layers_card(plan, _recipe(text) if plan.ok else None)
        # As a placeholder: it can never overwrite a name that the visitor is just typing.
        said = t("destination.name.info")
        if plan.ok and existing == REFUSE and str(to).startswith("hf://") and kind == HUB:
            said = f"{said} {t('destination.free', name=str(to).removeprefix('hf://'))}"
        suggestion = called if called != name.strip() else _suggestion(text)
        return [card, gr.update(placeholder=suggestion, info=said), layers, offered, *buttons, *notes]

    def _taken(
        self, kind: str, owner: str | None, owners: Sequence[str], who: Account
    ) -> Callable[[str], bool]:
        """Asks whether something is where a result of a name would go."""
        return lambda called: self.service.is_taken(place(self.host, kind, owner or "", called, owners), who)

    # -- merges ----------------------------------------------------------------------------------------

    def _merge(
        self, text: str, kind: str, owner: str | None, name: str, private: bool, existing: str,
        identity: Identity, jobs: object, request: gr.Request, oauth: gr.OAuthToken | None,
    ) -> tuple[Any, Any]:  # fmt: skip
        who: Account = account(self.host, oauth)
        try:
            owners = identity.owners if who.token else ()

            def planned(called: str) -> Plan:
                to = place(self.host, kind, owner or "", called, owners)
                return self.service.plan(text, None if kind == DOWNLOAD else to, who, **ways(existing))

            called, plan = named(text, name, planned, self._taken(kind, owner, owners, who))
            to = place(self.host, kind, owner or "", called, owners)
            turn = visitor(who, request)
            job = self.service.merge(
                plan, to, who, turn, private=private, **ways(existing), download=kind == DOWNLOAD
            )
        except MergeError as error:
            return gr.skip(), problems_card(error.problems)
        return [record(self.service.job(job)), *remembered(jobs)][:MOST_REMEMBERED], gr.skip()

    def _try(
        self, text: str, name: str, request: gr.Request, oauth: gr.OAuthToken | None
    ) -> Iterator[tuple[str, FinishedMerge | None]]:
        who = account(self.host, oauth)
        plan = self.service.plan(text, None, who)
        try:
            if not plan.ok:
                raise MergeError(plan.problems)
            page, called = str(request.session_hash), name.strip() or _suggestion(text)
            yield from try_first(self.service.in_memory, page, called, plan, who)
        except MergeError as error:
            yield "".join(trouble(problem) for problem in error.problems), None
        else:
            yield _about_trying(), gr.skip()

    def _alike(self, text: str, oauth: gr.OAuthToken | None) -> Iterator[str]:
        who = account(self.host, oauth)
        plan, recipe = self.service.plan(text, None, who), _recipe(text)
        if not plan.ok or recipe is None:
            yield "".join(trouble(problem) for problem in plan.problems)
            return
        base = recipe.base_model.name if recipe.base_model else None
        if not METHODS[plan.method].may_subtract:
            base = None
        try:
            yield from similarity(plan, base, who, self.host.allow_folders)
        except EvaluationError as error:
            yield trouble(Problem("alike", str(error), ""))

    def names_to_try(self, finished: FinishedMerge | None) -> list[str]:
        """What the fields of the other tabs offer: the newest result, its parents, and the models of the presets."""
        newest = (finished.location, *finished.models) if finished else ()
        return list(dict.fromkeys([*newest, *family(self.host.demo).models]))


def _about_trying() -> str:
    return line_of(t("try.info"))


def _section(key: str) -> None:
    gr.HTML(in_each_language(lambda: f'<h2 class="alloy-section">{html.text(t(key))}</h2>'))


def _recipe(text: str) -> Recipe | None:
    try:
        return read_recipe(text)
    except MergeError:
        return None


def named(
    text: str, name: str, planned: Callable[[str], Plan], is_taken: Callable[[str], bool]
) -> tuple[str, Plan]:
    """The name that the visitor wrote, or else the first suggestion that nothing has yet, with its plan."""
    called = name.strip() or _suggestion(text)
    plan = planned(called)
    if name.strip() or not exists(plan.problems):
        return called, plan
    free = next((other for other in numbered(called) if not is_taken(other)), None)
    return (free, planned(free)) if free else (called, plan)


def _suggestion(text: str) -> str:
    """A name for what the recipe makes."""
    recipe = _recipe(text)
    if recipe is None:
        return suggested_name((), "")
    names = [str(model) for model in recipe.references()]
    others = [name for name in names if name != str(recipe.base_model)]
    return suggested_name(others or names, recipe.merge_method)
