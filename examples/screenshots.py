"""Pictures of every tab, for people to look at: `python -m examples.screenshots FOLDER`.

Starts the demo's app on its loopback Hub, merges and chats in it, and walks all tabs at the width of a desktop and
of a phone, light and dark, in English and Korean. Needs what the tests need: Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from examples.demo import app, free_port, hub_with_models

WIDTHS, THEMES, LOCALES = (1280, 390), ("light", "dark"), ("en-US", "ko-KR")
TABS = ("merge", "chat", "score", "methods")
PATIENCE = 300_000  # milliseconds
QUESTION = {"en-US": "What is the capital of Italy?", "ko-KR": "이탈리아의 수도는 어디인가요?"}


def walk(page: Page, locale: str, first: bool) -> Iterator[str]:
    """Go through the tabs; yields the name of what is to be seen, when it is."""
    tabs = page.get_by_role("tab")
    page.locator(".alloy-good").first.wait_for()
    if first:
        page.locator(".alloy-go button").first.click()
    page.locator(".alloy-good .alloy-result").wait_for()
    yield "merge"
    tabs.nth(1).click()
    panel = page.get_by_role("tabpanel").locator("visible=true")
    panel.locator("button.label-wrap").first.click()
    panel.locator("input[type=number]").nth(1).fill("24")
    message = panel.locator("textarea").first
    message.fill(QUESTION[locale])
    message.press("Enter")
    panel.get_by_test_id("bot").nth(1).wait_for()
    page.wait_for_function("document.querySelectorAll('.alloy-method').length > 0")
    panel.locator("button.label-wrap").first.click()
    yield "chat"
    tabs.nth(2).click()
    panel.locator("button.primary").first.click()
    panel.locator("table tbody .number").nth(11).wait_for()
    yield "score"
    tabs.nth(3).click()
    panel.locator("svg.alloy-plane").first.wait_for()
    yield "methods"


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
        kept = None  # what the first visitor's browser remembers: the others have merged the same
        for locale, theme, width in itertools.product(LOCALES, THEMES, WIDTHS):
            context = browser.new_context(
                viewport={"width": width, "height": 900}, locale=locale, storage_state=kept
            )
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{port}/?__theme={theme}")
            for name in walk(page, locale, first=kept is None):
                page.wait_for_timeout(700)  # colours fade in
                page.screenshot(
                    path=folder / f"{name}-{width}-{theme}-{locale[:2]}.png",
                    full_page=True,
                    animations="disabled",
                )
                print(name, width, theme, locale, flush=True)
            kept = kept or context.storage_state()
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
