"""Cut and heal the demo in a real browser: which layers matter, a preset that is worse than its parent, and Heal it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from tests.ui.conftest import Site, visit
from tests.ui.search.test_browser import picture, returned, sound
from tests.ui.test_browser import quiet, recipe, until_recipe
from ui.heal.offer import USUAL_STEPS
from ui.languages.english import ENGLISH
from ui.languages.korean import KOREAN
from ui.languages.language import Language

pytestmark = [
    pytest.mark.browser,
    pytest.mark.real_models,
    pytest.mark.nightly,
    pytest.mark.timeout(3600),
]

SLOW = 1_800_000  # milliseconds, on a busy machine without a GPU
CUT = "Leave out four layers, and heal"
LOOKS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


def ranges(page: Page) -> list[list[int]]:
    """The ranges of layers in the recipe."""
    return [part["layer_range"] for one in recipe(page).get("slices", []) for part in one["sources"]]


def test_a_click_on_a_cut_writes_its_slices(site: Site, browser: Browser, tmp_path: Path) -> None:
    state = str(tmp_path / "state.json")
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        page.get_by_role("button", name=CUT).click()
        until_recipe(page, "merge_method", "passthrough")
        assert ranges(page) == [[0, 15], [19, 30]]
        page.get_by_role("button", name="Which layers matter? Cut and heal").click()
        page.get_by_role("spinbutton", name="Cuts to try").fill("2")
        page.get_by_role("spinbutton", name="Cuts to try").press("Tab")
        page.get_by_role("button", name="Measure layers").click()

        chart = page.get_by_role("img", name=re.compile("^Influence of each layer"))
        expect(chart.locator("rect")).to_have_count(30, timeout=SLOW)
        use = page.get_by_role("button", name=re.compile(r"^Leave out \d"))
        expect(use).to_have_count(2, timeout=SLOW)
        expect(chart.locator("rect.dropped")).to_have_count(4)
        picture(page, "layers-1280-light")
        other = use.last.inner_text().removeprefix("Leave out ")
        use.last.click()
        expect(page.get_by_text(f"The recipe now leaves out the layers {other}.")).to_be_visible()
        kept = [layer for first, end in ranges(page) for layer in range(first, end)]
        left_out = sorted({*range(30)} - {*kept})
        assert len(left_out) == 4
        assert left_out == [
            layer
            for part in other.split(", ")
            for layer in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
        ]

        page.get_by_role("button", name="How long will it take?").click()
        expect(page.get_by_text(re.compile("7,680 tokens, about .* free of charge"))).to_be_visible(
            timeout=SLOW
        )
        quiet(seen)
        page.context.storage_state(path=state)


def test_the_demo_heals_from_a_preset(site: Site, browser: Browser, tmp_path: Path) -> None:
    state = str(tmp_path / "state.json")
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        # What predicts exactly as its parent does is not offered healing.
        page.get_by_role("button", name="Depth up-scaling, silent copies").click()
        until_recipe(page, "merge_method", "passthrough")
        merge(page, "taller")
        expect(page.get_by_text("There is nothing to heal.")).to_be_visible(timeout=SLOW)
        expect(page.get_by_role("button", name="Heal it").locator("visible=true")).to_have_count(0)

        page.get_by_role("button", name=CUT).click()
        page.wait_for_function("() => document.body.innerText.includes('four layers of its middle')")
        merge(page, "shorter")
        worse = page.get_by_text(
            re.compile(r"It predicts worse than its parent: perplexity 60\.\d+ instead of 41\.\d+")
        )
        expect(worse).to_be_visible(timeout=SLOW)
        offer = page.get_by_text(f"Healing it with {USUAL_STEPS} steps takes about")
        expect(offer).to_contain_text("free of charge", timeout=SLOW)
        expect(page.get_by_text(re.compile(r"On a rented machine \(.+\): about .+, .*\$"))).to_be_visible()
        picture(page, "worse-1280-light")
        page.locator(".alloy-actions").get_by_role("button", name="Heal it").locator("visible=true").click()

        expect(page.get_by_role("heading", name=re.compile("shorter-healed"))).to_be_visible(timeout=SLOW)
        expect(page.get_by_text(re.compile(rf"Step \d+ of {USUAL_STEPS}"))).to_be_visible(timeout=SLOW)
        expect(page.get_by_role("img", name=re.compile("^Loss of "))).to_be_visible()
        picture(page, "healing-1280-light")
        expect(page.get_by_role("heading", name="Done: demo/shorter-healed")).to_be_visible(timeout=SLOW)
        expect(
            page.get_by_text("It predicts better than before: the whole 95 % interval says so.")
        ).to_be_visible()
        table = page.get_by_role("table").filter(has_text="its parent").first
        rows = [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]
        assert [row[0] for row in rows] == ["before", "after", "its parent"]
        before, after, parent = (float(row[1]) for row in rows)
        assert parent < after < 0.9 * before
        quiet(seen)
        page.context.storage_state(path=state)
    card = site.hub.read("demo/shorter-healed", "README.md").decode()
    assert "## Training" in card
    assert [yaml.safe_load(card.partition("---")[2].partition("---")[0])]

    for language in (ENGLISH, KOREAN):
        for width, theme in LOOKS:
            look(browser, site, state, language, width, theme)


def merge(page: Page, name: str) -> None:
    page.get_by_label("Name of the new model").fill(name)
    begin = page.get_by_role("button", name="Merge", exact=True)
    expect(begin).to_be_enabled(timeout=SLOW)
    begin.click()
    expect(page.get_by_role("heading", name=re.compile(f"^Done: .*{name}$"))).to_be_visible(timeout=SLOW)


def look(browser: Browser, site: Site, state: str, language: Language, width: int, theme: str) -> None:
    """Nothing breaks out of the page, in either language, on a phone, in the dark."""
    locale = "ko-KR" if language is KOREAN else "en-US"
    with returned(browser, site, state, width=width, theme=theme, locale=locale) as page:
        said = language.page["heal.healed"]
        expect(page.get_by_text(said)).to_be_visible(timeout=SLOW)
        offered = language.page["heal.offer.here"].partition("}")[2].partition("{")[0].strip()
        expect(page.get_by_text(offered).first).to_be_visible()
        heading = language.page["heal.heading"]
        page.get_by_role("button", name=heading).click()
        expect(page.get_by_role("button", name=language.page["heal.measure"])).to_be_visible()
        sound(page)
        picture(page, f"healed-{width}-{theme}-{locale[:2]}")
