"""What breaks pages of this kind, each tried in a real browser on a page with sign-in, as on a Space."""

from __future__ import annotations

import base64
import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import gradio as gr
import httpx2
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from gradio_client import Client
from gradio_client.client import Job
from gradio_client.utils import QueueError, Status
from playwright.sync_api import Browser, Page, expect

from checkpoints.problems import Problem
from evaluation import EvaluationError, FetchedModel
from merging import Progress, Result
from tests.hub import Hub
from tests.ui.conftest import visit
from tests.ui.speaker import tiny_speaker
from tests.ui.test_browser import BROKEN_OFF, quiet, until_recipe, write
from ui.host import Host
from ui.languages.english import ENGLISH
from ui.languages.korean import KOREAN
from ui.page import build_page, launch_settings
from ui.server.jobs import JobBoard

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

TOKENS = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
RECIPE = """merge_method: linear
models:
  - model: ann/one
    parameters: {weight: 1}
  - model: ann/two
    parameters: {weight: 1}
"""


@dataclass
class Space:
    """A page as on a Space; its sign-in button signs in as `ann`, who has two tiny private models.

    Attributes:
        url: ends with a slash
        token: ann's
        host: of the page
        gate: a merge waits before it begins until this is set
        temp: Gradio's folder
    """

    url: str
    token: str
    host: Host
    gate: threading.Event
    temp: Path


@pytest.fixture
def open_space(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Space]]:
    token = hub.add_user("ann")
    for seed, name in enumerate(("one", "two")):
        hub.put(
            f"ann/{name}",
            tiny_speaker(tmp_path / name, seed, tmp_path / "one" if seed else None),
            private=True,
        )
    info = {"access_token": token, "scope": "openid", "expires_at": time.time() + 3600}
    userinfo = {"name": "Ann", "preferred_username": "ann", "profile": "", "picture": ""}
    monkeypatch.setattr("gradio.oauth._get_mocked_oauth_info", lambda: {**info, "userinfo": userinfo})
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    host = Host.from_environment(
        {"OAUTH_CLIENT_ID": "x", "SPACE_ID": "you/alloy", "ALLOY_DOWNLOADS": str(tmp_path / "downloads")}
    )
    gate = threading.Event()

    class Gated(JobBoard):
        def submit(self, visitor: str, title: str, models: Any, work: Any, *rest: Any) -> str:
            def gated(on_progress: Callable[[Progress], None], cancel: threading.Event) -> Result:
                assert gate.wait(300)
                result: Result = work(on_progress, cancel)
                return result

            return super().submit(visitor, title, models, gated, *rest)

    monkeypatch.setattr("ui.page.JobBoard", Gated)
    pages: list[gr.Blocks] = []

    def serve(**queue: int) -> Space:
        page: gr.Blocks = build_page(host)
        pages.append(page)
        page.queue(**{"default_concurrency_limit": 4, **queue})
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_settings(page, host))
        return Space(url, token, host, gate, tmp_path / "gradio")

    yield serve
    gate.set()
    for page in pages:
        page.close()


def sign_in(page: Page) -> None:
    page.get_by_role("button", name="Sign in with Hugging Face").click()
    expect(page.get_by_text("Signed in as ann")).to_be_visible()
    until_recipe(page, "merge_method", "slerp")  # the page was loaded anew, and has put the draft back


def merge(page: Page, name: str, state: str = "Merging") -> None:
    write(page, RECIPE)
    expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
    page.get_by_label("Name of the new model").fill(name)
    page.get_by_role("button", name="Merge", exact=True).click()
    expect(page.get_by_role("heading", name=re.compile(f"{state}: ann.{name}"))).to_be_visible()


def remembered(page: Page, secret: str) -> dict[str, str]:
    """What the page keeps in the browser, read as Gradio's own code reads it (OpenSSL's salted form of AES)."""
    stored: dict[str, str] = json.loads(page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})"))
    return {key: opened(value, secret) for key, value in stored.items()}


def opened(value: str, secret: str) -> str:
    if ":U2FsdGVk" not in value:
        return value
    sealed, password = base64.b64decode(value.partition(":")[2]), sha256(secret.encode()).hexdigest().encode()
    salt, key = sealed[8:16], b""
    while len(key) < 48:
        key += md5(key[-16:] + password + salt).digest()
    plain = Cipher(AES(key[:32]), CBC(key[32:48])).decryptor()
    return plain.update(sealed[16:]).decode()


def test_a_merge_outlives_its_tab_and_the_way_back_leads_to_it(
    open_space: Callable[..., Space], browser: Browser, hub: Hub
) -> None:
    space = open_space()
    with visit(browser, space.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        sign_in(page)
        merge(page, "mine")

        # Reloaded in the middle: the merge, the recipe and the name are there.
        page.reload()
        seen.complaints[:] = [it for it in seen.complaints if not BROKEN_OFF.search(it)]
        expect(page.get_by_role("heading", name="Merging: ann/mine")).to_be_visible()
        until_recipe(page, "merge_method", "linear")
        quiet(seen)

        # Another visitor at the same time sees nothing of it.
        with visit(browser, space.url) as other:
            until_recipe(other.page, "merge_method", "slerp")
            expect(other.page.get_by_text("Nothing merged yet")).to_be_visible()
            assert not re.search(r"\bann\b", other.page.content())
            quiet(other)

        # The tab is closed, the merge ends, and a new tab finds the result.
        context = page.context
        page.close()
        space.gate.set()
        page = context.new_page()
        page.goto(space.url)
        expect(page.get_by_role("heading", name="Done: ann/mine")).to_be_visible()
        assert hub.repo("ann/mine").private

        # Away and back again, by the browser's own button.
        page.get_by_role("button", name="Linear average").click()
        page.goto(f"{space.url}gradio_api/info")
        page.go_back()
        expect(page.get_by_role("heading", name="Done: ann/mine")).to_be_visible()
        until_recipe(page, "merge_method", "linear")
        expect(page.get_by_text("Signed in as ann")).to_be_visible()


def watch_loading(monkeypatch: pytest.MonkeyPatch) -> queue.SimpleQueue[str]:
    """The names of the models that are loaded before anything is sent, none of which really is."""
    loaded: queue.SimpleQueue[str] = queue.SimpleQueue()

    def load(model: FetchedModel) -> Iterator[None]:
        loaded.put(model.name)
        yield

    monkeypatch.setattr("ui.chat.tab.loaded", load)
    return loaded


def test_a_finished_merge_is_made_ready_when_the_chat_tab_is_opened(
    open_space: Callable[..., Space], browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = watch_loading(monkeypatch)
    space = open_space()
    space.gate.set()
    with visit(browser, space.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        sign_in(page)
        merge(page, "mine", "(Merging|Done)")
        expect(page.get_by_role("heading", name="Done: ann/mine")).to_be_visible()

        page.get_by_role("tab", name="Chat").click()

        expect(page.get_by_label("Model", exact=True)).to_have_value("ann/mine")
        assert loaded.get(timeout=60) == "ann/mine"
        quiet(seen)


def test_nothing_that_looks_like_a_token_is_anywhere(
    open_space: Callable[..., Space],
    browser: Browser,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = watch_loading(monkeypatch)
    space = open_space()
    space.gate.set()
    with visit(browser, space.url) as seen:
        page = seen.page
        bodies: list[str] = []
        page.on("response", lambda answer: bodies.append(f"{answer.url} {answer.all_headers()}"))
        until_recipe(page, "merge_method", "slerp")
        sign_in(page)
        merge(page, "mine", "(Merging|Done)")
        expect(page.get_by_role("heading", name="Done: ann/mine")).to_be_visible()
        page.get_by_role("button", name="Chat with it").click()
        page.get_by_label("Your message").fill("Hello!")
        assert loaded.get(timeout=60) == "ann/mine"  # before anything is sent
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_text(re.compile(r"\d+ tokens, [\d.]+/s")).first).to_be_visible()

        kept = remembered(page, space.host.browser_key)
        assert "ann/mine" in kept["alloy-merges"]  # so it was opened
        shown = page.content() + page.url + json.dumps(kept)
        cookies = page.context.cookies()
        quiet(seen)
    for address in ("config", "gradio_api/info", "gradio_api/openapi.json", "gradio_api/mcp/schema"):
        shown += httpx2.get(f"{space.url}{address}").text
    written = [path.read_bytes() for path in space.temp.rglob("*") if path.is_file()]
    said = "".join(capfd.readouterr())
    assert not TOKENS.search(shown), TOKENS.search(shown)
    assert space.token not in shown + said + "".join(bodies)
    assert not [content for content in written if space.token.encode() in content]
    # Gradio's own cookie of the sign-in holds it, where no script can read it and other sites cannot ask for it.
    assert all(cookie["httpOnly"] for cookie in cookies)


class Crowd:
    """Two visitors whose models answer, and a third who waits in line behind them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._begun, self._served = threading.Semaphore(0), threading.Event()
        self._jobs: list[Job] = []
        monkeypatch.setattr("ui.api.fetch_model", self._answer)

    def _answer(self, *_: object, **__: object) -> None:
        self._begun.release()
        assert self._served.wait(300)
        raise EvaluationError(Problem("empty-text"))

    def come(self, url: str) -> None:
        """Returns when all three are where they should be."""
        client = Client(url, verbose=False, analytics_enabled=False)
        for _ in range(2):
            self._jobs.append(client.submit("ann/one", "Hello", api_name="/chat"))
            assert self._begun.acquire(timeout=60)
        self._jobs.append(client.submit("ann/one", "Hello", api_name="/chat"))
        deadline = time.monotonic() + 60
        while self._jobs[-1].status().code is not Status.IN_QUEUE:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def leave(self) -> None:
        """Let them go, all with an answer."""
        self._served.set()
        assert [job.result()["ok"] for job in self._jobs] == [False] * 3


def test_a_full_queue_is_told_in_words_and_nothing_is_lost(
    open_space: Callable[..., Space], browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(monkeypatch)
    space = open_space(max_size=1)
    with visit(browser, space.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        sign_in(page)
        write(page, RECIPE)
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        crowd.come(space.url)

        busy = page.get_by_text(ENGLISH.page["page.busy"]).first
        page.get_by_role("button", name="Merge", exact=True).click()
        expect(busy).to_be_visible()
        page.get_by_role("tab", name="Chat").click()
        page.get_by_label("Your message").fill("Do not lose me")
        with page.expect_response(lambda answer: answer.status == 429):
            page.get_by_role("button", name="Send").click()
        expect(busy).to_be_visible()
        with visit(browser, space.url, locale="ko-KR") as korean:
            korean.page.get_by_role("button", name=KOREAN.page["merge.button"], exact=True).click()
            expect(korean.page.get_by_text(KOREAN.page["page.busy"]).first).to_be_visible()
            assert "currently busy" not in korean.page.locator("body").inner_text()
        with pytest.raises(QueueError):  # a client reads the status
            Client(space.url, verbose=False, analytics_enabled=False).predict(api_name="/methods")

        crowd.leave()
        expect(page.get_by_label("Your message")).to_have_value("Do not lose me")
        page.get_by_role("tab", name="Merge").click()
        until_recipe(page, "merge_method", "linear")
        space.gate.set()
        page.get_by_role("button", name="Merge", exact=True).click()
        expect(page.get_by_role("heading", name=re.compile("Done: ann.one-linear"))).to_be_visible()

        # The suggested name is taken now, and the next one is suggested.
        page.get_by_role("button", name="Check the plan").click()
        name = page.get_by_label("Name of the new model")
        expect(name).to_have_attribute("placeholder", "one-linear-2")
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()


def test_who_waits_for_an_answer_is_told_the_place_in_line(
    open_space: Callable[..., Space], browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(monkeypatch)
    space = open_space()
    with visit(browser, space.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        crowd.come(space.url)

        page.get_by_role("tab", name="Chat").click()
        page.get_by_label("Your message").fill("Hello!")
        page.get_by_role("button", name="Send").click()

        expect(page.get_by_text("queue: 2/2")).to_be_visible()
        crowd.leave()
        expect(page.get_by_role("alert").locator("visible=true")).to_contain_text("Qwen/Qwen2.5-0.5B")
        expect(page.get_by_text(re.compile("queue:"))).to_have_count(0)
        quiet(seen)
