"""A visitor's requests wait for each other, never for those of another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from ui.server.turn_limit import MAX_AT_ONCE, TurnLimit


class App:
    """Answers nothing until it is opened."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["client"][0])
        await self.open.wait()
        if scope["path"].endswith("/broken"):
            raise OSError("broken")


async def _unused(_: Message | None = None) -> Message:
    raise AssertionError


def request(limit: TurnLimit, visitor: str, path: str) -> asyncio.Task[None]:
    scope = {"type": "http", "path": path, "headers": [], "client": (visitor, 1)}
    return asyncio.create_task(limit(scope, _unused, _unused))


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it in a thread of its own: beside a browser this one has a loop that runs."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(scenario())).result()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_one_visitor_has_a_few_turns_and_others_have_their_own() -> None:
    async def scenario() -> None:
        app = App()
        limit = TurnLimit(app)
        events = [request(limit, "8.8.4.4", "/gradio_api/run/predict") for _ in range(20)]
        await settled()
        assert app.asked == ["8.8.4.4"] * MAX_AT_ONCE

        others = [request(limit, "1.1.1.1", "/"), request(limit, "8.8.4.4", "/gradio_api/queue/data")]
        await settled()
        assert app.asked[MAX_AT_ONCE:] == ["1.1.1.1", "8.8.4.4"], (
            "another visitor, and a stream that stays open"
        )

        app.open.set()
        await asyncio.gather(*events, *others)
        assert len(app.asked) == 22

    run(scenario)


def test_a_failure_or_a_visitor_who_leaves_gives_the_turn_back() -> None:
    async def scenario() -> None:
        app = App()
        limit = TurnLimit(app)
        broken = [request(limit, "8.8.4.4", "/gradio_api/run/broken") for _ in range(MAX_AT_ONCE + 2)]
        await settled()
        broken[0].cancel()
        broken[-1].cancel()
        await settled()
        assert len(app.asked) == MAX_AT_ONCE + 1
        app.open.set()
        assert [type(end) for end in await asyncio.gather(*broken, return_exceptions=True)] == [
            asyncio.CancelledError, *[OSError] * MAX_AT_ONCE, asyncio.CancelledError,
        ]  # fmt: skip

        again = [request(limit, "8.8.4.4", "/config") for _ in range(MAX_AT_ONCE)]
        await settled()
        assert len(app.asked) == 2 * MAX_AT_ONCE + 1
        await asyncio.gather(*again)

    run(scenario)
