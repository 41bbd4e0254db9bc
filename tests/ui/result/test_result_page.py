"""The page of a result without a browser: whom it is shown to, what it says, and where it leads."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from merging import Result
from tests.hub import Hub
from tests.ui.conftest import event
from tests.ui.gallery.test_hub_merges import CARD, RECIPE, put
from tests.ui.test_cards import EVIL, shown
from ui.gallery.figures import Gain
from ui.gallery.hub_merge import HubMerge, Sample
from ui.gallery.hub_merges import GalleryMerge
from ui.gallery.sketch import sketch
from ui.host import Host
from ui.merge.history import record, record_of_result
from ui.page import Page, build_page
from ui.result.view import ResultView, answers_side_by_side, result_card, view_of_job
from ui.server.jobs import JobStatus, MergeRequest, ModelSummary

CUT = """\
merge_method: passthrough
slices:
  - sources: [{model: ann/one, layer_range: [0, 2]}]
  - sources: [{model: ann/one, layer_range: [3, 4]}]
"""
DONE = Result("hf://ann/mine", "https://hub/ann/mine", "c" * 40, 1000, 2.0, verified=True)
JOB = JobStatus(
    "job-id", "ann/mine", ("ann/one", "ann/two"), "done", result=DONE,
    request=MergeRequest(RECIPE.format("ties"), "hf://ann/mine", card="# mine"),
)  # fmt: skip


def asked(**query: str) -> Any:
    return SimpleNamespace(
        headers={"host": "alloy.test"}, session_hash="page", client=SimpleNamespace(host="127.0.0.1"),
        query_params=query,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page() -> Page:
    found: Page = event(build_page(Host.from_environment({"ALLOY_DEMO": "1"})), "Page._open_address").__self__  # type: ignore[attr-defined]
    return found


def open_address(page: Page, jobs: Any = (), results: Any = None, **query: str) -> dict[Any, Any]:
    return page._open_address(list(jobs), results or {}, asked(**query), None)


def test_an_address_opens_the_page_of_a_public_merge(page: Page, hub: Hub) -> None:
    hub.add_user("ann")
    put(hub, "ann/merged", card=CARD)

    opened = open_address(page, merge="ann/merged")

    card = shown(opened[page.result.card]).text
    for words in ("ann/merged", "Task Arithmetic", "Better than its best parent", "apache-2.0", "Ahoy!"):
        assert words in card
    assert opened[page.result.key] == "ann/merged"
    assert opened[page.gallery.box]["visible"] is False
    assert opened[page.result.chat]["visible"] and opened[page.result.remix]["visible"]
    assert not opened[page.result.heal]["visible"]


@pytest.mark.parametrize("key", ["ann/closed", "ann/missing", "job-of-someone", "../x", "<b>", "x" * 5000])
def test_what_a_visitor_may_not_see_is_as_good_as_none(page: Page, hub: Hub, key: str) -> None:
    hub.add_user("ann")
    put(hub, "ann/closed", private=True)

    opened = open_address(page, merge=key)

    assert (
        shown(opened[page.result.card]).text == "There is no merge at this address, or none that you may see."
    )
    assert opened[page.gallery.box]["visible"] is True and opened[page.result.view] is None


def test_without_an_address_nothing_is_opened(page: Page) -> None:
    assert set(open_address(page)) == {"__type__"}


def test_a_merge_that_this_browser_asked_for_says_what_was_verified(page: Page, hub: Hub) -> None:
    kept, results = record(JOB), {"job-id": record_of_result(DONE)}

    by_id = open_address(page, [kept], results, merge="job-id")
    by_name = open_address(page, [kept], results, merge="ann/mine")

    for opened in (by_id, by_name):
        assert opened[page.result.key] == "ann/mine"
        assert "match what was uploaded" in shown(opened[page.result.card]).text


def test_a_result_of_another_browser_is_not_shown(page: Page, hub: Hub) -> None:
    opened = open_address(page, merge="job-id")

    assert opened[page.result.view] is None


def test_the_buttons_lead_to_the_other_tabs(page: Page) -> None:
    view = ResultView("ann/mine", GalleryMerge(HubMerge("ann/mine", ""), CUT, sketch(CUT)), JOB)
    memory = page.merge.editor.form.memory.value

    assert page._chat_with_result(view, None, asked())[page.chat.models[0]] == "ann/mine"
    assert page._measure_result(view, None)[page.score.models] == ["ann/mine", "ann/one", "ann/two"]
    assert page._remix_result(view, memory)[page.merge.editor.yaml].strip() == CUT.strip()
    assert page._export_result(view)[page.merge.gguf.model] == "ann/mine"
    for nothing in (
        page._chat_with_result(None, None, asked()), page._measure_result(None, None),
        page._remix_result(None, memory), page._export_result(None),
    ):  # fmt: skip
        assert set(nothing) == {"__type__"}


@pytest.mark.parametrize(
    ("gains", "can_heal"),
    [
        ((Gain("ann/one", "bits_per_byte", "english", -0.2, (-0.3, -0.1)),), True),
        ((Gain("ann/one", "bits_per_byte", "english", -0.2, (-0.3, 0.1)),), False),
        ((Gain("ann/one", "bits_per_byte", "english", 0.2, (0.1, 0.3)),), False),
        ((), False),  # it was not measured
    ],
)
def test_a_cut_of_one_parent_that_is_worse_can_be_healed(gains: tuple[Gain, ...], can_heal: bool) -> None:
    cut = GalleryMerge(HubMerge("ann/cut", "", parents=("ann/one",), gains=gains), CUT, sketch(CUT))

    assert ResultView("ann/cut", cut).can_heal == can_heal
    assert not ResultView("ann/cut", replace(cut, recipe=RECIPE.format("ties"), sketch=None)).can_heal


def test_a_public_merge_has_a_badge_and_a_private_one_shares_its_recipe(page: Page) -> None:
    public = ResultView("ann/m", GalleryMerge(HubMerge("ann/m", ""), CUT, sketch(CUT)))
    closed = ResultView("ann/m", GalleryMerge(HubMerge("ann/m", "", private=True), CUT, sketch(CUT)))

    shared, hidden = (page.result._share(view, asked()) for view in (public, closed))

    assert shared[page.result.link]["value"] == "http://alloy.test/share?merge=ann/m"
    assert "(http://alloy.test/share?merge=ann/m)" in shared[page.result.badge]["value"]
    assert "ann/m" not in hidden[page.result.link]["value"]
    assert hidden[page.result.badge] == gr.update(value="", visible=False)


def test_a_result_in_a_folder_goes_by_its_job(tmp_path: Any) -> None:
    here = replace(JOB, title="mine", result=replace(DONE, location=str(tmp_path)))

    view = view_of_job(here, None, can_run=True)

    assert (view.key, view.on_hub, view.location) == ("job-id", False, str(tmp_path))


def test_a_result_in_a_bucket_is_no_repository_and_is_read_by_its_address() -> None:
    place = "hf://buckets/ann/shelf/merged"
    here = replace(JOB, result=replace(DONE, location=place))

    view = view_of_job(here, None, can_run=True)

    assert (view.key, view.on_hub, view.location) == ("job-id", False, place)


def test_whatever_a_card_says_is_text() -> None:
    model = HubMerge(EVIL, "", parents=(EVIL,), licence=EVIL, sample=Sample(EVIL, EVIL), private=True)
    summaries = (ModelSummary(EVIL, EVIL, 1, 1, 1),)
    job = replace(JOB, request=replace(JOB.request, summaries=summaries, card=EVIL))

    text = shown(result_card(ResultView("x", GalleryMerge(model, EVIL), job))).text

    assert text.count(EVIL) > 6
    assert shown(answers_side_by_side(EVIL, [EVIL], [EVIL])).text.count(EVIL) == 3
