"""Pictures of every tab, for people to look at: `python -m examples.screenshots FOLDER`.

Starts the demo's app on its loopback Hub, merges, chats and scores in it, and takes every tab at the width of a
desktop and of a phone, light and dark, in English and Korean. Needs what the tests need, Playwright and a Chromium,
and a font with Hangul.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from examples.demo import app, free_port, hub_with_models
from ui.languages.registry import LANGUAGES

WIDTHS, THEMES = {"desktop": 1280, "phone": 390}, ("light", "dark")
LOCALES = {"en": "en-US", "ko": "ko-KR"}
PATIENCE = 300_000  # milliseconds
# Whether the numbers of tokens are what they were when this was asked before.
ENDED = """() => {
    const before = window.before;
    window.before = [...document.querySelectorAll(".alloy-method")].map(line => line.innerText).join();
    return before === window.before;
}"""
QUESTION = {"en": "What is the capital of Italy?", "ko": "이탈리아의 수도는 어디인가요?"}


def walk(page: Page, language: str) -> Iterator[str]:
    """From a recipe to a scored merge; yields the name of what is to be seen, when it is."""
    said = LANGUAGES[language].page

    def click(key: str, role: str = "button") -> None:
        page.get_by_role(role, name=said[key], exact=True).locator("visible=true").first.click()  # type: ignore[arg-type]

    page.get_by_role("heading", name=said["plan.good"]).wait_for()
    yield "recipe"
    page.get_by_label(said["destination.name"]).fill(f"pirate-bard-{language}")
    click("merge.button")
    page.get_by_role("heading", name=re.compile(f"{said['jobs.done']}: pirate-bard-{language}")).wait_for()
    yield "merged"
    click("merge.chat")
    page.get_by_label(said["chat.prompt"]).fill(QUESTION[language])
    click("chat.send")
    page.get_by_role("button", name=said["vote.tie"]).wait_for()
    page.wait_for_function("document.querySelectorAll('[data-testid=bot]').length == 2")
    page.locator(".alloy-method:visible", has_text=re.compile(r"(cpu|cuda), .+ · \d")).nth(1).wait_for()
    page.wait_for_function(ENDED, polling=3000)
    yield "chat"
    click("page.tab.score", "tab")
    click("score.button")
    page.locator(".alloy-overview table").wait_for()
    yield "score"
    click("page.tab.methods", "tab")
    page.locator("svg.alloy-demo:visible").wait_for()
    yield "methods"
    click("page.tab.search", "tab")
    click("search.preset")
    page.get_by_label(said["search.guard"]).locator("visible=true").wait_for()
    yield "search"


def take(page: Page, folder: Path, name: str) -> None:
    """The page as it stands, at each width and in each theme."""
    for where, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 900})
        for theme in THEMES:
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")
            page.wait_for_timeout(700)  # colours fade in
            page.screenshot(
                path=folder / f"{name}-{where}-{theme}.png", full_page=True, animations="disabled"
            )
    page.set_viewport_size({"width": WIDTHS["desktop"], "height": 900})


def main() -> None:
    parser = argparse.ArgumentParser(description="Pictures of every tab of the demo.")
    parser.add_argument("folder", type=Path, help="where the pictures go, as PNG")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port(range(7960, 8060))
    with (
        hub_with_models(None) as (hub, token),
        app(hub.endpoint, token, port),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for language, locale in LOCALES.items():
            page = browser.new_page(locale=locale)
            page.set_default_timeout(PATIENCE)
            page.goto(f"http://127.0.0.1:{port}/?__theme=light")
            for name in walk(page, language):
                take(page, folder, f"{language}-{name}")
                print(f"{language}: {name}", flush=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
