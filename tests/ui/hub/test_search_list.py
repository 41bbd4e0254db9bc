"""The list of a search field in a real browser, while what the Hub finds arrives."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.ui.conftest import PATIENCE
from ui.host import Host
from ui.hub.search import HubModel, HubSearch, search_as_you_type

pytestmark = pytest.mark.browser

KNOWN = ("lab/first", "lab/second", "lab/third")
# Notes down each list that is drawn, with the text that was typed by then.
WATCH = """() => {
  window.seen = [];
  const look = () => {
    const field = document.querySelector("[role=combobox]");
    const shown = [...document.querySelectorAll("[role=option]")].filter((it) => it.checkVisibility());
    window.seen.push([field.value, shown.map((it) => it.getAttribute("aria-label"))]);
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""


class Found(HubSearch):
    """A Hub with two models of each name."""

    def __call__(self, query: str, *_: object) -> list[HubModel]:
        return [HubModel(f"hub/{query}-{number}") for number in range(2)] if len(query) > 1 else []

    def model(self, *_: object) -> None:
        return None


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with gr.Blocks() as blocks:
        field = gr.Dropdown(list(KNOWN), value=None, label="Model", allow_custom_value=True)
        search_as_you_type(field, Found(), Host.from_environment({}), KNOWN)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, _frontend=False)
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    opened.goto(url)
    yield opened
    context.close()
    blocks.close()


def test_the_list_never_shows_what_does_not_match_while_choices_arrive(page: Page) -> None:
    field = page.get_by_label("Model", exact=True)
    field.click()
    expect(page.get_by_role("option")).to_have_count(3)
    field.press_sequentially("se", delay=20)
    expect(page.get_by_role("option", name="hub/se-1", exact=True)).to_be_visible()
    page.evaluate(WATCH)

    field.press_sequentially("cond", delay=20)

    expect(page.get_by_role("option", name="hub/second-1", exact=True)).to_be_visible()
    seen = page.evaluate("window.seen")
    assert len(seen) > 2
    assert [(text, name) for text, names in seen for name in names if text not in name] == []
    page.get_by_role("option", name="lab/second", exact=True).click()
    expect(field).to_have_value("lab/second")


def test_the_whole_list_is_there_again_for_the_next_choice(page: Page) -> None:
    field = page.get_by_label("Model", exact=True)
    field.click()
    field.press_sequentially("first", delay=20)
    page.get_by_role("option", name="lab/first", exact=True).click()
    expect(field).to_have_value("lab/first")

    field.click()

    expect(page.get_by_role("option", name="lab/third", exact=True)).to_be_visible()
