"""A first visit, timed: from opening the demo's page to the first words of an own merged model.

python -m bench.visit

Each visit meets an app that was just started and a browser that was never here. It goes by a preset, by a recipe that
is pasted, by the preset again but to the Chat tab by its own name, where nothing is loaded before the message is sent,
and by the preset, tried in memory before anything is saved, with a suggested message. Other messages are typed at
TYPING milliseconds a letter. Of the opening it says after how long the form can be used, and what was sent until then.
"""

from __future__ import annotations

import argparse
import re
import shutil
import time
from dataclasses import dataclass, field

from playwright.sync_api import Browser, Locator, Page, sync_playwright

from examples.demo import app, free_port, hub_with_models
from ui.languages.english import ENGLISH

TYPING = 80
PATIENCE = 300_000  # milliseconds
MESSAGE = "What is the capital of Italy?"
PASTED = """merge_method: ties
base_model: alloy/SmolLM2-135M-Instruct
models:
  - model: alloy/SmolLM2-135M-Pirate
    parameters: {weight: 1, density: 0.5}
  - model: alloy/SmolLM2-135M-Bard
    parameters: {weight: 1, density: 0.5}
"""


@dataclass
class Visit:
    """A visitor on the page.

    Attributes:
        clicks: and presses of a key that stand for one
        below: clicks on what was below the lower edge of the window
        sent: bytes that the browser was sent, compressed
        seen: seconds since the page was asked for, by what was there then
        ran_as: the device, number format and program of the model that answered
    """

    page: Page
    began: float = field(default_factory=time.monotonic)
    clicks: int = 0
    below: int = 0
    sent: int = 0
    seen: dict[str, float] = field(default_factory=dict)
    ran_as: str = ""

    def weigh(self) -> None:
        """Count what the browser is sent from now on."""
        network = self.page.context.new_cdp_session(self.page)
        network.send("Network.enable")
        network.on("Network.loadingFinished", self._weighed)

    def _weighed(self, loaded: dict[str, float]) -> None:
        self.sent += int(loaded["encodedDataLength"])

    def click(self, what: Locator) -> None:
        what.wait_for()
        self.below += what.evaluate("it => it.getBoundingClientRect().bottom > innerHeight")
        what.click()
        self.clicks += 1

    def mark(self, what: str) -> None:
        self.seen[what] = time.monotonic() - self.began

    def button(self, key: str) -> Locator:
        return (
            self.page.get_by_role("button", name=ENGLISH.page[key], exact=True).locator("visible=true").first
        )

    def planned(self, method: str) -> None:
        """Wait for the plan of a merge by this method."""
        self.page.locator(f"input[placeholder*='-{method}']").wait_for()
        self.page.get_by_role("heading", name=ENGLISH.page["plan.good"]).wait_for()
        self.mark("plan")

    def paste(self, recipe: str) -> None:
        self.click(self.page.locator(".alloy-yaml .cm-content"))
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(recipe)
        self.clicks += 1

    def merge_and_ask(self, warm: bool) -> None:
        self.click(self.button("merge.button"))
        self.page.get_by_role("heading", name=re.compile(f"^{ENGLISH.page['jobs.done']}: ")).wait_for()
        self.mark("merged")
        chat = self.page.get_by_role("tab", name=ENGLISH.page["page.tab.chat"])
        self.click(self.button("merge.chat") if warm else chat)
        self.page.get_by_role("button", name=ENGLISH.page["chat.send"], exact=True).wait_for()
        message = self.page.get_by_label(ENGLISH.page["chat.prompt"])
        message.click()
        message.press_sequentially(MESSAGE, delay=TYPING)
        message.press("Enter")
        self.clicks += 1
        self.mark("sent")
        self.answered()

    def try_and_ask(self) -> None:
        self.click(self.button("try.button"))
        suggested = self.button("chat.suggested.1")
        suggested.wait_for()
        self.mark("merged")
        self.click(suggested)
        self.mark("sent")
        self.answered()

    def answered(self) -> None:
        """Wait for the first words."""
        self.page.wait_for_function(
            "[...document.querySelectorAll('[data-testid=bot]')].some(it => it.innerText.trim())"
        )
        self.mark("first words")
        line = self.page.locator(".alloy-method", has_text="cpu, ").locator("visible=true").first
        self.ran_as = line.inner_text().partition(" · ")[0]


def visit(browser: Browser, url: str, pasted: bool = False, warm: bool = True, tried: bool = False) -> Visit:
    """One visit, from opening to the first words."""
    context = browser.new_context(locale="en-US", viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    one = Visit(page)
    one.weigh()
    page.goto(url)
    page.locator(".alloy-yaml .cm-content", has_text="merge_method").wait_for()
    one.mark("form")
    opened = one.sent
    if pasted:
        one.paste(PASTED)
        one.planned("ties")
    else:
        one.click(one.button("preset.linear"))
        one.planned("linear")
    if tried:
        one.try_and_ask()
    else:
        one.merge_and_ask(warm)
    one.sent = opened
    context.close()
    return one


def main() -> None:
    argparse.ArgumentParser("python -m bench.visit", description=__doc__).parse_args()
    ways = {
        "by a preset": {},
        "by a pasted recipe": {"pasted": True},
        "by a preset, to the Chat tab by its name": {"warm": False},
        "by a preset that is tried, and a suggested message": {"tried": True},
    }
    with hub_with_models(None) as (hub, token), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for way, how in ways.items():
            port = free_port(range(7960, 8060))
            with app(hub.endpoint, token, port):
                one = visit(browser, f"http://127.0.0.1:{port}/", **how)
            waited = one.seen["first words"] - one.seen["sent"]
            seen = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in one.seen.items())
            clicks = f"{one.clicks} clicks, {one.below} of them below the window's lower edge"
            print(f"{way}: {one.sent / 1e6:.2f} MB sent for the form; {seen}; {clicks};", end=" ")
            print(f"from sending to the first words {waited:.2f} s ({one.ran_as})", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
