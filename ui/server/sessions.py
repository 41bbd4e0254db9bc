"""What the server keeps of each visitor's session.

Gradio gives every session, and every call without one, a copy of the configuration of all components: for this page
0.1 s of CPU time on the thread that answers everybody, and 1.4 MB. Only its links to a page's state read that copy,
and this page has none of them. So a session starts without it, and anyone may start many.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import gradio as gr
from gradio import route_utils, state_holder
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

# Sessions kept at once; the one that was used least recently goes first. Each takes up to 1 MB once its form changed.
MAX_SESSIONS: Final = 1_000


class _Unlisted:
    """A page whose components a new session does not find, and so does not copy."""

    blocks: Mapping[int, gr.blocks.Block] = {}

    def __init__(self, page: gr.Blocks) -> None:
        self._page = page

    def __getattr__(self, name: str) -> Any:
        return getattr(self._page, name)


class _Session(state_holder.SessionState):
    """A session that holds the configuration of the components that it changed, and of no others."""

    def __init__(self, page: gr.Blocks) -> None:
        super().__init__(_Unlisted(page))  # type: ignore[arg-type]


def keep_sessions_small() -> None:
    """Make Gradio start its sessions without the copy of all components."""
    for module in (state_holder, route_utils):
        setattr(module, "SessionState", _Session)  # noqa: B010 (mypy: the class is another)


async def _none(_: Request) -> JSONResponse:
    return JSONResponse({"detail": "This page has no links to its state."}, HTTPStatus.NOT_FOUND)


# Gradio would write a file for everyone who asks for a link to their state.
NO_STATE_LINKS: Final = Route("/gradio_api/deep_link", _none)
