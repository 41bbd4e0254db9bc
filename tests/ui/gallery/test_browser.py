"""The gallery in a browser: cards, filters, and a merge that is remixed."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.ui.conftest import Site, visit
from tests.ui.gallery.test_hub_merges import CARD, put
from tests.ui.test_browser import STILL, quiet, until_recipe

pytestmark = [pytest.mark.browser, pytest.mark.real_models]


def test_a_merge_of_the_gallery_is_found_and_remixed(site: Site, browser: Browser) -> None:
    site.hub.add_user("gallery")
    put(site.hub, "gallery/judged", card=CARD, base="gallery/base")
    put(site.hub, "gallery/trimmed", "ties", base="gallery/base")
    with visit(browser, site.url, width=390) as seen:
        page = seen.page
        page.add_style_tag(content=STILL)
        page.get_by_role("tab", name="Gallery").click()
        # What another test made the app ask the Hub for is remembered: a list of one's own is new.
        page.get_by_label("Made from", exact=True).fill("gallery/base")
        page.get_by_label("Made from", exact=True).press("Enter")
        card = page.get_by_role("article").filter(has_text="gallery/judged")
        expect(card).to_contain_text("Better than its best parent")
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert not Axe().run(page).response["violations"]
        page.get_by_label("Method", exact=True).locator("visible=true").first.click()
        page.get_by_role("option", name="TIES", exact=True).click()
        expect(card).to_be_hidden()
        page.get_by_role("button", name="Remix: gallery/trimmed").click()
        until_recipe(page, "merge_method", "ties")
        expect(page.get_by_text("The recipe of gallery/trimmed is shown.")).to_be_visible()
        quiet(seen)
