"""The page in a real browser: from choosing two models to their merge, its answers and its score."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.hub import Hub
from tests.merges import STALLED
from tests.ui.conftest import Site, Visit, visit, wait_for_search
from ui.host import Host
from ui.hub.recipes import query_of
from ui.languages.english import ENGLISH
from ui.languages.korean import KOREAN
from ui.languages.translate import speaking, t
from ui.merge.plan_panel import PlanPanel
from ui.page import build_page, launch_settings
from ui.recipe.presets import family

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]

FIRST, SECOND = "alloy/SmolLM2-135M-Instruct", "alloy/SmolLM2-135M-Pirate"
GRADIENTS = {"t: attention": [0, 0.5, 0.3, 0.7, 1], "t: MLP": [1, 0.5, 0.7, 0.3, 0]}
SLOW = 300_000  # milliseconds, on a busy machine without a GPU
# Colours that fade in, and cards that wait for the Hub and are dimmed meanwhile, would be measured on their way.
STILL = """
*, ::before, ::after { transition: none !important; animation: none !important; }
.pending { opacity: 1 !important; }
"""
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
GALLERY = 4  # the number of its tab
# Whether a text ends before the field around it does.
WHOLE = "it => it.getBoundingClientRect().right <= it.closest('.block').getBoundingClientRect().right"
# Whether the conversation can be seen while its answer is written.
ABOVE_COMPOSER = """() => {
  const [talk, composer] = [".alloy-talk", ".alloy-composer"].map((it) => document.querySelector(it));
  const {top, bottom} = talk.getBoundingClientRect();
  return top >= 0 && bottom <= composer.getBoundingClientRect().top;
}"""
BROKEN_OFF = re.compile("AbortError: signal is aborted|Connection errored out")
REMEMBERED = {
    str(block.storage_key)
    for block in build_page(Host.from_environment({})).blocks.values()
    if isinstance(block, gr.BrowserState)
}


def recipe(page: Page) -> Any:
    return yaml.safe_load(page.locator(".alloy-yaml .cm-content").inner_text())


def until_recipe(page: Page, key: str, value: object) -> None:
    deadline = time.monotonic() + 60
    found = None
    while time.monotonic() < deadline:
        try:
            found = (recipe(page) or {}).get(key)
        except yaml.YAMLError:
            found = "half drawn"
        if found == value:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{key} is {found}, not {value}")


def open_preset(page: Page, name: str, method: str) -> None:
    """Let the page begin from a preset or a wish, and wait for its recipe."""
    until_recipe(page, "merge_method", "slerp")  # the page opens on a recipe that works
    page.get_by_role("button", name=name).click()
    until_recipe(page, "merge_method", method)


def choose(page: Page, label: str, typed: str, option: str) -> None:
    """Type into a search field and take what the Hub offers."""
    field = page.get_by_label(label, exact=True)
    field.click()
    field.fill("")
    field.press_sequentially(typed, delay=20)
    wait_for_search(page)  # Gradio gives the elements of a list other names when its choices change
    page.get_by_role("option", name=option, exact=True).click()
    expect(field).to_have_value(option)


def quiet(seen: Visit) -> None:
    assert seen.complaints == [], "\n".join(seen.complaints)
    assert seen.strangers == []


@pytest.mark.real_models
def test_two_models_become_one_that_answers(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        open_preset(page, "Linear average", "linear")

        # By hand: two models, SLERP, a gradient for attention, its mirror for the MLP.
        page.get_by_label("Method", exact=True).click()
        page.get_by_role("option", name="SLERP", exact=True).click()
        until_recipe(page, "merge_method", "slerp")
        choose(page, "Model 1 (the base)", "instr", FIRST)
        choose(page, "Model 2", "pirate", SECOND)
        page.get_by_label("Type values").check()
        expect(page.get_by_label("t: everything else")).to_have_value("0.5")
        for label, gradient in GRADIENTS.items():
            page.get_by_label(label).fill(str(gradient))
        page.get_by_label("t: MLP").press("Tab")
        until_recipe(
            page,
            "parameters",
            {
                "t": [
                    {"filter": "self_attn", "value": GRADIENTS["t: attention"]},
                    {"filter": "mlp", "value": GRADIENTS["t: MLP"]},
                    {"value": 0.5},
                ]
            },
        )
        said = recipe(page)
        assert (said["base_model"], [entry["model"] for entry in said["models"]]) == (FIRST, [FIRST, SECOND])

        name = page.get_by_label("Name of the new model")
        expect(name).to_have_attribute("placeholder", "SmolLM2-135M-Pirate-slerp")
        name.fill("first-merge")
        page.get_by_role("button", name="Check the plan").click()
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        expect(page.get_by_text("This machine's Hugging Face login: demo")).to_be_visible()

        # The job goes on while the page is reloaded.
        page.get_by_role("button", name="Merge", exact=True).click()
        expect(page.get_by_role("heading", name=re.compile("(Merging|Done): first-merge"))).to_be_visible()
        quiet(seen)
        page.reload()
        # Leaving a page breaks its open connections off, and Gradio's client says so on the console.
        seen.complaints[:] = [it for it in seen.complaints if not BROKEN_OFF.search(it)]
        expect(page.get_by_role("heading", name="Done: first-merge")).to_be_visible(timeout=SLOW)
        until_recipe(page, "parameters", said["parameters"])  # the draft is still there as well
        link = page.get_by_role("link", name="Open demo/first-merge")
        assert link.get_attribute("href") == f"{site.hub.endpoint}/demo/first-merge"
        repo = site.hub.repo("demo/first-merge")
        assert repo.private
        assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= repo.files(
            "main"
        ).keys()

        # What its card says runs as it is copied.
        expect(page.locator("pre", has_text='name = "demo/first-merge"').first).to_be_attached()

        page.get_by_role("button", name="Chat with it").click()
        expect(page.get_by_label("Model", exact=True)).to_have_value("demo/first-merge")
        expect(page.get_by_label("Model", exact=True)).to_be_in_viewport()
        expect(page.get_by_label("Compare with")).to_have_value(FIRST)
        page.get_by_label("Your message").fill("What is the capital of Italy?")
        page.get_by_role("button", name="Send").click()
        page.wait_for_function(ABOVE_COMPOSER)
        expect(page.get_by_text(re.compile(r"\d+ tokens, [\d.]+/s"))).to_have_count(2, timeout=SLOW)
        answers = page.get_by_test_id("bot")
        expect(answers).to_have_count(2)
        assert all(answer.inner_text().strip() for answer in answers.all())

        page.get_by_role("button", name="A is better").click()
        expect(page.get_by_text(f"Your votes: demo/first-merge: 1, {FIRST}: 0, ties: 0.")).to_be_visible()

        page.get_by_role("tab", name="Score").click()
        page.get_by_role("button", name="Score", exact=True).click()
        found = page.locator(".alloy-overview").first
        expect(found.locator("tbody .number")).to_have_count(6, timeout=SLOW)
        expect(found).to_be_in_viewport()
        # The verdicts come before the table; the panel's own table is folded.
        expect(found.locator(".alloy-verdict")).to_have_count(2)
        heads = [cell.inner_text() for cell in found.locator("thead th").all()]
        assert heads == ["demo/first-merge", FIRST, SECOND]
        perplexities = [cell.inner_text() for cell in found.locator("tbody tr").first.locator("td").all()]
        assert all(1 < float(perplexity) < 10_000 for perplexity in perplexities)
        expect(page.get_by_role("columnheader", name="Tokens")).to_be_hidden()
        page.get_by_role("tabpanel").get_by_text("Details", exact=True).click()
        table = page.get_by_role("table").filter(has_text="Tokens")
        expect(table.locator("tbody .number")).to_have_count(12)
        assert len({row.locator("td").nth(2).inner_text() for row in table.locator("tbody tr").all()}) == 1

        stored = page.evaluate("Object.keys(localStorage)")
        assert set(stored) <= REMEMBERED
        assert site.token not in page.content() + str(page.evaluate("JSON.stringify(localStorage)"))
        quiet(seen)
    assert site.token not in site.log.read_text()
    assert "Traceback" not in site.log.read_text()

    with visit(browser, site.url) as other:
        expect(other.page.get_by_text("Nothing merged yet")).to_be_visible()
        quiet(other)


@pytest.mark.real_models
def test_a_lora_stands_alone_by_a_preset(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        open_preset(page, "Make my LoRA stand alone", "passthrough")
        until_recipe(page, "models", [{"model": f"{FIRST}+{SECOND}-LoRA"}])
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        expect(page.get_by_role("row", name=f"{SECOND}-LoRA")).to_contain_text(f"adapter on {FIRST}")

        page.get_by_label("Name of the new model").fill("alone")
        page.get_by_role("button", name="Merge", exact=True).click()
        expect(page.get_by_role("heading", name="Done: alone")).to_be_visible(timeout=SLOW)
        page.get_by_role("button", name="Does it stand alone?").click()
        says = re.compile("demo/alone stands alone: .* answers “.+”")
        expect(page.get_by_text(says)).to_be_visible(timeout=SLOW)
        quiet(seen)


def test_a_merge_is_stopped_and_leaves_nothing(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        page.get_by_label("Name of the new model").fill("stopped")
        site.hub.fault(
            "PUT", "^/upload/demo/stopped/", delay=STALLED, times=None
        )  # else it may end before the click
        try:
            page.get_by_role("button", name="Merge", exact=True).click()
            expect(page).to_have_title(re.compile(r"^\d+ % · Alloy$"))
            page.get_by_role("button", name="Stop this merge").click()
            expect(page.get_by_role("heading", name="Stopped: stopped")).to_be_visible(timeout=SLOW)
        finally:
            site.hub.clear_faults()
        assert "demo/stopped" not in site.hub.repos
        quiet(seen)


@pytest.mark.real_models
def test_the_yaml_is_what_runs(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        models = f"models:\n  - model: {SECOND}\n    parameters: {{weight: 0.5}}\n"
        write(page, f"merge_method: task_arithmetic\nbase_model: {FIRST}\n{models}")
        expect(page.get_by_label("Method", exact=True)).to_have_value("Task Arithmetic")
        expect(page.get_by_label("Base model", exact=True)).to_have_value(FIRST)
        expect(page.get_by_label("Fine-tune 1", exact=True)).to_have_value(SECOND)
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()

        write(page, "merge_method: task_aritmetic\nmodels: []\n")
        expect(page.get_by_text("The form is paused")).to_be_visible()
        expect(page.get_by_text("Did you mean 'task_arithmetic'?").first).to_be_visible()

        page.get_by_role("button", name="Raw YAML").click()
        expect(page.get_by_text("built from slices of layers")).to_be_visible()
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()

        page.get_by_role("button", name="Discard the YAML").click()
        until_recipe(page, "merge_method", "task_arithmetic")
        quiet(seen)


@pytest.mark.real_models
def test_what_the_hub_finds_joins_the_list_without_showing_all_others(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        field = page.get_by_label("Model 2", exact=True)
        field.click()
        field.fill("")
        field.press_sequentially("pi")

        expect(page.get_by_role("option")).to_have_text(
            [re.compile(SECOND + "$"), re.compile(f"{SECOND}-LoRA$")]
        )
        field.press("ArrowDown")
        field.press("Enter")
        expect(field).to_have_value(f"{SECOND}-LoRA")
        quiet(seen)


@pytest.mark.real_models
def test_a_removed_middle_row_is_gone_and_no_other(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        open_preset(page, "Linear average", "linear")
        page.get_by_role("button", name="Add a model").click()
        for number, name in ((1, "a/one"), (2, "a/two"), (3, "a/three")):
            field = page.get_by_label(f"Model {number}", exact=True)
            field.fill(name)
            field.press("Enter")

        page.locator("#remove-model-2").click()

        until_recipe(
            page,
            "models",
            [
                {"model": "a/one", "parameters": {"weight": 0.5}},
                {"model": "a/three", "parameters": {"weight": 1.0}},
            ],
        )
        expect(page.get_by_label("Model 2", exact=True)).to_have_value("a/three")
        expect(page.get_by_label("Model 3", exact=True)).to_be_hidden()


@pytest.mark.real_models
def test_an_answer_is_stopped_and_a_wrong_model_is_told(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        page.get_by_role("tab", name="Chat").click()
        page.get_by_role("button", name="Settings").first.click()
        # Long enough that the answer is still being written when Stop arrives.
        page.get_by_label("number input for Maximum answer length, in tokens").fill("1024")
        message, answer = page.get_by_label("Your message"), page.get_by_test_id("bot")
        message.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("Type a message first.")
        message.fill("Tell me a very long story about the sea.")
        message.press("Enter")
        expect(page.get_by_text(re.compile(r"\d+ tokens, [\d.]+/s"))).to_be_visible(timeout=SLOW)
        page.get_by_role("button", name="Stop").click()
        stopped = page.get_by_text(re.compile("/s.* · stopped"))
        expect(stopped).to_be_visible()
        written = re.search(r"(\d+) tokens", stopped.inner_text())

        other = page.get_by_label("Compare with")
        other.fill("nobody/nothing")
        other.press("Enter")
        expect(answer).to_have_count(0)  # another model, another conversation
        assert written
        assert int(written[1]) < 1024
        message.fill("Are you there?")
        message.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("No answer: nobody/nothing")
        expect(message).to_have_value("Are you there?")
        quiet(seen)


@pytest.mark.real_models
def test_a_phone_shows_everything_without_scrolling_sideways(site: Site, browser: Browser) -> None:
    with visit(browser, site.url, width=390, dark=True) as seen:
        expect(seen.page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        for tab in ("Merge", "Search", "Chat", "Score", "Gallery", "Methods"):
            seen.page.get_by_role("tab", name=tab).click()
            for dark in (True, False):
                seen.page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
                assert seen.page.evaluate("document.documentElement.scrollWidth") == 390
        quiet(seen)


def write(page: Page, text: str) -> None:
    page.locator(".alloy-yaml .cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)


@pytest.mark.real_models
def test_a_link_brings_the_recipe_and_the_draft_outlives_it(site: Site, browser: Browser) -> None:
    recipe_of_link = f"merge_method: linear\nmodels:\n  - model: {SECOND}\n    parameters: {{weight: 0.25}}\n"
    with visit(browser, site.url, query=query_of(recipe_of_link)) as seen:
        page = seen.page
        until_recipe(page, "models", [{"model": SECOND, "parameters": {"weight": 0.25}}])
        expect(page).not_to_have_url(re.compile("recipe="))
        page.get_by_role("button", name="DARE").click()
        until_recipe(page, "merge_method", "dare_ties")
        page.get_by_role("button", name="Copy link").click()
        link = page.get_by_label("Link to this recipe")
        expect(link).to_have_value(re.compile(re.escape(site.url) + r"share\?recipe=[\w-]+"))
        address = link.input_value()
        page.reload()
        seen.complaints[:] = [it for it in seen.complaints if not BROKEN_OFF.search(it)]
        until_recipe(page, "merge_method", "dare_ties")
        quiet(seen)
    with visit(browser, site.url) as other:
        page = other.page
        page.goto(address)
        expect(page.get_by_text("DARE-TIES")).to_be_visible()
        page.get_by_role("link", name="Remix this").click()
        until_recipe(page, "merge_method", "dare_ties")
        quiet(other)


@pytest.mark.real_models
def test_faults_stand_on_their_fields_and_buttons_mend_them(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        write(page, f"merge_method: task_aritmetic\nmodels:\n  - model: {SECOND}\n")
        page.get_by_role("button", name="Change 'task_aritmetic' to 'task_arithmetic'").click()
        until_recipe(page, "merge_method", "task_arithmetic")
        expect(
            page.locator(".alloy-fields .alloy-trouble").filter(has_text="needs a base model")
        ).to_be_visible()
        # The model's own card on the Hub says what it was made from.
        page.get_by_role("button", name=f"Add base model {FIRST}").click()
        until_recipe(page, "base_model", FIRST)
        expect(
            page.locator(".alloy-model .alloy-trouble").filter(has_text="needs weight for")
        ).to_be_visible()
        page.get_by_role("button", name="Add weight: 1.0").click()
        until_recipe(page, "parameters", {"weight": 1.0})
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        expect(page.locator(".alloy-trouble:visible")).to_have_count(0)

        page.get_by_role("button", name="What each layer gets").click()
        expect(page.get_by_role("img", name=re.compile("self_attn.*: 1")).first).to_be_visible()
        quiet(seen)


@pytest.mark.real_models
def test_models_are_compared_before_they_are_merged(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        open_preset(page, "TIES of fine-tunes", "ties")
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        page.get_by_role("button", name="How similar are the models?").click()
        page.get_by_role("button", name="Compare models").click()

        heading = "Cosine between the changes of SmolLM2-135M-Pirate and SmolLM2-135M-Bard"
        expect(page.get_by_role("heading", name=heading)).to_be_visible(timeout=SLOW)
        quiet(seen)


@pytest.mark.real_models
def test_a_merge_is_tried_before_it_is_saved(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        page.get_by_role("button", name="Try it first").click()
        expect(page.get_by_label("Model", exact=True)).to_have_value(
            "try: SmolLM2-135M-Bard-slerp", timeout=SLOW
        )
        message = page.get_by_label("Your message")
        message.fill("Hello!")
        message.press("Enter")
        expect(page.get_by_text(re.compile(r"\d+ tokens, [\d.]+/s"))).to_have_count(2, timeout=SLOW)
        expect(page.get_by_role("button", name="Stop")).to_be_disabled()  # both answers have ended
        with visit(browser, site.url) as other:  # the other's page does not hold it
            other.page.get_by_role("tab", name="Chat").click()
            field = other.page.get_by_label("Model", exact=True)
            field.fill("try: SmolLM2-135M-Bard-slerp")
            field.press("Enter")
            other.page.get_by_label("Your message").fill("Hello!")
            other.page.get_by_label("Your message").press("Enter")
            expect(other.page.get_by_role("alert")).to_contain_text("This trial has ended")
        quiet(seen)
    assert not [name for name in site.hub.repos if "Bard-slerp" in name]


@pytest.mark.real_models
@pytest.mark.parametrize("locale", ["en-US", "ko-KR"])
@pytest.mark.parametrize(
    "widths", [(390, 1280), pytest.param((430, 640, 768, 900), marks=pytest.mark.nightly)]
)
def test_nobody_is_shut_out(site: Site, browser: Browser, locale: str, widths: tuple[int, ...]) -> None:
    with visit(browser, site.url, locale=locale) as seen:
        page = seen.page
        page.add_style_tag(content=STILL)
        until_recipe(page, "merge_method", "slerp")
        ready = {"en-US": "Ready to merge", "ko-KR": KOREAN.page["plan.good"]}[locale]
        expect(page.get_by_role("heading", name=ready)).to_be_visible()
        tabs = page.get_by_role("tab")
        assert tabs.count() == 6
        for number in range(6):
            tabs.nth(number).click()
            if number == GALLERY:  # which asks the Hub
                expect(page.locator(".alloy-gallery")).to_be_attached()
                page.wait_for_function("() => !document.querySelector('.html-container.pending')")
            for folded in page.get_by_role("tabpanel").locator("button.label-wrap:visible").all():
                folded.click()
            for dark in (False, True):
                page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
                for width in widths:
                    page.set_viewport_size({"width": width, "height": 900})
                    # The dark differs from the light in its colours alone.
                    found = Axe().run(page, options=COLOURS if dark else None).response["violations"]
                    assert not found, [
                        (number, dark, width, it["id"], [node["html"][:200] for node in it["nodes"]])
                        for it in found
                    ]
        quiet(seen)


@pytest.mark.real_models
def test_the_page_speaks_korean(site: Site, browser: Browser) -> None:
    with visit(browser, site.url, locale="ko-KR") as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        expect(page.get_by_role("tab", name=KOREAN.page["page.tab.chat"])).to_be_visible()
        expect(page.locator("html")).to_have_attribute("lang", "ko")
        expect(page.get_by_label(KOREAN.page["recipe.method"], exact=True).first).to_be_visible()
        write(page, "merge_method: linear\n")
        with speaking("ko"):
            problems = t("plan.bad", count=1)
        expect(page.get_by_role("heading", name=problems)).to_be_visible()
        said = page.locator("body").inner_text()
        for key in ("merge.button", "destination.heading", "jobs.empty", "page.subtitle"):
            assert KOREAN.page[key] in said
            assert ENGLISH.page[key] not in said or KOREAN.page[key] == ENGLISH.page[key]
        page.get_by_role("tab", name=KOREAN.page["page.tab.score"]).click()
        expect(page.get_by_text(KOREAN.page["score.meaning"])).to_be_visible()
        quiet(seen)


@pytest.mark.real_models
def test_a_merge_is_started_by_the_keyboard_alone(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        page.get_by_role("tab", name="Merge").focus()
        for _ in range(120):
            if page.evaluate("document.activeElement.closest('.cm-editor') !== null"):
                page.keyboard.press("Escape")  # in a text of code, Tab alone is a character
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement !== document.body")
            if page.evaluate("document.activeElement.innerText") == "Merge":
                break
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=re.compile("(Waiting|Merging|Done): "))).to_be_visible()
        stop = page.get_by_role("button", name="Stop this merge")
        if stop.is_visible():
            stop.press("Enter")
        quiet(seen)


@pytest.mark.real_models
def test_what_a_method_does_is_drawn_as_its_values_move(site: Site, browser: Browser) -> None:
    with visit(browser, site.url) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        page.get_by_role("tab", name="Methods").click()
        method = page.get_by_label("Method", exact=True).locator("visible=true")
        method.click()
        page.get_by_role("option", name="SLERP", exact=True).click()
        page.get_by_label("point in different directions").check()
        expect(page.get_by_role("img", name="The result is at (0.92, 0.92)")).to_be_visible()
        page.get_by_label("number input for t", exact=True).locator("visible=true").fill("0")
        expect(page.get_by_role("img", name="The result is at (1.30, 0.00)")).to_be_visible()
        method.click()
        page.get_by_role("option", name="DELLA", exact=True).click()
        expect(page.get_by_label("rescale", exact=True).locator("visible=true")).to_be_visible()
        for switch in ("normalize", "rescale"):
            said = page.get_by_text(switch, exact=True).locator("visible=true").last
            assert said.evaluate(WHOLE)
        quiet(seen)


@pytest.fixture
def signed_in_site(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A page with sign-in, as on a Space; the button signs in as `ann`. Tiny models have the examples' names."""
    token = hub.add_user("ann")
    hub.add_user("Qwen")
    for name in family(demo=False).models:
        hub.put(name, folder / "a")
    info = {"access_token": token, "scope": "openid", "expires_at": time.time() + 3600}
    userinfo = {"name": "Ann", "preferred_username": "ann", "profile": "", "picture": ""}
    monkeypatch.setattr("gradio.oauth._get_mocked_oauth_info", lambda: {**info, "userinfo": userinfo})
    host = Host.from_environment({"OAUTH_CLIENT_ID": "x", "SPACE_ID": "you/alloy"})
    page: gr.Blocks = build_page(host)
    page.queue(default_concurrency_limit=4)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_settings(page, host))
    yield url
    page.close()


def test_signing_in_keeps_the_draft(signed_in_site: str, browser: Browser) -> None:
    with visit(browser, signed_in_site) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        expect(page.get_by_text("Sign in with Hugging Face to save results")).to_be_visible()
        page.get_by_role("radio", name="Hugging Face account").check()
        page.get_by_role("button", name="Linear average").click()
        until_recipe(page, "merge_method", "linear")
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        page.get_by_role("button", name="Merge", exact=True).press("Enter")
        expect(page.locator(".alloy-said").first).to_contain_text("there is no account to save to")

        page.get_by_role("button", name="Sign in with Hugging Face").click()

        expect(page.get_by_text("Signed in as ann")).to_be_visible()
        until_recipe(page, "merge_method", "linear")
        expect(page.get_by_role("radio", name="Hugging Face account")).to_be_checked()
        expect(page.get_by_label("Owner")).to_have_value("ann")

        page.get_by_role("button", name="Sign out (ann)").click()
        expect(page.get_by_text("Sign in with Hugging Face to save results")).to_be_visible()
        expect(page.get_by_role("button", name="Sign in with Hugging Face")).to_be_visible()
    with visit(browser, signed_in_site, locale="ko-KR") as korean:
        expect(korean.page.get_by_role("button", name=KOREAN.page["account.sign_in"])).to_be_visible()


def test_what_merge_said_outlives_a_plan_that_was_on_its_way(
    signed_in_site: str, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrives, shown = threading.Event(), PlanPanel._shown
    arrives.set()

    def shown_late(*args: Any) -> Any:
        assert arrives.wait(300)
        return shown(*args)

    monkeypatch.setattr(PlanPanel, "_shown", shown_late)
    with visit(browser, signed_in_site) as seen:
        page = seen.page
        until_recipe(page, "merge_method", "slerp")
        expect(page.get_by_role("heading", name="Ready to merge")).to_be_visible()
        name, said = page.get_by_label("Name of the new model"), page.locator(".alloy-said").first
        page.get_by_role("radio", name="Hugging Face account").check()
        arrives.clear()
        page.get_by_role("button", name="Linear average").click()
        until_recipe(page, "merge_method", "linear")
        page.get_by_role("button", name="Merge", exact=True).click()
        expect(said).to_contain_text("there is no account to save to")
        expect(name).to_have_attribute("placeholder", re.compile("slerp"))

        arrives.set()
        expect(name).to_have_attribute("placeholder", re.compile("linear"))
        expect(said).to_contain_text("there is no account to save to")
        # Of another recipe it says nothing.
        page.get_by_role("button", name="TIES of fine-tunes").click()
        expect(said).to_be_hidden()
        quiet(seen)
