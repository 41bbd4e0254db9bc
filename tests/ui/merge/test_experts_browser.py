"""A mixture of experts on the page, in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.ui.conftest import Site, visit
from tests.ui.test_browser import SLOW, quiet, recipe, until_recipe

pytestmark = [pytest.mark.browser, pytest.mark.real_models, pytest.mark.timeout(1200)]


def test_prompts_are_typed_and_seen_to_reach_their_experts(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        page.get_by_role("button", name="Mixture of experts").click()
        until_recipe(page, "gate_mode", "router")
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        expect(page.get_by_label("Method", exact=True)).to_be_hidden()

        page.get_by_label("Prompts of expert 1").fill("Thou art a rose\nO gentle night")
        until_recipe(page, "experts", [
            recipe(page)["experts"][0],
            {
                "source_model": "alloy/SmolLM2-135M-Bard",
                "positive_prompts": ["Thou art a rose", "O gentle night"],
            },
        ])  # fmt: skip
        page.get_by_label("Try a text").fill("Ahoy, matey!")
        page.get_by_role("button", name="Which expert gets which prompt?").click()

        row = page.get_by_role("row").filter(has_text="Ahoy, matey!")
        expect(row).to_contain_text("SmolLM2-135M-", timeout=SLOW)
        expect(page.get_by_role("row").filter(has_text="Thou art a rose")).to_contain_text("Bard")

        page.get_by_role("button", name="Linear average").click()
        until_recipe(page, "merge_method", "linear")
        expect(page.get_by_label("Method", exact=True)).to_have_value("Linear")
        expect(page.get_by_label("Prompts of expert 1")).to_be_hidden()
        quiet(seen)
