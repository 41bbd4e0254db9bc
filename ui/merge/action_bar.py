"""The bar at the lower edge of the Merge tab: what the plan says in a line, and the buttons that act on it."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr
from markupsafe import Markup

from checkpoints.names import model_name
from merging import Plan, Problem
from ui.languages.translate import in_each_language, problem_words, t
from ui.merge.destination import HUB, DestinationChoice
from ui.widgets.html import duration, html, prose, size, tag

# A recipe with problems is not sent: its buttons, and the line about it, lead to the plan, which says what to change.
# While a plan is being made nothing is known, and the server decides.
_JUMP = """
const bar = element.closest(".alloy-go");
const refused = () => element.querySelector("[data-refused]") !== null;
const mend = () => {
  for (const button of bar.querySelectorAll("button:not(.alloy-jump)")) {
    if (refused()) {
      button.setAttribute("aria-disabled", "true");
      button.setAttribute("aria-describedby", "alloy-reason");
    } else {
      button.removeAttribute("aria-disabled");
      button.removeAttribute("aria-describedby");
    }
  }
};
bar.addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  const plan = document.querySelector(".alloy-plan");
  if (!pressed || !refused()) return;
  if (!pressed.matches(".alloy-jump") && plan.querySelector(".pending")) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  plan.setAttribute("tabindex", "-1");
  plan.focus({preventScroll: true});
  plan.scrollIntoView({block: "center", behavior: still ? "auto" : "smooth"});
}, true);
watch("value", mend);
mend();
"""
# What was said of another recipe holds no longer. The change of a recipe may be heard of after the answer about it.
FORGET_OTHERS = """(recipe, said) => {
  const words = new DOMParser().parseFromString(said ?? "", "text/html").querySelector("[data-recipe]");
  return words?.dataset.recipe === recipe ? said : "";
}"""
# After a merge has begun its card is shown; what keeps one from beginning is said in the bar itself.
SHOW_BEGUN = """() => {
  if (!document.querySelector(".alloy-said .alloy-bad"))
    document.querySelector(".alloy-merges")?.scrollIntoView({block: "start"});
}"""


class ActionBar:
    """The bar, made inside the page's Blocks.

    Attributes:
        said: what became of the last press: progress of a trial, or why nothing was begun
        state: what the plan says
        go, try_first: the buttons
    """

    def __init__(self) -> None:
        with gr.Column(elem_classes="alloy-go"):
            self.said = gr.HTML(elem_classes="alloy-said")
            with gr.Row(equal_height=True):
                self.state = gr.HTML(
                    in_each_language(waiting_line), elem_classes="alloy-state", js_on_load=_JUMP
                )
                self.try_first = gr.Button(t("try.button"), scale=0, min_width=130)
                self.go = gr.Button(t("merge.button"), variant="primary", scale=0, min_width=170)


def said_of(recipe: str, words: Markup) -> Markup:
    """Words for the bar about a recipe; they stay as long as the page shows it."""
    return tag.div(words, data_recipe=recipe)


def waiting_line() -> Markup:
    """Before there is a plan."""
    return tag.p(t("bar.waiting"), class_="alloy-quiet")


def problems_line(problems: Sequence[Problem]) -> Markup:
    """How many problems there are, and the first; it leads to all of them."""
    first = prose(problem_words(problems[0]).message)
    mark = tag.span(class_="alloy-mark", aria_hidden="true")
    words = html(mark, tag.b(t("plan.bad", count=len(problems))), " ", tag.span(first, id="alloy-reason"))
    return tag.button(words, type="button", class_="alloy-jump alloy-bad", data_refused="")


def plan_line(plan: Plan, choice: DestinationChoice, location: str | None) -> Markup:
    """That a recipe can be merged: size, time, and where the result goes, if that is known."""
    place = [] if location is None else [t("bar.to", place=_place(choice, location))]
    if location is not None and choice.kind == HUB and choice.private:
        place.append(t("destination.private"))
    facts = [t("bar.ready"), size(plan.bytes_out), duration(plan.seconds), *place]
    pieces = [tag.b(facts[0]), *([" ", tag.span(fact)] for fact in facts[1:])]
    return tag.p(tag.span(class_="alloy-mark", aria_hidden="true"), pieces, class_="alloy-good")


def _place(choice: DestinationChoice, location: str) -> str:
    return t("destination.download") if choice.is_download else model_name(location)
