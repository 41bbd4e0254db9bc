"""The Search tab: the numbers of the Merge tab's recipe are searched, and judged on documents that were never used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from checkpoints.problems import ProblemError
from checkpoints.yaml import load
from merging import METHODS
from searching.goals import WAYS
from ui.host import Host
from ui.hub.account import account, visitor
from ui.job_tray import REMOVE, tray_lines
from ui.languages.translate import in_each_language, t
from ui.merge.editor import RecipeEditor
from ui.merge.form import FormMemory
from ui.merge.history import id_of, record, restored
from ui.recipe.presets import presets
from ui.recipe.sliders import RecipeSlider
from ui.rented.panel import RentPanel
from ui.rented.search import begin, found_again, needs_of
from ui.search.card import lost_card, no_search_card, search_card
from ui.search.space import SpaceChoice, label_of, moved_at_first, numbers_of, space_text, usual_range
from ui.search.texts import Examples, SearchTexts
from ui.server.jobs import JobStatus
from ui.server.searches import MAX_MINUTES, SearchService
from ui.widgets.events import PLANNING, QUIET, Given, Updates, detail, unchanged
from ui.widgets.html import html, note, section, trouble

# Parameters of one recipe whose ranges the tab can show.
MOST_PARAMETERS = 6
MOST_GROUPS = 8


class SearchTab:
    """The tab: made inside the page's Blocks, and wired when the Merge tab is there.

    Attributes:
        job: a state of the browser with the id of the visitor's search, or its record if a rented machine searches;
            the page renders it outside its tabs
        use, try_it, merge_it: buttons for the recipe that was found, which the page wires
    """

    def __init__(self, host: Host, searches: SearchService) -> None:
        self.host = host
        self.searches = searches
        gr.HTML(in_each_language(lambda: note(t("search.meaning"))))
        with gr.Row(elem_classes="alloy-presets", visible=host.demo):
            self.preset = gr.Button(t("search.preset"), size="sm", scale=0)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=320):
                self._number_fields()
            with gr.Column(scale=1, min_width=320):
                gr.HTML(in_each_language(lambda: section(t("search.texts.heading"))))
                self.texts = SearchTexts(host)
        with gr.Row():
            most = MAX_MINUTES if host.on_space else 60
            self.minutes = gr.Slider(
                1, most, 2, step=1, label=t("search.minutes"), info=t("search.minutes.info"), min_width=220
            )
            self.by = gr.Dropdown(
                [(t(f"search.by.{way}"), way) for way in WAYS], value="auto", label=t("search.by"),
                info=t("search.by.info"), min_width=220,
            )  # fmt: skip
        self.go = gr.Button(t("search.button"), variant="primary", size="lg")
        self.message = gr.HTML()
        self.rented = RentPanel(host, "rent.button.search", visible=host.rents)
        self.card = gr.HTML(in_each_language(no_search_card))
        with gr.Row(elem_classes="alloy-actions"):
            self.stop = _button("search.stop", variant="stop")
            self.use = _button("search.use", variant="primary")
            self.try_it = _button("search.try")
            self.merge_it = _button("search.merge")
        # Without a value the editor would be a box that says so, in a way that a screen reader may not.
        with gr.Accordion(t("search.space"), open=False, visible=False) as self.space_panel:
            self.space = gr.Code(language="yaml", label=t("search.space.label"), interactive=False)
        self.job = gr.BrowserState("", storage_key="alloy-search", secret=host.browser_key, render=False)
        self.drawn = gr.State("")
        # The recipe that the fields are for.
        self.shown = gr.State(None)
        self.clock = gr.Timer(1.0, active=False)

    def _number_fields(self) -> None:
        gr.HTML(in_each_language(lambda: section(t("search.numbers.heading"))))
        self.about = gr.HTML()
        self.moving = gr.CheckboxGroup([], label=t("search.numbers"), info=t("search.numbers.info"))
        self.groups = gr.Slider(
            1, MOST_GROUPS, 3, step=1, label=t("search.groups"), info=t("search.groups.info")
        )
        self.ranges: list[tuple[gr.Row, gr.Number, gr.Number]] = []
        for _ in range(MOST_PARAMETERS):
            with gr.Row(visible=False) as row:
                ends = [gr.Number(label=t(key), min_width=120) for key in ("search.low", "search.high")]
            self.ranges.append((row, ends[0], ends[1]))

    @property
    def outputs(self) -> list[Any]:
        """What `show` may update."""
        ends = [part for row in self.ranges for part in row]
        return [self.about, self.moving, *ends, self.shown]

    @property
    def inputs(self) -> set[Any]:
        """What `choice` reads."""
        ends = [end for _, low, high in self.ranges for end in (low, high)]
        return {self.moving, self.groups, *ends, self.minutes, self.by, *self.texts.inputs}

    def wire(
        self, page: gr.Blocks, opened: gr.Tab, editor: RecipeEditor, examples: Examples, tray: gr.HTML
    ) -> None:
        """Add the events.

        Args:
            page: whose loading shows the search that the browser remembers
            opened: this tab
            editor: that holds the recipe
            examples: the visitor's conversations on the Chat tab
            tray: says in a line what the search does
        """
        self.editor, self.tray = editor, tray
        self.texts.examples = examples
        yaml = editor.yaml
        # The recipe may change while this tab is open: when the page has just been loaded, and by the preset.
        changed = [opened.select, yaml.change]
        gr.on(changed, self._opened, [yaml, self.shown], self.outputs, trigger_mode="always_last", **QUIET)
        rows = [row for row, _, _ in self.ranges]
        self.moving.input(self._moved, [yaml, self.moving], rows, trigger_mode="always_last", **QUIET)
        outputs = [self.card, tray, self.clock, self.drawn, self.stop, self.use, self.try_it, self.merge_it]
        watching: dict[str, Any] = {"fn": self._watch, "inputs": [self.job, self.drawn], "outputs": outputs}
        self.clock.tick(**watching, **QUIET)
        tray.click(self._remove, self.job, self.job, **QUIET).then(**watching, **QUIET)
        page.load(**watching, **QUIET)
        begun = [self.job, self.message, self.space, self.space_panel]
        self.go.click(
            self._start, {yaml, *self.inputs}, begun, show_progress_on=self.card, **PLANNING
        ).success(**watching, **QUIET)
        rented, asked = self.rented, {yaml, *self.inputs}
        rented.wire()
        rented.box.expand(self._needs, asked, [rented.needs, rented.message], **PLANNING)
        rented.go.click(
            self._rent, {*asked, rented.needs, rented.machine}, [*begun, rented.message],
            show_progress_on=rented.message, **PLANNING,
        ).success(**watching, **QUIET)  # fmt: skip
        self.stop.click(self._stop, self.job, None, **QUIET).then(**watching, **QUIET)
        shown = [*editor.outputs, *self.outputs, self.groups, self.minutes]
        shown += [self.texts.chosen, self.texts.guard, self.texts.margin]
        self.preset.click(self._preset, editor.form.memory, shown, **QUIET)

    # -- fields ----------------------------------------------------------------------------------------

    def show(self, recipe: str) -> Updates:
        """The fields for the numbers of a recipe."""
        numbers = numbers_of(recipe)
        choices = [(label_of(recipe, number), key) for key, number in numbers.items()]
        updates: Updates = {
            self.about: html(note(_about(recipe, bool(numbers)))),
            self.moving: gr.update(choices=choices, value=moved_at_first(numbers)),
            self.shown: recipe,
        }
        names = list(_by_parameter(numbers))
        updates |= self._rows(numbers, moved_at_first(numbers))
        for place, (_, low, high) in enumerate(self.ranges):
            if place < len(names):
                name = names[place]
                ends = usual_range(_by_parameter(numbers)[name])
                updates[low] = gr.update(value=ends[0], label=t("search.low.of", name=name))
                updates[high] = gr.update(value=ends[1], label=t("search.high.of", name=name))
        return updates

    def _rows(self, numbers: dict[str, RecipeSlider], moving: Sequence[str]) -> Updates:
        """Ranges are shown of numbers that may change."""
        changing = {numbers[key].parameter.name for key in moving if key in numbers}
        shown = [name in changing for name in _by_parameter(numbers)]
        shown += [False] * (MOST_PARAMETERS - len(shown))
        return {row: gr.update(visible=one) for (row, _, _), one in zip(self.ranges, shown, strict=True)}

    def choice(self, given: Given, recipe: str) -> SpaceChoice:
        """What the fields say.

        Raises:
            gr.Error: nothing may change, or there is no text
        """
        numbers = numbers_of(recipe)
        moving = [key for key in given[self.moving] or () if key in numbers]
        if not moving:
            raise gr.Error(t("search.no_numbers"), print_exception=False)
        ranges = {}
        for name, (_, low, high) in zip(_by_parameter(numbers), self.ranges, strict=False):
            lowest, highest = usual_range(_by_parameter(numbers)[name])
            ranges[name] = (
                lowest if given[low] is None else float(given[low]),
                highest if given[high] is None else float(given[high]),
            )
        known = _by_parameter({key: numbers[key] for key in moving})
        for name in known.keys() - ranges.keys():
            ranges[name] = usual_range(known[name])
        return SpaceChoice(
            moving, ranges, int(given[self.groups] or 1), self.texts.goals(given), given[self.texts.guard] or "",
            float(given[self.texts.margin] or 0), float(given[self.minutes] or 2), given[self.by] or "auto",
        )  # fmt: skip

    # -- events ----------------------------------------------------------------------------------------

    def _opened(self, recipe: str, shown: str | None) -> Updates:
        return unchanged() if recipe == shown else self.show(recipe)

    def _moved(self, recipe: str, moving: Sequence[str] | None) -> Updates:
        return self._rows(numbers_of(recipe), moving or ())

    def _preset(self, memory: FormMemory) -> Updates:
        """The demo's two voices, with plain English as a limit."""
        arithmetic = next(one for one in presets(self.host.demo) if one.key == "task_arithmetic").recipe
        recipe = arithmetic.replace("weight: 0.7", "weight: 0.5")
        return {
            **self.editor.show(recipe, memory, t("undo.preset", name=t("search.preset"))),
            **self.show(recipe),
            self.groups: 3,
            self.minutes: 2,
            self.texts.chosen: ["pirate", "bard"],
            self.texts.guard: "english",
            self.texts.margin: 0.05,
        }

    def _start(self, given: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
        recipe, who = given[self.editor.yaml], account(self.host, oauth)
        text = space_text(recipe, self.choice(given, recipe))
        shown: Updates = {self.space: text, self.space_panel: gr.update(visible=True)}
        try:
            job = self.searches.start(text, self.texts.documents(given), who, visitor(who, request))
        except ProblemError as error:
            return {**shown, self.message: html(map(trouble, error.problems))}
        return {**shown, self.job: job, self.message: ""}

    def _needs(self, given: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
        """What the search takes of a rented machine."""
        recipe, who = given[self.editor.yaml], account(self.host, oauth)
        text = space_text(recipe, self.choice(given, recipe))
        try:
            needs = needs_of(self.searches, text, self.texts.documents(given), who, visitor(who, request))
        except ProblemError as error:
            return {self.rented.needs: None, self.rented.message: html(map(trouble, error.problems))}
        return {self.rented.needs: needs, self.rented.message: ""}

    def _rent(self, given: Given, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
        recipe, who, needs = given[self.editor.yaml], account(self.host, oauth), given[self.rented.needs]
        text = space_text(recipe, self.choice(given, recipe))
        try:
            offer = self.rented.offer(needs, given[self.rented.machine], who)
            job = begin(
                self.searches, text, self.texts.documents(given), who, visitor(who, request),
                offer.machine.name, offer.seconds,
            )  # fmt: skip
        except ProblemError as error:
            return {self.rented.message: html(map(trouble, error.problems))}
        shown: Updates = {self.space: text, self.space_panel: gr.update(visible=True)}
        kept = record(self.searches.service.job(job))
        return {**shown, self.job: kept, self.message: "", self.rented.message: ""}

    def _stop(self, job: object) -> None:
        self.searches.service.board.cancel(_id(job))

    def _watch(self, job: object, drawn: str, request: gr.Request, oauth: gr.OAuthToken | None) -> Updates:
        found = self.found(job) or self._found_again(job, request, oauth)
        card = search_card(found) if found else lost_card() if job else no_search_card()
        live = found is not None and found.is_live
        there = bool(found and found.search and found.search.recipe and not live)
        buttons = gr.update(visible=there)
        updates: Updates = {
            self.clock: gr.update(active=live),
            self.tray: tray_lines([found] if found else [], "search"),
            self.stop: gr.update(visible=live, interactive=not (found and found.stopping)),
            **dict.fromkeys((self.use, self.try_it, self.merge_it), buttons),
        }
        if card != drawn:
            updates |= {self.card: card, self.drawn: str(card)}
        return updates

    def _found_again(self, job: object, request: gr.Request, oauth: gr.OAuthToken | None) -> JobStatus | None:
        """A search on a rented machine that an earlier server followed."""
        lost = restored(self.host, job, None)
        if lost is None or not lost.request.rented or lost.request.rented.work != "search":
            return None
        who = account(self.host, oauth)
        return found_again(self.searches, lost, who, visitor(who, request))

    def _remove(self, job: object, pressed: gr.EventData) -> Any:
        """Forget a search that has ended."""
        found = self.found(job)
        is_live = found is not None and found.is_live
        return gr.skip() if is_live or detail(pressed, "what") != REMOVE else ""

    def found(self, job: object) -> JobStatus | None:
        """The search with this id, if the server still knows it."""
        status = self.searches.service.board.status(_id(job))
        return status if status and status.search else None

    def recipe(self, job: object) -> str:
        """What a search has found; empty if that is nothing."""
        found = self.found(job)
        return found.search.recipe if found and found.search else ""


def _id(job: object) -> str:
    """The id of a search, from what the browser keeps."""
    return job if isinstance(job, str) else id_of(job)


def _by_parameter(numbers: dict[str, RecipeSlider]) -> dict[str, Sequence[RecipeSlider]]:
    """Numbers by their parameter's name, as many as the tab can show."""
    found: dict[str, list[RecipeSlider]] = {}
    for number in numbers.values():
        found.setdefault(number.parameter.name, []).append(number)
    return dict(list(found.items())[:MOST_PARAMETERS])


def _about(recipe: str, has_numbers: bool) -> str:
    """Which recipe is searched, or why none can be."""
    if not has_numbers:
        return t("search.recipe.none")
    data = load(recipe)
    return t("search.recipe.of", method=METHODS[data["merge_method"]].title)


def _button(key: str, **looks: Any) -> gr.Button:
    return gr.Button(t(key), size="sm", visible=False, min_width=140, scale=0, **looks)
