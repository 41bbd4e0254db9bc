"""What the page shows before its server has answered anything, and how exactly it is drawn."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.ui.conftest import EVENTS, Site, held, visit
from tests.ui.test_browser import BROKEN_OFF, SECOND, quiet, until_recipe

pytestmark = [pytest.mark.browser, pytest.mark.real_models, pytest.mark.nightly, pytest.mark.timeout(600)]

THIRD = "alloy/SmolLM2-135M-Bard"
# Where the fields of the form are, by their labels; what Gradio has drawn there unseen is how long it waits.
FIELDS = """[...document.querySelectorAll(".alloy-form .block")]
  .filter((it) => it.offsetParent && it.querySelector("input, textarea"))
  .map((it) => [it.innerText.split("\\n").find((line) => !/^[0-9.]+s$/.test(line)),
    Math.round(it.getBoundingClientRect().y + scrollY)])"""
# How far each line's number is from its line; the number of lines that have none.
NUMBERS = """() => {
  const tops = (choice) => [...document.querySelectorAll(choice)]
    .filter((it) => it.offsetHeight).map((it) => it.getBoundingClientRect().top);
  const lines = tops(".alloy-yaml .cm-line"), numbers = tops(".alloy-yaml .cm-lineNumbers .cm-gutterElement");
  return [lines.length - numbers.length, ...lines.map((top, place) => Math.abs(top - numbers[place]))];
}"""
# Placeholders that are cut off.
CUT = """[...document.querySelectorAll("input[placeholder], textarea[placeholder]")]
  .filter((it) => it.offsetParent && !it.value).filter((it) => {
    const style = getComputedStyle(it), pen = document.createElement("canvas").getContext("2d");
    pen.font = style.font;
    const room = it.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    return pen.measureText(it.placeholder).width > room + 1;
  }).map((it) => it.placeholder)"""


def test_the_first_paint_shows_the_form_that_stays(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        page.context.clear_cookies()
        page.evaluate("localStorage.clear()")
        with held(page, EVENTS):
            page.reload()
            seen.complaints[:] = [it for it in seen.complaints if not BROKEN_OFF.search(it)]
            expect(page.get_by_label("Method", exact=True).locator("visible=true").first).to_have_value(
                "SLERP"
            )
            expect(page.get_by_label("Model 1 (the base)", exact=True)).to_have_value(SECOND)
            expect(page.get_by_label("Model 2", exact=True)).to_have_value(THIRD)
            before = page.evaluate(FIELDS)
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        assert page.evaluate(FIELDS) == before
        quiet(seen)


def test_lines_have_their_numbers_and_no_hint_is_cut_off(site: Site, browser: Browser) -> None:
    with visit(browser, site.url, width=390) as seen:
        page = seen.page
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        page.get_by_role("button", name="Recipe as YAML").click()
        page.wait_for_function(f"Math.max(...({NUMBERS})()) < 3")
        missing, *apart = page.evaluate(NUMBERS)
        assert missing == 0 and len(apart) > 10
        for width in (390, 640, 768, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            for tab in ("Merge", "Chat", "Score", "Search", "Gallery"):
                page.get_by_role("tab", name=tab).click()
                assert page.evaluate(CUT) == [], (width, tab)
                assert "common." not in page.locator("body").inner_text()
        quiet(seen)
