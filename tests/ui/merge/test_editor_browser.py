"""The editor in a browser: nothing that a visitor wrote is lost, and what the page did is said where the eye is."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.ui.conftest import Site, visit
from tests.ui.test_browser import FIRST, SECOND, quiet, until_recipe, write
from ui.hub.recipes import query_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def text_of(page: Page) -> str:
    return page.locator(".alloy-yaml .cm-content").inner_text().strip()


def test_the_keyboard_leaves_the_editor_and_a_paused_form_is_out_of_reach(
    site: Site, browser: Browser
) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        editor = page.get_by_role("textbox", name="Recipe (YAML)")
        before = text_of(page)
        editor.click()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('.cm-editor') === null")
        assert text_of(page) == before

        write(page, f"merge_method: slerp\nmodels: [{{model: {FIRST}}}]\nslices: 3\n")
        expect(page.get_by_text("The form is paused")).to_be_visible()
        page.wait_for_function("document.querySelector('.alloy-fields').inert")

        # What prevents a merge is said below the button that was pressed.
        page.get_by_role("button", name="Merge", exact=True).click()
        button = page.get_by_role("button", name="Merge", exact=True)
        problems = page.get_by_role("heading", name="problems to fix").last
        expect(problems).to_be_in_viewport()
        assert button.bounding_box()["y"] < problems.bounding_box()["y"]  # type: ignore[index]
        page.get_by_role("button", name="Discard the YAML").click()
        page.wait_for_function("!document.querySelector('.alloy-fields').inert")
        quiet(seen)


def test_a_recipe_that_comes_from_elsewhere_says_so_and_is_undone(site: Site, browser: Browser) -> None:
    indented = (
        f"   merge_method: linear\n   models:\n   - model: {SECOND}\n     parameters: {{weight: 0.25}}\n"
    )
    with visit(browser, site.url, query=query_of(indented)) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "linear")
        expect(page.get_by_text("The recipe of the link you opened is shown.")).to_be_visible()
        expect(page.get_by_text("The form is paused")).to_be_hidden()

        page.get_by_label("Name of the new model").fill("comes-back")
        page.get_by_role("button", name="Merge", exact=True).click()
        page.get_by_role("button", name="Stop this merge").or_(
            page.get_by_role("button", name="Use its recipe")
        ).first.wait_for()
        page.get_by_role("button", name="DARE", exact=True).click()
        until_recipe(page, "merge_method", "dare_ties")
        page.get_by_role("button", name="Use its recipe").click()
        until_recipe(page, "merge_method", "linear")
        expect(page.get_by_text("comes-back: recipe loaded.")).to_be_in_viewport()
        page.get_by_role("button", name="Undo", exact=True).click()
        until_recipe(page, "merge_method", "dare_ties")
        quiet(seen)
