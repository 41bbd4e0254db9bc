"""The Search tab in a real browser: three clicks of the demo to a recipe that was judged, and what its buttons do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.ui.conftest import Site, visit
from tests.ui.test_browser import COLOURS, RULES, recipe
from ui.languages.english import ENGLISH
from ui.languages.korean import KOREAN

pytestmark = [pytest.mark.browser, pytest.mark.real_models, pytest.mark.timeout(1800)]

SLOW = 900_000  # milliseconds, on a busy machine without a GPU
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
    found = Axe().run(page, options=COLOURS if is_dark else RULES).response["violations"]
    assert not found, [(it["id"], [node["html"][:200] for node in it["nodes"]]) for it in found]


def open_search(page: Page) -> None:
    page.get_by_role("tab", name="Search", exact=True).click()
    expect(page.get_by_role("button", name="Use this recipe")).to_be_visible()


@pytest.fixture(scope="module")
def found(site: Site, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with the state of a browser whose search of the demo has ended."""
    state = tmp_path_factory.mktemp("browser") / "state.json"
    with visit(browser, site.url) as seen:
        page = seen.page
        page.get_by_role("tab", name="Search", exact=True).click()  # the first click
        expect(page.get_by_text("The recipe of the Merge tab: SLERP.")).to_be_visible()
        page.get_by_role("button", name="Pirate, bard and plain English").click()  # the second
        expect(page.get_by_text("The recipe of the Merge tab: Task Arithmetic.")).to_be_visible()
        expect(page.get_by_label("weight of SmolLM2-135M-Pirate")).to_be_checked()
        sound(page)
        picture(page, "fields")
        page.get_by_role("button", name="Search", exact=True).click()  # the third

        expect(page.get_by_role("heading", name="Searching: ")).to_be_visible()
        expect(page.locator(".alloy-trials .trial").first).to_be_visible(timeout=SLOW)
        picture(page, "running")
        # The search goes on while the page is reloaded.
        page.reload()
        page.get_by_role("tab", name="Search", exact=True).click()
        expect(page.get_by_role("heading", name="Searched: ")).to_be_visible(timeout=SLOW)
        page.context.storage_state(path=state)
        assert seen.strangers == []
    return str(state)


def test_three_clicks_of_the_demo_find_a_recipe_that_is_better(
    site: Site, browser: Browser, found: str
) -> None:
    context = browser.new_context(
        storage_state=found, viewport={"width": 1280, "height": 900}, locale="en-US"
    )
    page = context.new_page()
    page.goto(site.url)
    open_search(page)

    expect(page.get_by_text("documents that the search never used").first).to_be_visible()
    row = page.get_by_role("row").filter(has_text="the plain average")
    expect(row.get_by_role("cell").last).to_have_text("better")
    expect(page.get_by_text("The best numbers by layer")).to_be_visible()
    context.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", [ENGLISH, KOREAN], ids=["english", "korean"])
def test_what_was_found_can_be_read(
    site: Site, browser: Browser, found: str, width: int, theme: str, language: object
) -> None:
    words = KOREAN if language is KOREAN else ENGLISH
    locale = {"en": "en-US", "ko": "ko-KR"}[words.tag]
    context = browser.new_context(
        storage_state=found, viewport={"width": width, "height": 900}, locale=locale
    )
    page = context.new_page()
    page.goto(f"{site.url}?__theme={theme}")
    page.get_by_role("heading", name="Alloy").wait_for()
    page.get_by_role("tab", name=str(words.page["page.tab.search"])).click()
    expect(page.locator("h2", has_text=str(words.page["search.done"]))).to_be_visible()
    picture(page, f"done-{width}-{theme}-{words.tag}")
    sound(page)
    context.close()


def test_its_recipe_is_used_tried_and_merged(site: Site, browser: Browser, found: str) -> None:
    context = browser.new_context(
        storage_state=found, viewport={"width": 1280, "height": 900}, locale="en-US"
    )
    page = context.new_page()
    page.goto(site.url)
    open_search(page)
    page.get_by_text("The recipe", exact=True).click()
    best = yaml.safe_load(page.locator("details pre").first.inner_text())
    weights = [model["parameters"]["weight"] for model in best["models"]]
    assert [len(weight) for weight in weights] == [3, 3] and weights != [[0.5] * 3] * 2

    page.get_by_role("button", name="Use this recipe").click()
    expect(page.get_by_role("button", name="Merge", exact=True)).to_be_visible()
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
    link = page.get_by_role("link", name=re.compile("^Open demo/"))
    name = (link.get_attribute("href") or "").removeprefix(f"{site.hub.endpoint}/")
    card = site.hub.read(name, "README.md").decode()
    assert "How the recipe was found" in card and "documents that the search never used" in card
    picture(page, "merged")
    context.close()
