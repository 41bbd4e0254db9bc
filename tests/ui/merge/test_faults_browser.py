"""Everyday faults of a recipe in a browser: each has its button, and the page says what it is doing about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.ui.conftest import QUEUED, Site, held, visit
from tests.ui.test_browser import FIRST, SECOND, SLOW, open_preset, quiet, recipe, until_recipe, write
from ui.languages.english import ENGLISH
from ui.languages.korean import KOREAN
from ui.languages.language import Language

pytestmark = [pytest.mark.browser, pytest.mark.real_models, pytest.mark.nightly, pytest.mark.timeout(1200)]

THIRD = "alloy/SmolLM2-135M-Bard"
ADAPTER = f"{SECOND}-LoRA"
CURVE = [0, 0.5, 0.3, 0.7, 1]
# Three words of English one after the other.
ENGLISH_WORDS = re.compile(r"\b[a-z]{2,} [a-z]{2,} [a-z]{2,}\b")
# What PyYAML says is quoted.
OF_THE_PARSER = re.compile("found character .*")
# Texts of the lineage's boxes.
BOXES = "[...document.querySelectorAll('.alloy-lineage g')].map((box) => box.textContent)"


@dataclass(frozen=True)
class Fault:
    """A recipe that cannot be merged.

    Args:
        text: the recipe
        button: that mends it
        then: what the recipe says afterwards
    """

    text: str
    button: str
    then: str


def of(method: str, *models: str, head: str = "", indent: str = "  ", **parameters: float) -> str:
    """A recipe whose models all have the same parameters."""
    own = ", ".join(f"{name}: {value}" for name, value in parameters.items())
    lines = [f"{indent}- {{model: {model}, parameters: {{{own}}}}}" for model in models]
    return "\n".join([f"merge_method: {method}", *head.splitlines(), "models:", *lines, ""])


FAULTS = (
    Fault(
        of("linear", ADAPTER, THIRD, weight=1), f"Change '{ADAPTER}' to '{FIRST}+{ADAPTER}'", f"{FIRST}+{ADAPTER}"
    ),
    Fault(
        of("linear", f"{SECOND}e", THIRD, weight=1), f"Change '{SECOND}e' to '{SECOND}'", f"model: {SECOND},"
    ),
    Fault(
        of("slerp", FIRST, SECOND, THIRD, head=f"base_model: {FIRST}\nparameters: {{t: 0.5}}"),
        "Use Multi-SLERP",
        "multislerp",
    ),
    Fault(of("linear", SECOND, THIRD, indent="\t", weight=1), "Replace tabs by spaces", f"  - {{model: {THIRD}"),
    Fault(of("model_stock", SECOND, head=f"base_model: {FIRST}"), "Use SLERP", "merge_method: slerp"),
    Fault(
        of("ties", SECOND, THIRD, head=f"base_model: {FIRST}", weight=1, density=50), "Fix all 2", "density: 0.5"
    ),
    Fault(
        of("ties", SECOND, THIRD, head=f"base_model: {FIRST}", weight=1, density=0.5)
        .replace("merge_method: ties", "merge_metod: tiess")
        .replace("weight", "wieght", 1),
        "Fix all 3",
        "merge_method: ties",
    ),
)  # fmt: skip


def editor_says(page: Page, words: str) -> None:
    expect(page.locator(".alloy-yaml .cm-content")).to_contain_text(words)


@pytest.mark.parametrize(("locale", "language"), [("en-US", ENGLISH), ("ko-KR", KOREAN)], ids=["en", "ko"])
def test_everyday_faults_are_mended_by_a_button(
    site: Site, browser: Browser, locale: str, language: Language
) -> None:
    with visit(browser, site.url, locale=locale) as seen:
        page = seen.page
        plan, ready = (
            page.locator(".alloy-plan").first,
            page.get_by_role("heading", name=str(language.page["plan.good"])),
        )
        buttons = page.locator(".alloy-fixes button:visible")
        expect(ready).to_be_visible()
        for fault in FAULTS:
            write(page, fault.text)
            expect(ready).to_be_hidden()
            expect(buttons.first).to_be_visible()
            said = OF_THE_PARSER.sub("", plan.inner_text())
            assert "`" not in said
            if language is ENGLISH:
                page.get_by_role("button", name=fault.button, exact=True).click()
            else:
                assert not ENGLISH_WORDS.search(said), said
                buttons.first.click()
                assert not ENGLISH_WORDS.search(page.locator(".alloy-undo").inner_text())
            editor_says(page, fault.then)
            expect(ready).to_be_visible(timeout=SLOW)

        # What can be merged, but gives one of its models back.
        write(page, of("ties", THIRD, head=f"base_model: {SECOND}", weight=1, density=1))
        expect(plan).to_contain_text(f"The result is {THIRD} again" if language is ENGLISH else THIRD)
        quiet(seen)


def test_the_plan_says_that_it_is_made_anew_and_whose_child_the_result_is(
    site: Site, browser: Browser
) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        ready, checking = page.get_by_role("heading", name="Ready to merge"), page.get_by_text("Checking …")
        until_recipe(page, "merge_method", "slerp")
        expect(ready).to_be_visible()
        expect(checking).to_be_hidden()
        with held(page, QUEUED):
            write(page, of("linear", FIRST, SECOND, weight=1))
            expect(checking).to_be_visible()
            expect(page.locator(".alloy-plan .html-container")).to_have_css("opacity", "0.45")
        expect(checking).to_be_hidden()
        expect(ready).to_be_visible()
        boxes = page.evaluate(BOXES)
        assert len(boxes) == len(set(boxes))
        assert sum(box.startswith((FIRST, SECOND)) for box in boxes) == 2

        # A name that is taken.
        site.hub.put("demo/taken", {"config.json": b"{}"})
        name = page.get_by_label("Name of the new model")
        name.fill("taken")
        page.get_by_role("button", name="Call it taken-2").click()
        expect(name).to_have_value("taken-2")
        expect(ready).to_be_visible()
        quiet(seen)


def test_a_curve_that_is_tuned_keeps_its_shape_or_is_said_to_be_replaced(
    site: Site, browser: Browser
) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        open_preset(page, "Blend two styles", "slerp")
        before = recipe(page)["parameters"]
        assert before["t"][0]["value"] == CURVE
        page.get_by_role("button", name="Try it first").click()
        expect(page.get_by_label("Model", exact=True)).to_have_value(re.compile("^try: "), timeout=SLOW)
        which = page.get_by_label("Tune a parameter")
        expect(which).to_have_value("t: mean of the curve, which keeps its shape")
        which.click()
        expect(page.get_by_role("option", name=re.compile("in place of the curve$")).first).to_be_visible()
        page.keyboard.press("Escape")

        value = page.get_by_label("number input for Value")
        value.fill("0.6")
        value.press("Tab")
        expect(page.get_by_text(re.compile("Merged with t: mean of the curve.* = 0.6"))).to_be_visible(
            timeout=SLOW
        )
        page.get_by_role("button", name="Use in the recipe").click()
        expect(page.get_by_role("button", name="Undo", exact=True)).to_be_in_viewport()
        attention = recipe(page)["parameters"]["t"][0]["value"]
        assert len(attention) == len(CURVE)
        assert sorted(range(5), key=attention.__getitem__) == sorted(range(5), key=CURVE.__getitem__)
        assert sum(attention) > sum(CURVE)
        page.get_by_role("button", name="Undo", exact=True).click()
        until_recipe(page, "parameters", before)
        quiet(seen)


def test_questions_that_cannot_be_fetched_are_said_in_words(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        page.get_by_role("tab", name="Score").click()
        page.get_by_role("button", name=str(ENGLISH.page["score.benchmarks"])).click()
        page.get_by_role("button", name="Run", exact=True).locator("visible=true").first.click()
        said = page.get_by_text(
            re.compile("The questions of kmmlu could not be fetched: the Hub is out of reach.")
        )
        expect(said).to_be_visible(timeout=SLOW)
        quiet(seen)
