"""A number of a recipe that was tried, turned: the models are merged anew, and the same message is answered again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from merging import MergeError
from ui.chat.answers import (
    Message,
    Sampling,
    as_drawn,
    line_html,
    lines,
    plain,
    shown,
    streamed,
    trouble_card,
)
from ui.hub.account import account
from ui.languages.translate import of_registry, t
from ui.merge.try_first import try_first
from ui.recipe.sliders import RecipeSlider, differences, sliders_of, with_value
from ui.server.in_memory_merges import MARK
from ui.server.merge_service import MergeService
from ui.server.work import Turns
from ui.widgets.events import LONG, QUIET
from ui.widgets.html import card, quiet, table, table_row, tag

# Answers that stand side by side, the newest last.
MOST_HEARD = 6
LONGEST_HEARD = 600


@dataclass(frozen=True)
class Tuning:
    """A page's trial, as its slider knows it.

    Args:
        name: of the trial
        begun: the recipe that was tried first
        recipe: the one whose merge was asked for last
        merged: whether it was made
        message: that was answered with these values
        heard: values and answers
    """

    name: str
    begun: str
    recipe: str
    merged: bool = True
    message: str = ""
    heard: tuple[tuple[str, str], ...] = ()

    @property
    def values(self) -> str:
        """What was turned so far, and how far."""
        return _values(self.begun, self.recipe)

    def with_answer(self, message: str, values: str, answer: str) -> Tuning:
        """With an answer more; answers to another message leave."""
        before = self.heard if message == self.message else ()
        kept = [it for it in before if it[0] != values]
        return replace(self, message=message, heard=(*kept, (values, answer))[-MOST_HEARD:])


@dataclass(frozen=True)
class Tuner:
    """The fields, made inside the page's Blocks."""

    service: MergeService
    turns: Turns
    box: gr.Column
    which: gr.Dropdown
    value: gr.Slider
    again: gr.Button
    use: gr.Button
    heard: gr.HTML
    state: gr.State

    @property
    def fields(self) -> list[Any]:
        """What `begin` updates."""
        return [self.box, self.which, self.value, self.heard, self.state]

    def begin(self, name: str | None, page: str) -> tuple[Any, ...]:
        """Updates of `fields`: a slider if the model is a trial of the page whose recipe holds numbers."""
        recipe = self.service.in_memory.recipe(page, name or "")
        found = sliders_of(recipe)
        if not name or not found:
            return gr.update(visible=False), gr.skip(), gr.skip(), "", None
        first = found[0]
        return (
            gr.update(visible=True),
            _menu(found, first.key),
            _slider(first),
            "",
            Tuning(name, recipe, recipe),
        )

    def wire(self, talk: gr.Chatbot, line: gr.HTML, sampling: Sequence[Any]) -> None:
        """Add the events; `talk` and `line` are the trial's conversation and what is said below it."""
        self.which.input(self._chosen, [self.which, self.state], self.value, **QUIET)
        # A slider tells of its release by pointer, and of a typed value; with arrow keys there is the button.
        gr.on(
            [self.value.release, self.again.click],
            self._hear,
            [self.which, self.value, self.state, talk, *sampling],
            [talk, line, self.heard, self.state, self.which],
            concurrency_limit=2,
            **LONG,
        )

    def _chosen(self, which: str, tuning: Tuning | None) -> Any:
        found = _knob(tuning.recipe, which) if tuning else None
        return _slider(found) if found else gr.skip()

    def _hear(
        self, which: str, value: float, tuning: Tuning | None, conversation: list[Message],
        system: str, heat: float, share: float, longest: float, draw: float | None,
        oauth: gr.OAuthToken | None, request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:  # fmt: skip
        slider = _knob(tuning.recipe, which) if tuning else None
        if tuning is None or slider is None:
            yield (gr.skip(),) * 5
            return
        talk, asked = _up_to_the_question(as_drawn(conversation))
        before = as_drawn(conversation)
        answer = "".join(m["content"] for m in before[len(talk) :] if "metadata" not in m)
        now = replace(tuning, recipe=with_value(tuning.recipe, slider, value))
        if now.recipe == tuning.recipe and tuning.merged and (answer or not asked):
            yield (gr.skip(),) * 5  # a slider that was touched and put back
            return
        if asked and answer and tuning.merged:
            now = now.with_answer(asked, tuning.values, answer)
        page = str(request.session_hash)
        with self.turns.of(request) as turn:
            try:
                for card in self._merged(now, page, oauth):
                    yield gr.skip(), card, _heard(now), replace(now, merged=False), gr.skip()
                    if turn.forgotten.is_set():
                        yield [], "", "", gr.skip(), gr.skip()
                        return
                    if turn.stopped.is_set():
                        yield gr.skip(), line_html(t("chat.stopped")), gr.skip(), gr.skip(), gr.skip()
                        return
                menu = _menu(sliders_of(now.recipe), which)
                if not asked:
                    yield gr.skip(), line_html(t("tune.ask", values=now.values)), _heard(now), now, menu
                    return
                model = self.service.in_memory.get(page, now.name)
                if model is None:
                    raise gr.Error(f"{t('try.gone')} {t('try.gone.fix')}", print_exception=False)
                said = ""
                sampling = Sampling.of_fields(system, heat, share, longest, draw)
                with closing(streamed([model], [plain(talk)], sampling)) as stream:
                    for run, given in stream:
                        said = given[0].text
                        stopped = turn.stopped.is_set()
                        if turn.forgotten.is_set():
                            yield [], "", "", gr.skip(), gr.skip()
                            return
                        below = lines(run, given, stopped)[0]
                        yield [*talk, *shown(said)], below, _heard(now, said), now, menu
                        if stopped:
                            break
                prose = "".join(m["content"] for m in shown(said) if "metadata" not in m)
                now = now.with_answer(asked, now.values, prose)
                yield gr.skip(), gr.skip(), _heard(now), now, menu
            except (gr.Error, MergeError) as error:
                words = error.message if isinstance(error, gr.Error) else str(error)
                yield before, trouble_card(str(words)), _heard(now), replace(now, merged=False), gr.skip()

    def _merged(self, tuning: Tuning, page: str, oauth: gr.OAuthToken | None) -> Iterator[str]:
        """Merge anew for the page; cards on the way."""
        who = account(self.service.host, oauth)
        plan = self.service.plan(tuning.recipe, None, who)
        if not plan.ok:
            raise MergeError(plan.problems)
        name = tuning.name.removeprefix(MARK)
        for job, _ in try_first(self.service.in_memory, page, name, plan, who):
            yield job


def build_tuner(service: MergeService, turns: Turns) -> Tuner:
    """Make the fields; they are hidden until there is a trial."""
    with gr.Column(visible=False) as box:
        with gr.Group(), gr.Row():
            which = gr.Dropdown([], label=t("tune.which"), info=t("tune.which.info"), min_width=240, scale=3)
            value = gr.Slider(0, 1, label=t("tune.value"), min_width=240, scale=3)
        with gr.Row():
            again = gr.Button(t("tune.again"), size="sm", min_width=220, scale=0)
            use = gr.Button(t("tune.use"), size="sm", min_width=220, scale=0)
        heard = gr.HTML()
    return Tuner(service, turns, box, which, value, again, use, heard, gr.State(None))


def taken_back(recipe: str, tuning: Tuning) -> str | None:
    """A recipe with the values that were turned; None if it has other places.

    It may have been changed since it was tried: what else it says now stays.
    """
    if recipe == tuning.begun:
        return tuning.recipe
    for change in differences(tuning.begun, tuning.recipe):
        slider = _knob(recipe, change.key)
        if slider is None or slider.parameter != change.parameter:
            return None
        recipe = with_value(recipe, slider, change.value)
    return recipe


def use_values(
    tuning: Tuning | None, recipe: str, memory: Any, show: Callable[[str, Any], list[Any]]
) -> list[Any] | None:
    """Updates that `show` makes for the recipe with the values that were turned; None: nothing to be done."""
    if tuning is None:
        return None
    changed = taken_back(recipe, tuning)
    if changed is None:
        gr.Warning(t("tune.elsewhere", values=tuning.values))
        return None
    return show(changed, memory)


def _knob(recipe: str, key: str) -> RecipeSlider | None:
    return next((slider for slider in sliders_of(recipe) if slider.key == key), None)


def _menu(found: Sequence[RecipeSlider], chosen: str) -> Any:
    return gr.update(choices=[(slider.label, slider.key) for slider in found], value=chosen)


def _slider(slider: RecipeSlider) -> Any:
    low, high = slider.ends
    return gr.update(
        minimum=low,
        maximum=high,
        step=slider.parameter.step,
        value=slider.value,
        info=of_registry(slider.parameter.help),
    )


def _values(before: str, after: str) -> str:
    changed = differences(before, after)
    return ", ".join(f"{slider.label} = {slider.value:g}" for slider in changed) or t("tune.first")


def _up_to_the_question(talk: Sequence[Message]) -> tuple[list[Message], str]:
    """A conversation without what follows its last question, and that question; empty if nothing was asked."""
    last = max((place for place, message in enumerate(talk) if message["role"] == "user"), default=-1)
    return list(talk[: last + 1]), str(talk[last]["content"]) if last >= 0 else ""


def _heard(tuning: Tuning, said: str = "") -> str:
    """The answers so far, by their values; `said` is the one on its way."""
    rows = [
        *(it for it in tuning.heard if not said or it[0] != tuning.values),
        *[(tuning.values, said)] * bool(said),
    ]
    if len(rows) < 2:
        return ""
    title = quiet(t("tune.heard", message=_short(tuning.message)))
    cells = [table_row(values, tag.td(_short(answer))) for values, answer in rows]
    return card([title, table((), cells)])


def _short(answer: str) -> str:
    return answer if len(answer) <= LONGEST_HEARD else answer[:LONGEST_HEARD] + " …"
