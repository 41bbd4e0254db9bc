"""Firefox by WebDriver BiDi, as far as a walk through the page needs it."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp

from tests.ui.conftest import STARTS_WITHIN, free_port

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
# Finds what is visible and has these words: of a button its own, of a field its label.
FIND = """
const shown = (it) => it && it.getClientRects().length && getComputedStyle(it).visibility === "visible";
const words = (it) => (it.getAttribute("aria-label") || it.innerText || "").trim();
const named = (choice, name) => [...document.querySelectorAll(choice)].find((it) => shown(it) && words(it) === name);
const field = (name) => [...document.querySelectorAll("label")]
  .filter((it) => shown(it) && it.innerText.trim().startsWith(name))
  .map((it) => it.querySelector("textarea, input")).find(Boolean);
"""


class Firefox:
    """One page of a browser.

    Attributes:
        complaints: errors of its console
    """

    def __init__(self, port: int) -> None:
        self.port, self.ids, self.complaints = port, itertools.count(1), list[str]()
        self.loop = asyncio.new_event_loop()
        self.session = self.loop.run_until_complete(self._session())

    async def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    def open(self, url: str) -> None:
        self.loop.run_until_complete(self._connect())
        self._send("session.new", capabilities={})
        self._send("session.subscribe", events=["log.entryAdded"])
        self.context = self._send("browsingContext.create", type="tab")["context"]
        self._send(
            "browsingContext.setViewport", context=self.context, viewport={"width": 1280, "height": 900}
        )
        self._send("browsingContext.navigate", context=self.context, url=url, wait="interactive")

    def close(self) -> None:
        self.loop.run_until_complete(self._disconnect())
        self.loop.close()

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression or, if it contains `return`, of a function's body."""
        body = script if "return" in script else f"return ({script});"
        answer = self._send(
            "script.evaluate",
            expression=f"(() => {{ {FIND} {body} }})()",
            target={"context": self.context},
            awaitPromise=True,
        )
        assert answer["type"] == "success", answer
        return answer["result"].get("value")

    def until(self, condition: str, *, seconds: float = 300) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < deadline, (condition, self.run("document.body.innerText"))
            time.sleep(0.2)

    def until_said(self, words: str) -> None:
        """Wait until the page shows these words, a regular expression."""
        self.until(f"new RegExp({json.dumps(words)}).test(document.body.innerText)")

    def click(self, name: str, choice: str = "button") -> None:
        """Wait for a button or the like with these words that can be pressed, and press it."""
        found = f"named({json.dumps(choice)}, {json.dumps(name)})"
        self.until(f"{found} && !{found}.disabled")
        self.run(f"{found}.click()")

    def fill(self, label: str, text: str) -> None:
        found = f"field({json.dumps(label)})"
        self.until(f"!!{found}")
        self.run(
            f"const it = {found}; it.focus(); it.select();"
            f"document.execCommand('insertText', false, {json.dumps(text)}); return it.blur();"
        )

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.loop.run_until_complete(self._ask(method, parameters))

    async def _ask(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self.ids)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            said = await self.socket.receive_json(timeout=STARTS_WITHIN)
            if said.get("method") == "log.entryAdded" and said["params"]["level"] == "error":
                self.complaints.append(str(said["params"]["text"]))
            if said.get("id") == number:
                assert said["type"] == "success", said
                return dict(said["result"])

    async def _connect(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                url = f"ws://127.0.0.1:{self.port}/session"
                self.socket = await self.session.ws_connect(url, max_msg_size=0)
            except aiohttp.ClientError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.2)
            else:
                return

    async def _disconnect(self) -> None:
        await self.session.close()


@contextmanager
def firefox(url: str) -> Iterator[Firefox]:
    """Firefox with a new profile, on this page."""
    assert FIREFOX
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            FIREFOX,
            "--headless",
            "--no-remote",
            "--profile",
            profile,
            f"--remote-debugging-port={port}",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        page = Firefox(port)
        try:
            page.open(url)
            yield page
        finally:
            page.close()
            process.terminate()
            process.wait(timeout=60)
