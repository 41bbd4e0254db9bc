"""A button that stops work, and can be pressed only while there is some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.events import Dependency

from ui.widgets.events import PRIVATE

_SET = "() => ({{__type__: 'update', interactive: {}}})"


def stop_button(label: str, **looks: Any) -> gr.Button:
    """The button, which waits for work; `looks` are Gradio's."""
    return gr.Button(label, interactive=False, **looks)


def stops_from(stop: gr.Button, begins: list[Callable[..., Dependency]]) -> None:
    """Let a button be pressed when work begins.

    Args:
        stop: the button
        begins: the events that begin the work; to be wired before it, as Gradio takes an event's listeners in turn
    """
    gr.on(begins, None, None, stop, js=_SET.format("true"), **PRIVATE)


def stops_until(stop: gr.Button, *steps: Dependency) -> None:
    """Let a button no longer be pressed when the last step of the work has ended, or one of them has failed."""
    for end in (steps[-1].then, *(step.failure for step in steps)):
        end(None, None, stop, js=_SET.format("false"), **PRIVATE)
