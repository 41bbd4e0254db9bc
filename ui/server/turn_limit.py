"""How many requests of one visitor the server answers at once.

Gradio prepares and sends every answer on one thread, and takes 0.1 s for one that changes the whole form. The requests
of all visitors take turns on that thread, so forty of one visitor would keep the others waiting for seconds.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from ui.hub.account import network

MAX_AT_ONCE: Final = 3
# The page, its configuration, and the events that are answered at once. Others wait in the queue, or are streams that
# stay open.
_ANSWERED_AT_ONCE: Final = re.compile(r"/|/config/?|/gradio_api/(?:run|api)/.*")


class TurnLimit:
    """Lets the requests of one visitor wait for each other where there are many; ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # By network: requests that wait or are answered, and the turns they share.
        self._present: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(MAX_AT_ONCE))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _ANSWERED_AT_ONCE.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        visitor = network(HTTPConnection(scope))
        self._present[visitor] += 1
        try:
            async with self._turns[visitor]:
                await self._app(scope, receive, send)
        finally:
            self._present[visitor] -= 1
            if not self._present[visitor]:
                del self._present[visitor], self._turns[visitor]
