"""The Search tab in a real browser: three clicks of the demo to a recipe that was judged, and what its buttons do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.hub import Hub
from tests.ui.conftest import Site, started, visit
from tests.ui.speaker import tiny_speaker
from tests.ui.test_browser import COLOURS, recipe
from ui.languages.english import ENGLISH
from ui.languages.korean import KOREAN
from ui.languages.language import Language

pytestmark = [pytest.mark.browser, pytest.mark.nightly, pytest.mark.timeout(1200)]

SLOW = 600_000  # milliseconds, on a busy machine without a GPU
# Where pictures of the tab are kept, to be looked at.
PICTURES = os.environ.get("ALLOY_PICTURES", "")


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)


def sound(page: Page) -> None:
    """Nothing breaks out of the page, and axe finds nothing."""
    # Colours that fade in would be measured on their way.
    page.add_style_tag(content="*, ::before, ::after { transition: none !important; }")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    is_dark = page.evaluate("document.body.classList.contains('dark')")
    found = Axe().run(page, options=COLOURS if is_dark else None).response["violations"]
    assert not found, [(it["id"], [node["html"][:200] for node in it["nodes"]]) for it in found]


@contextmanager
def returned(
    browser: Browser,
    site: Site,
    state: str,
    *,
    width: int = 1280,
    theme: str = "light",
    locale: str = "en-US",
) -> Iterator[Page]:
    """A visitor who comes back."""
    context = browser.new_context(
        storage_state=state, viewport={"width": width, "height": 900}, locale=locale
    )
    page = context.new_page()
    page.set_default_timeout(SLOW)
    page.goto(f"{site.url}?__theme={theme}")
    page.get_by_role("heading", name="Alloy").wait_for()
    try:
        yield page
    finally:
        context.close()


def open_search(page: Page) -> None:
    page.get_by_role("tab", name="Search", exact=True).click()
    expect(page.get_by_role("button", name="Use this recipe")).to_be_visible()


def search_the_demo(page: Page) -> None:
    """The three clicks."""
    page.get_by_role("tab", name="Search", exact=True).click()
    expect(page.get_by_text("The recipe of the Merge tab: SLERP.")).to_be_visible()
    page.get_by_role("button", name="Pirate, bard and plain English").click()
    expect(page.get_by_text("The recipe of the Merge tab: Task Arithmetic.")).to_be_visible()
    expect(page.get_by_label("weight of SmolLM2-135M-Pirate")).to_be_checked()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("h2").filter(has_text=re.compile("^Search(ing|ed): "))).to_be_visible()


@pytest.fixture(scope="module")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The demo, with tiny random models in the places of the real ones."""
    folder = tmp_path_factory.mktemp("small")
    base = tiny_speaker(folder / "base")
    with Hub() as hub:
        hub.open_pages = True
        token = hub.add_user("demo", orgs=["alloy"])
        hub.put("alloy/SmolLM2-135M-Instruct", base)
        for seed, name in enumerate(("Pirate", "Bard"), 1):
            hub.put(f"alloy/SmolLM2-135M-{name}", tiny_speaker(folder / name, seed, base))
        with started(hub, folder, ALLOY_DEMO="1", HF_TOKEN=token) as (url, _):
            yield Site(url, hub, token, folder / "app.log")


@pytest.fixture(scope="module")
def found(small_site: Site, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with the state of a browser whose search has ended."""
    state = tmp_path_factory.mktemp("browser") / "state.json"
    with visit(browser, small_site.url) as seen:
        page = seen.page
        search_the_demo(page)
        # The search goes on while the page is reloaded.
        page.reload()
        page.get_by_role("tab", name="Search", exact=True).click()
        expect(page.get_by_role("heading", name="Searched: ")).to_be_visible(timeout=SLOW)
        page.context.storage_state(path=state)
        assert seen.strangers == []
    return str(state)


@pytest.mark.parametrize(
    ("width", "theme", "language"),
    [(1280, "light", ENGLISH), (1280, "dark", KOREAN), (390, "light", KOREAN), (390, "dark", ENGLISH)],
    ids=["wide", "wide dark Korean", "phone Korean", "phone dark"],
)
def test_what_was_found_can_be_read(
    small_site: Site, browser: Browser, found: str, width: int, theme: str, language: Language
) -> None:
    locale = {"en": "en-US", "ko": "ko-KR"}[language.tag]
    with returned(browser, small_site, found, width=width, theme=theme, locale=locale) as page:
        page.get_by_role("tab", name=str(language.page["page.tab.search"])).click()
        expect(page.locator("h2", has_text=str(language.page["search.done"]))).to_be_visible()
        picture(page, f"done-{width}-{theme}-{language.tag}")
        expect(page.locator(".alloy-trials")).to_have_count(2)  # trials, and where two texts pull apart
        sound(page)


def test_its_recipe_is_used_tried_and_merged(small_site: Site, browser: Browser, found: str) -> None:
    with returned(browser, small_site, found) as page:
        open_search(page)
        page.locator("summary", has_text="The recipe").click()
        best = yaml.safe_load(page.locator("details[open] pre").first.inner_text())
        assert {len(model["parameters"]["weight"]) for model in best["models"]} == {3}

        page.get_by_role("button", name="Use this recipe").click()
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        assert recipe(page) == best

        open_search(page)
        page.get_by_role("button", name="Try it", exact=True).click()
        expect(page.get_by_label("Model", exact=True)).to_have_value(re.compile("^try: "), timeout=SLOW)
        page.get_by_label("Your message").fill("What is the capital of Italy?")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_text(re.compile(r"\d+ tokens, [\d.]+/s")).first).to_be_visible(timeout=SLOW)

        open_search(page)
        page.get_by_role("button", name="Merge it").click()
        expect(page.get_by_role("heading", name=re.compile("^Done: "))).to_be_visible(timeout=SLOW)
        link = page.get_by_role("link", name="Open demo/").get_attribute("href") or ""
        card = small_site.hub.read(link.removeprefix(f"{small_site.hub.endpoint}/"), "README.md").decode()
        assert "How the recipe was found" in card and "trials (gradient, seed 0)" in card
        picture(page, "merged")


@pytest.mark.real_models
def test_three_clicks_of_the_demo_find_a_recipe_that_is_better(site: Site, browser: Browser) -> None:
    """In two minutes, where two cores are idle: a machine with other work scores few trials in that time."""
    with visit(browser, site.url) as seen:
        page = seen.page
        search_the_demo(page)
        expect(page.get_by_role("heading", name="Searched: ")).to_be_visible(timeout=SLOW)
        expect(page.get_by_text("documents that the search never used").first).to_be_visible()
        row = page.get_by_role("row").filter(has_text="the plain average")
        expect(row.get_by_role("cell").last).to_have_text("better")
        expect(page.get_by_text("The best numbers by layer")).to_be_visible()
        sound(page)
        picture(page, "demo")
