"""A browser, and the app as a process of its own against the demo's Hub."""

from __future__ import annotations

import os
import pickle
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from gradio import Blocks
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from examples.demo import hub_with_models
from tests import ROOT
from tests.hub import Hub
from ui.server import model_process
from ui.server.jobs import JobStatus
from ui.server.merge_service import MergeService
from ui.server.model_process import ModelProcess, _Data

SYSTEM_CHROMIUM = Path("/usr/bin/chromium")
STARTS_WITHIN = 300  # seconds: a busy machine takes its time to import torch and Gradio
PATIENCE = 60_000  # milliseconds, for whatever should happen at once on an idle machine
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)


@pytest.fixture(autouse=True)
def models_in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run models in the tests' own process, where they can be watched; `separate_models` runs them as the app does."""
    if request.node.get_closest_marker("separate_models"):
        return
    monkeypatch.setattr(ModelProcess, "stream", _here)
    monkeypatch.setattr(model_process, "OURS", (*model_process.OURS, "tests"))
    monkeypatch.setattr(ModelProcess, "generation", 1)


def _here(self: ModelProcess, work: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """What the process of the models would send."""
    items = iter(work(*arguments))
    try:
        for item in items:
            yield _Data(BytesIO(pickle.dumps(item))).load()
    finally:
        if isinstance(items, Generator):
            items.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium: the system's, or else Playwright's own."""
    expect.set_options(timeout=PATIENCE)
    system = str(SYSTEM_CHROMIUM) if SYSTEM_CHROMIUM.exists() else None
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=system, args=QUIET)
        yield chromium
        chromium.close()


@dataclass
class Visit:
    """A page with what went wrong on it.

    Attributes:
        complaints: errors and warnings of the console, and uncaught exceptions
        strangers: addresses outside the site that the page asked for
    """

    page: Page
    complaints: list[str]
    strangers: list[str]


@contextmanager
def visit(
    browser: Browser,
    url: str,
    *,
    width: int = 1280,
    dark: bool = False,
    locale: str = "en-US",
    query: str = "",
) -> Iterator[Visit]:
    """A new visitor who opens the page, and waits until it is alive."""
    context = browser.new_context(viewport={"width": width, "height": 900}, locale=locale)
    page = context.new_page()
    visit = Visit(page, [], [])
    page.on("console", lambda m: visit.complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on(
        "request",
        lambda r: None if r.url.startswith((url, "data:", "blob:")) else visit.strangers.append(r.url),
    )
    page.set_default_timeout(PATIENCE)
    page.add_init_script(COUNT_SEARCHES)
    page.goto(f"{url}?__theme={'dark' if dark else 'light'}&{query}")
    page.get_by_role("heading", name="Alloy").wait_for()
    try:
        yield visit
    finally:
        context.close()


# Events of the page that run in Gradio's queue, and all of them.
QUEUED = re.compile("/gradio_api/queue/join")
EVENTS = re.compile("/gradio_api/(run|queue/join)")


@contextmanager
def held(page: Page, events: re.Pattern[str]) -> Iterator[None]:
    """None of these events reaches the page's server before this ends."""
    waiting: list[Route] = []
    ended = False

    def hold(route: Route) -> None:
        if ended:
            route.continue_()
        else:
            waiting.append(route)

    page.route(events, hold)
    yield
    ended = True
    for route in waiting:
        route.continue_()


# Counts the searches for what was typed, from when they are sent until their answers are drawn.
COUNT_SEARCHES = """
window.searches = 0;
const send = window.fetch;
window.fetch = async (...asked) => {
  const counts = String(asked[1]?.body).includes('"input_value"');
  window.searches += counts;
  const drawn = () => requestAnimationFrame(() => requestAnimationFrame(() => { window.searches -= counts; }));
  try { return await send(...asked); } finally { setTimeout(drawn, 0); }
};
"""


def wait_for_search(page: Page) -> None:
    """Wait until everything that was typed has been answered and drawn."""
    page.wait_for_function("window.searches === 0")


@dataclass(frozen=True)
class Site:
    """The running app.

    Attributes:
        url: ends with a slash
        hub: the demo's Hub
        token: of the app's login, the Hub's user `demo`
        log: what the app wrote
    """

    url: str
    hub: Hub
    token: str
    log: Path


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The app as `make demo` runs it, with the real models."""
    folder = tmp_path_factory.mktemp("site")
    with (
        hub_with_models(folder=None) as (hub, token),
        started(hub, folder, ALLOY_DEMO="1", ALLOY_JOBS="1", HF_TOKEN=token) as (url, _),
    ):
        yield Site(url, hub, token, folder / "app.log")


@contextmanager
def started(hub: Hub, folder: Path, **variables: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The app in a process of its own, from when it answers; its output is in `app.log`.

    Args:
        hub: the Hub that it uses
        folder: for what it writes
        variables: more of its environment, which has no others of a Space, of a login or of the Hub

    Yields:
        its address, with a slash at the end, and its process
    """
    port, log = free_port(), folder / "app.log"
    url = f"http://127.0.0.1:{port}/"
    environment = {
        name: value for name, value in os.environ.items() if not re.match("SPACE_|OAUTH_|HF_", name)
    }
    environment |= {
        "ALLOY_RESULTS": str(folder / "merged"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        **variables,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
        try:
            wait_for(process, url, log)
            yield url, process
        finally:
            process.terminate()
            process.wait(timeout=60)


def event(page: Blocks, name: str) -> Callable[..., Any]:
    """The function of a page with the end of this qualified name."""
    [found] = {
        fn.fn for fn in page.fns.values() if f".{getattr(fn.fn, '__qualname__', '')}".endswith(f".{name}")
    }
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until an app answers."""
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"The app did not start:\n{log.read_text()[-4000:]}")


def until_ended(service: MergeService, job: str, *, seconds: float = 120) -> JobStatus:
    """Wait for the end of a job."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = service.job(job)
        if not found.is_live:
            return found
        time.sleep(0.02)
    raise AssertionError(found)
