"""The editor in a browser: nothing that a visitor wrote is lost, and what the page did is said where the eye is."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.ui.conftest import Site, visit
from tests.ui.test_browser import FIRST, SECOND, quiet, recipe, until_recipe, write
from ui.hub.recipes import query_of

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


COMMENTED = f"""\
# mine
merge_method: ties # by sign
base_model: {FIRST}
models:
- model: {SECOND} # arr
  parameters: {{weight: 1.0, density: 0.5}}
parameters: {{normalize: true}}"""
# Widths of the fields with a box to tick or a slider.
WIDTHS = """[...document.querySelectorAll(".alloy-fields .block")]
  .filter((field) => field.offsetParent && field.querySelector("input[type=checkbox], input[type=range]"))
  .map((field) => field.getBoundingClientRect().width)"""


def text_of(page: Page) -> str:
    return page.locator(".alloy-yaml .cm-content").inner_text().strip()


def one_at_a_time(route: Route) -> None:
    """Send a request when those before it are answered, which Playwright's handlers wait for."""
    route.fulfill(response=route.fetch())


def test_form_and_text_keep_what_the_visitor_wrote(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        # The worst order: what the browser sends twice at one moment arrives when the first has been answered.
        page.route(re.compile("/run/"), one_at_a_time)
        write(page, COMMENTED)
        expect(page.get_by_label("Method", exact=True).first).to_have_value("TIES")
        weight = page.get_by_label("number input for weight").locator("visible=true").first
        weight.fill("0.4")
        weight.press("Tab")
        changed = COMMENTED.replace("weight: 1.0", "weight: 0.4")
        expect(page.locator(".alloy-yaml .cm-content")).to_contain_text("weight: 0.4")
        assert text_of(page) == changed

        # Another method says so, keeps the model, and is undone in one press.
        page.get_by_label("Method", exact=True).first.click()
        page.get_by_role("option", name="SLERP", exact=True).click()
        expect(page.get_by_text("The recipe now uses SLERP.")).to_be_visible()
        until_recipe(page, "models", [{"model": FIRST}, {"model": SECOND}])
        assert recipe(page)["merge_method"] == "slerp"
        assert recipe(page)["base_model"] == FIRST
        page.get_by_role("button", name="Undo", exact=True).click()
        until_recipe(page, "models", [{"model": SECOND, "parameters": {"weight": 0.4, "density": 0.5}}])
        assert text_of(page) == changed
        expect(page.get_by_role("button", name="Undo", exact=True)).to_be_hidden()

        # Checkboxes and sliders have room at every width.
        for width in (430, 768, 820, 900):
            page.set_viewport_size({"width": width, "height": 900})
            widths = page.evaluate(WIDTHS)
            assert widths and min(widths) > 140, (width, widths)
        quiet(seen)


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

        # What prevents a merge is shown by the button that was pressed.
        page.get_by_role("button", name="Merge", exact=True).press("Enter")
        expect(page.get_by_role("heading", name="problems to fix").last).to_be_in_viewport()
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
