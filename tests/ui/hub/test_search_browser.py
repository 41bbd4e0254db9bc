"""The search in a real browser: what the Hub says stands below each name, and the name alone is what is chosen."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.ui.conftest import Site, visit
from tests.ui.test_browser import FIRST, SECOND, quiet, until_recipe

pytestmark = [pytest.mark.browser, pytest.mark.real_models, pytest.mark.timeout(1200)]


def test_a_list_says_what_each_model_is(site: Site, browser: Browser) -> None:
    config = b'{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}'
    site.hub.put("alloy/SmolGPT", {"config.json": config})
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        field = page.get_by_label("Model 2", exact=True)
        field.click()
        field.fill("")
        field.press_sequentially("smol", delay=20)

        relative = page.get_by_role("option", name=FIRST, exact=True)
        expect(relative).to_have_accessible_description("llama · 135 M · apache-2.0")
        stranger = page.get_by_role("option", name="alloy/SmolGPT", exact=True)
        expect(stranger).to_have_accessible_description("gpt2 · does not match llama: different architecture")
        adapter = page.get_by_role("option", name=f"{SECOND}-LoRA", exact=True)
        expect(adapter).to_have_accessible_description("apache-2.0 · adapter: write base+adapter")
        relative.click()

        expect(field).to_have_value(FIRST)
        until_recipe(page, "models", [{"model": SECOND}, {"model": FIRST}])
        quiet(seen)


def test_a_word_that_was_typed_to_search_is_no_model(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        field = page.get_by_label("Model 2", exact=True)
        before = field.input_value()
        field.click()
        field.fill("")
        field.press_sequentially("korean", delay=20)
        field.press("Tab")
        expect(field).to_have_value(before)
        until_recipe(page, "models", [{"model": SECOND}, {"model": before}])

        # A name with an owner counts.
        field.click()
        field.fill("ann/korean")
        field.press("Tab")
        until_recipe(page, "models", [{"model": SECOND}, {"model": "ann/korean"}])
        quiet(seen)
