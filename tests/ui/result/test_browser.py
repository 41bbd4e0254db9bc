"""The page of a result in a browser, at its own address."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.ui.conftest import Site, visit
from tests.ui.gallery.test_hub_merges import CARD, put
from tests.ui.test_browser import COLOURS, STILL, quiet, until_recipe

pytestmark = [pytest.mark.browser, pytest.mark.real_models]


def test_an_address_opens_the_page_of_a_merge_which_leads_on(site: Site, browser: Browser) -> None:
    site.hub.add_user("shown")
    put(site.hub, "shown/judged", card=CARD, base="shown/base")
    with visit(browser, site.url, width=390, query="merge=shown/judged") as seen:
        page = seen.page
        expect(page.get_by_role("heading", name="shown/judged")).to_be_visible()
        expect(page.get_by_text("Better than its best parent")).to_be_visible()
        page.add_style_tag(content=STILL)
        for width, dark in ((390, False), (1280, True)):
            page.set_viewport_size({"width": width, "height": 900})
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert not Axe().run(page, options=COLOURS if dark else None).response["violations"]
        page.get_by_role("button", name="Share").click()
        expect(page.get_by_label("Link to share")).to_have_value(f"{site.url}share?merge=shown/judged")
        expect(page.get_by_label("Badge for its model card")).to_have_value(re.compile(r"^\[!\[Made with"))
        page.get_by_role("button", name="Back to the gallery").click()
        expect(page).not_to_have_url(re.compile("merge="))
        page.get_by_label("Made from", exact=True).fill("shown/base")
        page.get_by_label("Made from", exact=True).press("Enter")
        page.get_by_role("button", name="Open: shown/judged").click()
        expect(page).to_have_url(re.compile("merge=shown"))
        page.get_by_role("button", name="Remix", exact=True).click()
        until_recipe(page, "merge_method", "task_arithmetic")
        quiet(seen)
