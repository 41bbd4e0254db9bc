"""The plan on the page is that of the recipe on the page."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from merging import Plan, Problem
from ui.host import Host
from ui.hub.account import Identity
from ui.hub.search import HubSearch
from ui.merge.destination import DOWNLOAD, HUB, REFUSE, REVISION
from ui.merge.form import FormMemory
from ui.merge.tab import MergeTab
from ui.recipe.form_state import read
from ui.recipe.presets import family
from ui.server.jobs import JobBoard
from ui.server.merge_service import MergeService


def test_a_plan_that_comes_after_a_newer_one_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host.from_environment({"SPACE_ID": "you/alloy"})
    service = MergeService(host, JobBoard())
    with gr.Blocks():
        tab = MergeTab(host, service, HubSearch())
        tab.plan.wire(tab.destination, tab.gguf, tab.rented, tab.bar)
    begun, go = threading.Event(), threading.Event()

    def plan(recipe: str, *_: object, **__: object) -> Plan:
        if recipe == "old":
            begun.set()
            assert go.wait(60)
        return Plan(recipe=recipe, method="linear")

    monkeypatch.setattr(service, "plan", plan)
    request: Any = SimpleNamespace(session_hash="page", headers={}, client=None)

    def shown(recipe: str) -> dict[Any, Any]:
        place = tab.destination
        values: dict[Any, Any] = {
            tab.editor.yaml: recipe,
            tab.editor.form.memory: FormMemory(read(tab.editor.first_recipe)),
            place.kind: DOWNLOAD,
            place.owner: None,
            place.address: "",
            place.name: "name",
            place.existing: REFUSE,
            place.private: True,
            place.identity: Identity(),
        }
        found: dict[Any, Any] = tab.plan._plan(values, request, None)
        return found

    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(shown, "old")
        assert begun.wait(60)
        new = shown("new")
        go.set()

    assert "alloy-card" in new[tab.plan.card]
    assert old.result() == gr.skip()
    assert "alloy-card" in shown("old")[tab.plan.card]  # which is the newest now


def test_a_name_that_is_taken_has_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = Host.from_environment({"ALLOY_RESULTS": str(tmp_path)})
    service = MergeService(host, JobBoard())
    with gr.Blocks():
        tab = MergeTab(host, service, HubSearch())
        tab.plan.wire(tab.destination, tab.gguf, tab.rented, tab.bar)
    taken = Problem("destination-exists", {"repository": "ann/name"})
    monkeypatch.setattr(service, "plan", lambda *_, **__: Plan("", "linear", problems=(taken,)))
    monkeypatch.setattr(service, "is_taken", lambda place, who: place.endswith("-2"))
    values: dict[Any, Any] = {
        tab.editor.yaml: "merge_method: linear\n",
        tab.editor.form.memory: FormMemory(read(tab.editor.first_recipe)),
        tab.destination.kind: HUB,
        tab.destination.owner: "ann",
        tab.destination.address: "",
        tab.destination.name: "name",
        tab.destination.existing: REFUSE,
        tab.destination.private: True,
        tab.destination.identity: Identity("ann"),
    }
    request: Any = SimpleNamespace(session_hash="page", headers={}, client=None)

    offered = tab.plan._plan(values, request, None)[tab.plan.offered]

    assert [fix.title for fix in offered] == ["Call it name-3", "Replace the existing model"]
    memory = values[tab.editor.form.memory]
    assert tab.plan._fixer(0)(offered, memory) == {tab.destination.name: "name-3"}
    assert tab.plan._fixer(1)(offered, memory) == {tab.destination.existing: REVISION}


def test_a_hub_without_the_models_of_the_examples_is_said_to_lack_them(tmp_path: Path) -> None:
    service = MergeService(Host.from_environment({"ALLOY_RESULTS": str(tmp_path)}), JobBoard())
    with gr.Blocks():
        panel = MergeTab(service.host, service, HubSearch()).plan
    base, first, *_ = family(False).models

    def said(*names: str) -> str:
        return panel._lacking([Problem("model-not-found", {"model": n, "host": "hub.test"}) for n in names])

    assert said(base, first).startswith("hub.test does not have the models")
    assert said(base, "ann/own") == said() == ""
