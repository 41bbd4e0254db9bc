"""The plan on the page is that of the recipe on the page."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from merging import Plan
from ui.host import Host
from ui.hub.account import Identity
from ui.hub.search import HubSearch
from ui.merge.destination import DOWNLOAD, REFUSE
from ui.merge.form import FormMemory
from ui.merge.tab import MergeTab
from ui.recipe.form_state import read
from ui.server.jobs import JobBoard
from ui.server.merge_service import MergeService


def test_a_plan_that_comes_after_a_newer_one_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host.from_environment({"SPACE_ID": "you/alloy"})
    service = MergeService(host, JobBoard())
    with gr.Blocks():
        tab = MergeTab(host, service, HubSearch())
        tab.plan.wire(tab.destination, tab.gguf)
    begun, go = threading.Event(), threading.Event()

    def plan(recipe: str, *_: object, **__: object) -> Plan:
        if recipe == "old":
            begun.set()
            assert go.wait(30)
        return Plan(recipe=recipe, method="")

    monkeypatch.setattr(service, "plan", plan)
    request: Any = SimpleNamespace(session_hash="page", headers={}, client=None)

    def shown(recipe: str) -> dict[Any, Any]:
        place = tab.destination
        values: dict[Any, Any] = {
            tab.editor.yaml: recipe,
            tab.editor.form.memory: FormMemory(read(tab.editor.first_recipe)),
            place.kind: DOWNLOAD,
            place.owner: None,
            place.name: "name",
            place.existing: REFUSE,
            place.private: True,
            place.identity: Identity(),
        }
        found: dict[Any, Any] = tab.plan._plan(values, request, None)
        return found

    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(shown, "old")
        assert begun.wait(30)
        new = shown("new")
        go.set()

    assert "alloy-card" in new[tab.plan.card]
    assert old.result() == gr.skip()
    assert "alloy-card" in shown("old")[tab.plan.card]  # which is the newest now
