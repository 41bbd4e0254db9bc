"""Changes a number of a merge in memory: it is merged again in place, and the last question is answered again."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from merging import MergeError
from ui.chat.answers import Message, as_shown, line_html, lines, plain, shown, streamed, trouble_card
from ui.chat.sampling import Sampling, SamplingFields
from ui.hub.account import account, visitor
from ui.languages.translate import error_words, parameter_help, t
from ui.merge.try_first import try_first
from ui.recipe.curves import changed_values, curve_sliders, tuned
from ui.recipe.sliders import RecipeSlider
from ui.server.in_memory_merges import MARK, TryRequest
from ui.server.merge_service import MergeService
from ui.server.work import Turn, Turns
from ui.widgets.events import LONG, QUIET, Given, Updates, unchanged
from ui.widgets.html import card, quiet, table, table_row, tag
from ui.widgets.stop_button import stops_from, stops_until

MAX_ANSWERS = 6  # side by side, the newest last
MAX_CHARACTERS = 600  # of an answer or a question


@dataclass(frozen=True)
class Heard:
    """What a merge in memory answered.

    Args:
        recipe: the one it was merged by
        values: those that were changed, in words
        asked: the conversation up to the question, as models get it
        sampling: how the answer was sampled
        answer: as the conversation shows it
    """

    recipe: str
    values: str
    asked: tuple[Message, ...]
    sampling: Sampling
    answer: tuple[Message, ...]

    @property
    def text(self) -> str:
        """What the answer says, without its reasoning."""
        return _prose(self.answer)


@dataclass(frozen=True)
class Tuning:
    """A merge in memory whose numbers are being changed.

    Args:
        name: of the merge
        first: the recipe that was tried first
        recipe: the one to merge now
        merged: whether that was done
        heard: what it answered to the last question, by recipe
    """

    name: str
    first: str
    recipe: str
    merged: bool = True
    heard: tuple[Heard, ...] = ()

    @property
    def values(self) -> str:
        """The values that were changed so far, in words."""
        changed = changed_values(self.first, self.recipe)
        return ", ".join(f"{slider.label} = {slider.value:g}" for slider in changed) or t("tune.first")

    def with_answer(self, heard: Heard) -> Tuning:
        """With one more answer; answers to another question are dropped."""
        kept = [one for one in self.heard if one.asked == heard.asked and one.recipe != heard.recipe]
        return replace(self, heard=(*kept, heard)[-MAX_ANSWERS:])

    def answered(self, talk: Sequence[Message], sampling: Sampling) -> Heard | None:
        """What this recipe answered before, if it did, to the same conversation sampled in the same way."""
        asked = tuple(plain(talk))
        found = (one for one in self.heard if (one.recipe, one.asked) == (self.recipe, asked))
        return next((one for one in found if one.sampling == sampling), None)


class Tuner:
    """A slider for a number of a merge in memory, and what each value answers; made inside the page's Blocks.

    Attributes:
        use: the button that takes the values into the recipe
        state: a `Tuning`, or None
        sampled: a state with the `Sampling` of the last answer, or None
        outputs: what `begin` updates
    """

    def __init__(self, service: MergeService, turns: Turns) -> None:
        self.service, self.turns = service, turns
        with gr.Column(visible=False) as self.box:
            with gr.Group(), gr.Row():
                self.which = gr.Dropdown(
                    [], label=t("tune.which"), info=t("tune.which.info"), min_width=240, scale=3
                )
                self.value = gr.Slider(0, 1, label=t("tune.value"), min_width=240, scale=3)
            with gr.Row():
                self.again = gr.Button(t("tune.again"), size="sm", min_width=220, scale=0)
                self.use = gr.Button(t("tune.use"), size="sm", min_width=220, scale=0)
        # Below the conversations, where the page renders it; the slider is above them.
        self.answers = gr.HTML(render=False)
        self.state, self.sampled = gr.State(None), gr.State(None)
        self.outputs = [self.box, self.which, self.value, self.answers, self.state]

    def begin(self, name: str | None, page: str) -> Updates:
        """Updates of `outputs`: a slider if the model is a merge in memory of the page whose recipe has numbers."""
        recipe = self.service.in_memory.recipe(page, name or "")
        found = curve_sliders(recipe)
        if not name or not found:
            return {self.box: gr.update(visible=False), self.answers: "", self.state: None}
        first = found[0]
        return {
            self.box: gr.update(visible=True),
            self.which: _menu(found, first.key),
            self.value: _slider(first),
            self.answers: "",
            self.state: Tuning(name, recipe, recipe),
        }

    def wire(self, talk: gr.Chatbot, line: gr.HTML, settings: SamplingFields, stop: gr.Button) -> None:
        """Add the events.

        Args:
            talk: the conversation with the merge
            line: what is said below it
            settings: how its answers are sampled
            stop: the button that stops an answer
        """
        self.talk, self.line, self.settings = talk, line, settings
        self.which.change(self._choose, [self.which, self.state], self.value, **QUIET)
        # A slider fires when the pointer lets go of it, and for a typed value; with arrow keys there is the button.
        # The last of several turns counts.
        stops_from(stop, [self.value.release, self.again.click])
        for asked, answer, mode in (
            (self.value.release, self._turned, "always_last"),
            (self.again.click, self._again, "once"),
        ):
            answered = asked(
                answer,
                {self.which, self.value, self.state, self.sampled, talk, *settings.inputs},
                [talk, line, self.answers, self.state, self.sampled, self.which],
                concurrency_limit=2,
                **(LONG | {"trigger_mode": mode}),
            )
            stops_until(stop, answered)

    def _choose(self, which: str, tuning: Tuning | None) -> Any:
        found = slider_at(tuning.recipe, which) if tuning else None
        return _slider(found) if found else gr.skip()

    def _turned(self, given: Given, oauth: gr.OAuthToken | None, request: gr.Request) -> Iterator[Updates]:
        """Merge with the slider's value; the last question is answered again, or as this value answered it before."""
        yield from self._tune(given, oauth, request, again=False)

    def _again(self, given: Given, oauth: gr.OAuthToken | None, request: gr.Request) -> Iterator[Updates]:
        """Merge with the slider's value, and answer the last question again."""
        yield from self._tune(given, oauth, request, again=True)

    def _tune(
        self, given: Given, oauth: gr.OAuthToken | None, request: gr.Request, *, again: bool
    ) -> Iterator[Updates]:
        talk = as_shown(given[self.talk])
        tuning = self._tuned(given, talk, again)
        if tuning is None:
            yield unchanged()
            return
        page, menu = str(request.session_hash), _menu(curve_sliders(tuning.recipe), given[self.which])
        talk, question = _up_to_the_question(talk)
        sampling = self.settings.sampling(given)
        before = None if again or not question else tuning.answered(talk, sampling)
        with self.turns.of(request) as turn:
            try:
                if before:
                    shown = self._state(replace(tuning, merged=False))
                    yield {
                        self.talk: [*talk, *before.answer],
                        self.line: line_html(t("tune.before")),
                        **shown,
                    }
                if not (yield from self._merge(tuning, request, oauth, turn)):
                    return
                if before:
                    yield {self.line: line_html(t("tune.before")), self.which: menu, **self._state(tuning)}
                elif question:
                    answers = self._answer(tuning, talk, sampling, page, turn)
                    yield from ({**updates, self.which: menu} for updates in answers)
                else:
                    ask = line_html(t("tune.ask", values=tuning.values))
                    yield {self.line: ask, self.which: menu, **self._state(tuning)}
            except (gr.Error, MergeError) as error:
                words = error.message if isinstance(error, gr.Error) else error_words(error)
                yield {
                    self.talk: as_shown(given[self.talk]),
                    self.line: trouble_card(str(words)),
                    **self._state(replace(tuning, merged=False)),
                }

    def _tuned(self, given: Given, talk: Sequence[Message], again: bool) -> Tuning | None:
        """The tuning with the slider's value; None if there is nothing to do: the slider was moved and put back."""
        tuning: Tuning | None = given[self.state]
        slider = slider_at(tuning.recipe, given[self.which]) if tuning else None
        if tuning is None or slider is None:
            return None
        before, question = _up_to_the_question(talk)
        answer = talk[len(before) :]
        now = replace(tuning, recipe=tuned(tuning.recipe, slider, given[self.value], tuning.first))
        if now.recipe == tuning.recipe and tuning.merged and (not question or (answer and not again)):
            return None
        sampling = given[self.sampled]
        if not (question and answer and tuning.merged and sampling) or tuning.answered(before, sampling):
            return now
        values = tuning.values
        if tuning.recipe == tuning.first:
            values = t("tune.first.value", value=f"{slider.label} = {slider.value:g}")
        return now.with_answer(Heard(tuning.recipe, values, tuple(plain(before)), sampling, tuple(answer)))

    def _merge(
        self, tuning: Tuning, request: gr.Request, oauth: gr.OAuthToken | None, turn: Turn
    ) -> Generator[Updates, None, bool]:
        """Merge in memory again, in place if the merge is still there. Whether it was not stopped.

        Raises:
            MergeError: the recipe cannot be merged
        """
        who = account(self.service.host, oauth)
        page, name = str(request.session_hash), tuning.name.removeprefix(MARK)
        if self.service.in_memory.update(page, tuning.name, tuning.recipe, who):
            return True
        plan = self.service.plan(tuning.recipe, None, who, visitor(who, request))
        if not plan.ok:
            raise MergeError(plan.problems)
        for job, _ in try_first(self.service.in_memory, TryRequest(page, name, plan, who)):
            yield {self.line: job, **self._state(replace(tuning, merged=False))}
            if turn.forgotten.is_set():
                yield self._forgotten()
                return False
            if turn.stopped.is_set():
                yield {self.line: line_html(t("chat.stopped"))}
                return False
        return True

    def _answer(
        self, tuning: Tuning, talk: Sequence[Message], sampling: Sampling, page: str, turn: Turn
    ) -> Iterator[Updates]:
        """Answer the question that a conversation ends with.

        Raises:
            gr.Error: the merge is no longer there, or cannot answer
        """
        model = self.service.in_memory.get(page, tuning.name)
        if model is None:
            raise gr.Error(f"{t('try.gone')} {t('try.gone.fix')}", print_exception=False)
        said = ""
        yield {self.sampled: sampling}
        with closing(streamed([model], [plain(talk)], sampling)) as stream:
            for run, (answer,) in stream:
                if turn.forgotten.is_set():
                    yield self._forgotten()
                    return
                said = answer.text
                stopped = turn.stopped.is_set()
                (line,) = lines(run, [answer], stopped)
                yield {self.talk: [*talk, *shown(said)], self.line: line, **self._state(tuning, said)}
                if stopped:
                    break
        known = (one.values for one in tuning.heard if one.recipe == tuning.recipe)
        values = next(known, tuning.values)
        heard = Heard(tuning.recipe, values, tuple(plain(talk)), sampling, tuple(shown(said)))
        yield self._state(tuning.with_answer(heard))

    def _state(self, tuning: Tuning, said: str = "") -> Updates:
        """Updates for a tuning; `said` is the answer on its way."""
        return {self.state: tuning, self.answers: answers_card(tuning, said)}

    def _forgotten(self) -> Updates:
        """Nothing is left of the conversation: the visitor cleared it meanwhile."""
        return {self.talk: [], self.line: "", self.answers: ""}


def with_values(recipe: str, tuning: Tuning) -> str | None:
    """A recipe with the values that were changed; None if it has no such numbers.

    The recipe may have been edited since it was tried: its other lines stay.
    """
    if recipe == tuning.first:
        return tuning.recipe
    for change in changed_values(tuning.first, tuning.recipe):
        slider = slider_at(recipe, change.key)
        if slider is None or slider.parameter != change.parameter:
            return None
        recipe = tuned(recipe, slider, change.value, tuning.first)
    return recipe


def use_values(tuning: Tuning | None, recipe: str) -> str | None:
    """The recipe with the values of a tuning; None, with a warning on the page, if there is nothing to use."""
    if tuning is None:
        return None
    changed = with_values(recipe, tuning)
    if changed is None:
        gr.Warning(t("tune.elsewhere", values=tuning.values))
    return changed


def slider_at(recipe: str, key: str) -> RecipeSlider | None:
    return next((slider for slider in curve_sliders(recipe) if slider.key == key), None)


def _menu(found: Sequence[RecipeSlider], chosen: str) -> Any:
    return gr.update(choices=[(slider.label, slider.key) for slider in found], value=chosen)


def _slider(slider: RecipeSlider) -> Any:
    low, high = slider.ends
    return gr.update(
        minimum=low,
        maximum=high,
        step=slider.parameter.step,
        value=slider.value,
        info=parameter_help(slider.method, slider.parameter),
    )


def _up_to_the_question(talk: Sequence[Message]) -> tuple[list[Message], str]:
    """A conversation up to its last question, and that question; empty if nothing was asked."""
    last = max((place for place, message in enumerate(talk) if message["role"] == "user"), default=-1)
    return list(talk[: last + 1]), str(talk[last]["content"]) if last >= 0 else ""


def _prose(messages: Sequence[Message]) -> str:
    """What an answer says, without its reasoning."""
    return "".join(message["content"] for message in messages if "metadata" not in message)


def answers_card(tuning: Tuning, said: str = "") -> str:
    """The answers so far, by their values; `said` is the one on its way."""
    rows = [(one.values, one.text) for one in tuning.heard if not said or one.recipe != tuning.recipe]
    if said:
        rows.append((tuning.values, said))
    if len(rows) < 2:
        return ""
    title = quiet(t("tune.heard", message=_short(str(tuning.heard[-1].asked[-1]["content"]))))
    cells = [table_row(values, tag.td(_short(answer))) for values, answer in rows]
    return card([title, table((), cells)])


def _short(answer: str) -> str:
    return answer if len(answer) <= MAX_CHARACTERS else answer[:MAX_CHARACTERS] + " …"
