"""Making a model in a browser: wishes, the bar, drawn curves, and the same on a phone."""

from __future__ import annotations

import re

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from tests.ui.conftest import Site, visit
from tests.ui.test_browser import FIRST, SECOND, quiet, recipe, until_recipe, write

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

PHONE = 390
BLOCKED = "document.querySelector('.alloy-go button[aria-disabled=true]') !== null"


def gradient(page: Page) -> list[float]:
    """Of SLERP's attention."""
    return list(recipe(page)["parameters"]["t"][0]["value"])


def until_gradient(page: Page, wanted: list[float]) -> None:
    until_recipe(
        page,
        "parameters",
        {"t": [{"filter": "self_attn", "value": wanted}, *recipe(page)["parameters"]["t"][1:]]},
    )


def test_a_curve_is_drawn_by_keys_and_by_the_mouse(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        page.get_by_role("button", name="Attention", exact=True).click()
        point = page.get_by_role("slider", name="t, Attention: point 1 of 5")
        expect(point).to_have_attribute("aria-valuenow", "0")
        point.focus()
        for key in ("ArrowUp", "ArrowUp", "PageUp"):
            page.keyboard.press(key)
        until_gradient(page, [0.12, 0.5, 0.3, 0.7, 1])
        expect(point).to_be_focused()
        expect(page.get_by_label("t: attention")).to_have_value("[0.12, 0.5, 0.3, 0.7, 1]")

        last = page.get_by_role("slider", name="t, Attention: point 5 of 5")
        last.scroll_into_view_if_needed()
        box = last.locator("circle").last.bounding_box()
        assert box
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"], box["y"] + 1000, steps=4)
        page.mouse.up()
        until_gradient(page, [0.12, 0.5, 0.3, 0.7, 0])

        # What is typed is drawn, and the line that was chosen stays so.
        page.get_by_label("t: attention").fill("[1, 0]")
        expect(page.get_by_role("slider", name="t, Attention: point 2 of 5")).to_have_attribute(
            "aria-valuenow", "0.75"
        )
        page.get_by_role("button", name="Same as everything else").click()
        until_recipe(page, "parameters", {"t": recipe(page)["parameters"]["t"][-2:]})
        quiet(seen)


def test_the_bar_says_what_the_plan_says_and_leads_to_what_is_wrong(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        bar = page.locator(".alloy-go")
        expect(bar).to_contain_text("Ready")
        expect(bar).to_contain_text(re.compile(r"MB .* s to demo/SmolLM2-135M-Bard-slerp"))
        expect(bar.get_by_role("button", name="Merge", exact=True)).to_be_in_viewport()

        write(page, f"merge_method: slerp\nmodels: [{{model: {FIRST}}}]\n")
        page.wait_for_function(BLOCKED)
        page.evaluate("scrollTo(0, 0)")
        bar.get_by_role("button", name="Merge", exact=True).click(force=True)  # it only leads to the plan
        expect(page.get_by_role("heading", name="to fix")).to_be_in_viewport()
        expect(page.locator(".alloy-plan").first).to_be_focused()
        expect(page.get_by_text("Nothing merged yet")).to_be_visible()

        page.get_by_role("button", name="Blend two styles").click()
        page.wait_for_function(f"!({BLOCKED})")
        quiet(seen)


def test_pasted_slices_stay_as_they_are_when_their_fields_are_drawn(site: Site, browser: Browser) -> None:
    slices = [f"  - sources: [{{model: {FIRST}, layer_range: [{first}]}}]" for first in ("0, 24", "6, 30")]
    deeper = "\n".join(["merge_method: passthrough", "slices:", *slices, ""])
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        write(page, deeper)
        expect(page.get_by_text("From 30 to 48 layers")).to_be_visible()
        expect(page.get_by_label("number input for Layers from its end")).to_have_value("24")
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        assert recipe(page) == yaml.safe_load(deeper)
        quiet(seen)


def test_a_phone_shows_the_form_in_three_screens_and_folds_the_rest(site: Site, browser: Browser) -> None:
    with visit(browser, site.url, width=PHONE) as seen:
        page = seen.page
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        expect(page.locator(".alloy-yaml .cm-content")).to_be_hidden()
        expect(page.get_by_label("Name of the new model")).to_be_hidden()
        merge = page.get_by_role("button", name="Merge", exact=True)
        expect(merge).to_be_in_viewport()

        page.get_by_role("button", name="Make my LoRA stand alone").click()
        expect(page.get_by_label("Adapter (LoRA)")).to_have_value(f"{SECOND}-LoRA")
        expect(page.get_by_label("Base of the adapter")).to_have_value(FIRST)
        page.get_by_role("button", name="Make my model deeper").click()
        expect(page.get_by_text("From 30 to 46 layers: 16 layers are there twice.")).to_be_visible()
        page.get_by_label("number input for Layers from its end").fill("10")
        page.get_by_label("number input for Layers from its end").press("Tab")
        expect(page.get_by_text("From 30 to 33 layers")).to_be_visible()
        page.get_by_role("button", name="Recipe as YAML").click()
        expect(page.locator(".alloy-yaml .cm-content")).to_contain_text("layer_range: [20, 30]")

        page.get_by_role("button", name="I have a recipe").click()
        expect(page.get_by_label("A merged model's name")).to_be_focused()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE
        quiet(seen)
