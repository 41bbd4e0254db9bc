"""The Gallery tab without a browser: its fields, and what its cards ask for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from tests.hub import Hub
from tests.ui.conftest import event
from tests.ui.gallery.test_hub_merges import RECIPE, put
from ui.gallery.tab import GalleryTab
from ui.host import Host
from ui.page import build_page

REQUEST: Any = SimpleNamespace(headers={}, session_hash="page", client=SimpleNamespace(host="127.0.0.1"))


@pytest.fixture(scope="module")
def page() -> gr.Blocks:
    return build_page(Host.from_environment({"ALLOY_DEMO": "1"}))


def tab_of(page: gr.Blocks) -> GalleryTab:
    tab: GalleryTab = event(page, "GalleryTab._listed").__self__  # type: ignore[attr-defined]
    return tab


def fields(tab: GalleryTab, **given: Any) -> dict[Any, Any]:
    empty: dict[str, Any] = {"base": "", "method": "", "licence": "", "language": "", "size": "", "tag": "",
                             "order": "likes", "shown": (), "following": None}  # fmt: skip
    return {getattr(tab, name): value for name, value in {**empty, **given}.items()}


def pressed(what: object, name: object) -> gr.EventData:
    return gr.EventData(None, {"merge": name, "what": what})


def test_a_merge_of_the_hub_is_remixed_and_chatted_with(page: gr.Blocks, hub: Hub) -> None:
    hub.add_user("ann")
    put(hub, "ann/merged")
    tab = tab_of(page)
    shown = tab._opened(fields(tab))[tab.shown]
    press = event(page, "Page._press_in_gallery")
    editor, chat = press.__self__.merge.editor, press.__self__.chat  # type: ignore[attr-defined]
    memory = editor.form.memory.value

    remixed = press(shown, memory, None, pressed("remix", "ann/merged"), REQUEST)
    chatted = press(shown, memory, None, pressed("chat", "ann/merged"), REQUEST)

    assert remixed[editor.yaml].strip() == RECIPE.format("task_arithmetic").strip()
    assert chatted[chat.models[0]] == "ann/merged"
    assert chatted[chat.models[1]] == "ann/base"


@pytest.mark.parametrize(
    ("what", "name"), [("remix", "ann/other"), ("remix", None), ("chat", ["ann/merged"]), ("chat", {"a": 1})]
)
def test_only_what_the_tab_shows_can_be_asked_for(page: gr.Blocks, what: object, name: object) -> None:
    press = event(page, "Page._press_in_gallery")
    memory = press.__self__.merge.editor.form.memory.value  # type: ignore[attr-defined]

    assert set(press((), memory, None, pressed(what, name), REQUEST)) == {"__type__"}


def test_a_base_that_is_no_name_is_not_asked_for(page: gr.Blocks) -> None:
    tab = tab_of(page)

    for base in ("../etc", "a", "x y/z", "http://127.0.0.1/x", "a/b?c=d"):
        assert tab.wanted(fields(tab, base=base)).base == ""
    assert tab.wanted(fields(tab, base=" ann/base ")).base == "ann/base"


def test_the_tab_asks_the_hub_when_it_is_first_opened_only(page: gr.Blocks, hub: Hub) -> None:
    tab = tab_of(page)
    tab._opened(fields(tab))
    hub.log.clear()

    assert tab.cards not in tab._opened(fields(tab, shown=("something",)))
    assert len(hub.log) == 0
