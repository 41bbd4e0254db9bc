"""How the page's events run: keyword arguments for Gradio's event listeners, each set written once.

None of these events is an endpoint of the API; those are in `ui.api`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import gradio as gr
from gradio.blocks import Block

# What a handler gets whose inputs are wired as a set, and what handlers return: values by component.
Given: TypeAlias = Mapping[Block, Any]
Updates: TypeAlias = dict[Block, Any]

# For an event that runs JavaScript only, or that needs none of the sets below.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# Answers at once, outside the queue.
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", **PRIVATE}
# Runs in the queue, without Gradio's progress display.
UNSEEN: dict[str, Any] = {"show_progress": "hidden", **PRIVATE}
# Waits for the Hub: up to four run at the same time, for all visitors together.
NETWORK: dict[str, Any] = {"concurrency_limit": 4, **PRIVATE}
# Plans that are made or wait their turn at the same time, for all visitors together: few of them work (see
# `merging.planning.confined_plan`), and one visitor can have no more than `ui.server.merge_service` lets wait.
MAX_PLANS = 24
PLANNING: dict[str, Any] = {"concurrency_limit": MAX_PLANS, **PRIVATE}
# Runs models: in their own line (Gradio takes the lowest limit that an event of the line states), and a second press
# while it runs does nothing.
LONG: dict[str, Any] = {"concurrency_id": "model", "trigger_mode": "once", **UNSEEN}


def detail(event: gr.EventData, name: str) -> Any:
    """What a script of the page said with an event; None if it did not, or a stranger sent something else."""
    said = event._data
    return said.get(name) if isinstance(said, dict) else None


def unchanged() -> Updates:
    """For a handler that changes nothing after all."""
    return {**gr.skip()}
