"""The Chat tab in a real browser: a trial whose values are turned, and votes that are taken home."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.ui.conftest import Site, visit
from tests.ui.test_browser import FIRST, SECOND, SLOW, open_preset, quiet, until_recipe

pytestmark = [pytest.mark.browser, pytest.mark.real_models, pytest.mark.timeout(1200)]

SPEED = re.compile(r"\d+ tokens, [\d.]+/s")


def ask(page: Page, message: str) -> None:
    page.get_by_label("Your message").fill(message)
    page.get_by_label("Your message").press("Enter")


def test_a_value_of_a_trial_is_turned_and_taken_into_the_recipe(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        open_preset(page, "Linear average", "linear")
        page.get_by_role("button", name="Try it first").click()
        expect(page.get_by_label("Model", exact=True)).to_have_value(re.compile("^try: "), timeout=SLOW)
        expect(page.get_by_label("Tune a parameter")).to_have_value("weight of SmolLM2-135M-Pirate")
        page.get_by_role("button", name="Settings").first.click()
        page.get_by_label("number input for Maximum answer length, in tokens").fill("16")
        ask(page, "What is the capital of Italy?")
        expect(page.get_by_test_id("bot")).to_have_count(2, timeout=SLOW)
        expect(page.get_by_text(SPEED)).to_have_count(2, timeout=SLOW)

        value = page.get_by_label("number input for Value")
        value.fill("0")
        value.press("Tab")

        row = page.get_by_role("row", name=re.compile(r"^weight of SmolLM2-135M-Pirate = 0 "))
        expect(row).to_be_visible(timeout=SLOW)
        first = page.get_by_role("row", name="as first tried").get_by_role("cell").inner_text()
        expect(row.get_by_role("cell")).not_to_have_text(first)  # of the bard alone
        expect(page.get_by_text(SPEED)).to_have_count(2, timeout=SLOW)
        expect(page.get_by_test_id("bot")).to_have_count(2)  # answered anew, not once more

        # A value that was there already answers from memory.
        turned = page.get_by_test_id("bot").first.inner_text()
        value.fill("0.5")
        value.press("Tab")
        expect(page.get_by_text("This value’s earlier answer.")).to_be_visible()
        assert page.get_by_test_id("bot").first.inner_text().split() == first.split() != turned.split()
        value.fill("0")
        value.press("Tab")
        expect(page.get_by_test_id("bot").first).to_have_text(turned)
        expect(page.get_by_text("This value’s earlier answer.")).to_be_visible()
        expect(page.get_by_role("row", name=re.compile("= 0 "))).to_have_count(1)

        page.get_by_role("button", name="Use in the recipe").click()
        until_recipe(
            page,
            "models",
            [
                {"model": SECOND, "parameters": {"weight": 0.0}},
                {"model": SECOND.replace("Pirate", "Bard"), "parameters": {"weight": 0.5}},
            ],
        )
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        quiet(seen)


def test_two_answers_are_voted_on_and_a_third_model_joins(
    site: Site, browser: Browser, tmp_path: Path
) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        page.get_by_role("tab", name="Chat").click()
        other = page.get_by_label("Compare with")
        other.fill(SECOND)
        other.press("Enter")
        page.get_by_role("button", name="Settings").first.click()
        page.get_by_label("number input for Maximum answer length, in tokens").fill("16")
        right, stop = (
            page.get_by_role("button", name="B is better"),
            page.get_by_role("button", name="Stop"),
        )
        expect(right).to_be_hidden()
        expect(stop).to_be_disabled()
        suggested = page.get_by_role("button", name="Who are you?")
        expect(suggested).to_be_in_viewport()
        suggested.click()
        expect(page.get_by_text(SPEED)).to_have_count(2, timeout=SLOW)
        expect(page.get_by_label("Your message")).to_have_value("")
        expect(suggested).to_be_hidden()
        right.click()
        expect(stop).to_be_disabled()

        with page.expect_download() as taken:
            page.get_by_role("button", name="Download my votes").click()

        taken.value.save_as(tmp_path / "votes")
        (vote,) = map(json.loads, (tmp_path / "votes").read_text().splitlines())
        assert (vote["left"], vote["right"], vote["message"], vote["vote"]) == (
            FIRST,
            SECOND,
            "Who are you?",
            "right",
        )
        assert taken.value.suggested_filename == "votes.jsonl"

        third = page.get_by_label("And with")
        third.fill(SECOND.replace("Pirate", "Bard"))
        third.press("Enter")
        expect(page.get_by_test_id("bot")).to_have_count(0)  # all begin anew
        expect(page.get_by_role("button", name="B is better")).to_be_hidden()
        ask(page, "Who are you?")
        expect(page.get_by_text(SPEED)).to_have_count(3, timeout=SLOW)
        expect(page.get_by_test_id("bot")).to_have_count(3, timeout=SLOW)
        page.get_by_role("button", name="B is best").click()
        expect(page.get_by_text(f"counted by pairs of models: {FIRST}: 0, {SECOND}: 2, ")).to_be_visible()
        seen_as = said(page)
        assert sorted(seen_as) == [f"A: {FIRST}", f"B: {SECOND}", f"C: {SECOND.replace('Pirate', 'Bard')}"]

        # The same three again, without their names: the vote shows who said what.
        page.get_by_label("Compare blind").check()
        expect(page.get_by_test_id("bot")).to_have_count(0)
        ask(page, "Who are you?")
        best = page.get_by_role("button", name="C is best")
        expect(best).to_be_visible(timeout=SLOW)
        expect(page.get_by_text("Vote to see which model this is.")).to_have_count(3)
        expect(page.get_by_text(SPEED)).to_have_count(0)
        assert sorted(said(page)) == ["Model A", "Model B", "Model C"]
        best.click()
        expect(page.get_by_text(SPEED)).to_have_count(3)
        expect(best).to_be_hidden()
        assert by_model(said(page)) == by_model(seen_as)
        quiet(seen)


def said(page: Page) -> dict[str, str]:
    """The answers, by the labels of their conversations."""
    talks = page.locator(".alloy-talk:visible").all()
    return {
        talk.locator("label").first.inner_text().strip(): talk.get_by_test_id("bot").inner_text().strip()
        for talk in talks
    }


def by_model(answers: dict[str, str]) -> dict[str, str]:
    return {label.partition(": ")[2]: answer for label, answer in answers.items()}
