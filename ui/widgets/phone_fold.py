"""Parts of the page that are folded on phones, and on wider screens are shown as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gradio as gr

from ui.languages.translate import in_each_language
from ui.widgets.html import tag

# An editor of code measures its lines when it is shown.
_UNFOLD = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  button.setAttribute("aria-expanded", String(button.getAttribute("aria-expanded") !== "true"));
  window.dispatchEvent(new Event("resize"));
});
"""


@contextmanager
def folded_on_phones(words: Callable[[], str]) -> Iterator[gr.Column]:
    """Put what is made inside it below a line that unfolds it on phones.

    Args:
        words: of the line, in the language of the moment
    """
    line = in_each_language(lambda: tag.button(words(), type="button", aria_expanded="false"))
    gr.HTML(line, js_on_load=_UNFOLD, elem_classes="alloy-fold")
    with gr.Column(elem_classes="alloy-folded") as column:
        yield column
