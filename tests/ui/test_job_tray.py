"""The tray: a line for each job of any kind, with its time, and a way to remove it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from merging import Result
from tests.ui.conftest import event
from tests.ui.test_cards import EVIL, JOB, shown
from ui.host import Host
from ui.job_tray import REMOVE, SHOW, tray_lines
from ui.merge.history import record, restored
from ui.page import Page, build_page
from ui.server.jobs import JobBoard, JobStatus, MergeRequest

DONE = JobStatus("done-id", "ann/mine", (), "done", result=Result("hf://ann/mine", None, None, 1, 1.0, True),
                 request=MergeRequest("recipe", "hf://ann/mine"), asked_at=1_790_000_000.0)  # fmt: skip


def test_a_running_job_is_a_line_and_earlier_ones_are_folded_with_their_time() -> None:
    tags = shown(tray_lines([JOB, DONE], "merge"))

    assert "25 %" in tags.text and "1 earlier job" in tags.text and "Done: ann/mine" in tags.text
    assert ("data-percent", "25") in tags.attributes
    assert ("datetime", "2026-09-21T14:13:20+00:00") in tags.attributes
    assert [value for name, value in tags.attributes if name == "data-what"] == [SHOW, SHOW, REMOVE]
    assert tags.text.count(EVIL) == 1


def test_nothing_is_shown_without_jobs() -> None:
    assert tray_lines([], "merge") == ""


def test_each_kind_of_job_says_what_it_does() -> None:
    gguf = replace(JOB, request=MergeRequest(only_gguf=True))

    assert "Merging" in tray_lines([JOB], "merge")
    assert "Making GGUF files" in tray_lines([gguf], "merge")


def test_the_time_outlives_a_restart_of_the_server_and_may_be_anything() -> None:
    host = Host.from_environment({})
    kept = record(DONE)

    assert restored(host, kept, None).asked_at == DONE.asked_at
    for odd in (None, "x", True, -1, 1e99, float("nan"), [1]):
        assert restored(host, {**kept, "asked_at": odd}, None).asked_at == 0


def test_the_board_says_when_a_job_was_asked_for() -> None:
    board, before = JobBoard(), time.time()

    job = board.submit("me", "title", (), lambda *_: DONE.result)  # type: ignore[arg-type,return-value]

    assert before <= board.status(job).asked_at <= time.time()


@pytest.fixture(scope="module")
def page() -> Page:
    built = build_page(Host.from_environment({"ALLOY_DEMO": "1"}))
    found: Page = event(built, "Page._show_job").__self__  # type: ignore[attr-defined]
    return found


def pressed(**said: Any) -> gr.EventData:
    return gr.EventData(None, said)


def test_a_job_that_has_ended_is_removed_and_no_other(page: Page) -> None:
    kept = [record(DONE), record(replace(DONE, id="other"))]
    remove = page.merge.mine._remove

    assert remove(kept, pressed(what=REMOVE, job="done-id")) == kept[1:]
    assert remove(kept, pressed(what=REMOVE, job=["done-id"])) == kept
    assert remove(kept, pressed(what=SHOW, job="done-id")) == gr.skip()
    assert page.search._remove("search-id", pressed(what=REMOVE)) == ""
    assert page.search._remove("search-id", pressed(what=SHOW)) == gr.skip()


def test_a_job_that_runs_is_not_removed(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page.service.board, "status", lambda _: JOB)

    assert page.merge.mine._remove([{"id": "id"}], pressed(what=REMOVE, job="id")) == gr.skip()


def test_a_line_leads_to_the_page_of_a_result(page: Page, hub: Any) -> None:
    results = {"done-id": {"location": "hf://ann/mine", "bytes": 1, "seconds": 1.0, "verified": True}}

    opened = page._show_job([record(DONE)], results, pressed(what=SHOW, job="done-id"), None)
    failed = page._show_job([record(DONE)], {}, pressed(what=SHOW, job="done-id"), None)
    nothing = page._show_job([], {}, pressed(what=REMOVE, job="done-id"), None)

    assert opened[page.result.key] == "ann/mine"
    assert set(failed) == {page.tabs}
    assert set(nothing) == {"__type__"}
