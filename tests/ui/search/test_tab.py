"""The Search tab without a browser: a search of tiny models from its fields to the recipe, its card and the API."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from checkpoints.problems import ProblemError
from checkpoints.typed_text import MAX_CHARACTERS
from merging import MergeError, Result
from searching import SearchReport, read_space
from searching.data import messages_of
from tests.hub import Hub
from tests.tiny import save_tokenizer, tiny_llama
from tests.ui.conftest import event, until_ended
from tests.ui.test_cards import shown
from ui.api import Api
from ui.host import Host
from ui.hub.account import Account
from ui.languages.translate import remark_words, speaking
from ui.merge.history import record
from ui.page import build_page
from ui.search.card import search_card
from ui.search.chart import chart, front_chart
from ui.search.texts import MAX_ROWS, VOICES, conversations
from ui.server.jobs import JobBoard, JobStatus, Rented
from ui.server.merge_service import MergeService
from ui.server.search_state import SearchState
from ui.server.searches import MAX_MINUTES, MAX_SPACE, FoundRecipes, SearchService

SPACE = """
merge_method: task_arithmetic
base_model: {0}/base
models:
  - {{model: {0}/a, parameters: {{weight: {{search: [0, 1.2], start: 0.5, anchors: 2}}}}}}
  - {{model: {0}/b, parameters: {{weight: {{search: [0, 1.2], start: 0.5}}}}}}
dtype: bfloat16
search:
  objective: [{{text: own}}]
  budget: {{trials: {1}}}
"""
OWN = [f"The {colour} {thing} number {n}." for n, colour in enumerate(["red", "blue", "grey", "pale"] * 3)
       for thing in ("lamp", "harbour")]  # fmt: skip
WHO = Account("nobody")
REQUEST: Any = SimpleNamespace(headers={}, client=SimpleNamespace(host="127.0.0.1"))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `a` and `b`."""
    folder = tmp_path_factory.mktemp("family")
    base = save_tokenizer(tiny_llama(folder / "base", 0, vocab_size=258))
    for seed, name in enumerate("ab", 1):
        save_tokenizer(tiny_llama(folder / name, seed, base, vocab_size=258))
    return folder


def service_of(tmp_path: Path, **environment: str) -> SearchService:
    host = Host.from_environment({"ALLOY_RESULTS": str(tmp_path / "results"), **environment})
    return SearchService(MergeService(host, JobBoard()))


@pytest.fixture(scope="module")
def searched(family: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchService, JobStatus]:
    """A search that ended."""
    searches = service_of(tmp_path_factory.mktemp("searched"))
    job = searches.start(SPACE.format(family, 3), {"own": OWN}, WHO, "me")
    return searches, until_ended(searches.service, job)


def test_a_search_is_a_job_that_ends_with_a_recipe_and_a_report(
    searched: tuple[SearchService, JobStatus], family: Path
) -> None:
    _, job = searched

    assert job.state == "done", job.problems
    found = job.search
    assert found and found.report and found.recipe
    assert len(found.values) == 3 and found.layers == 4
    assert {"average", f"parent {family}/a", f"parent {family}/b"} <= found.baselines.keys()
    assert {name.rpartition("/")[2]: len(anchors) for name, anchors in found.coefficients.items()} == {
        "a.weight": 2,
        "b.weight": 1,
    }
    assert "Judging on new documents" in [line for _, line in job.log]
    assert found.to_dict()["report"]["verdict"] == str(found.report.verdict)
    # It survives the log of a rented machine.
    assert SearchReport.from_dict(json.loads(json.dumps(found.report.to_dict()))) == found.report


@pytest.mark.parametrize("language", ["en", "ko"])
def test_its_card_has_a_sentence_a_table_and_a_picture(
    searched: tuple[SearchService, JobStatus], language: str
) -> None:
    _, job = searched
    assert job.search and job.search.report

    with speaking(language):
        card = shown(str(search_card(job)))
        said = remark_words(job.search.report.verdict)
        whole = job.search.report.markdown(remark_words)

    assert said in card.text and whole.splitlines()[0] in card.text
    assert ("평균" in whole, "the plain average" in whole) == (
        (True, False) if language == "ko" else (False, True)
    )
    assert {"svg", "table", "circle"} <= set(card.names)
    assert card.names.count("circle") == len([v for v in job.search.values if v is not None])


def test_a_merge_of_the_recipe_says_on_its_card_how_it_was_found(
    searched: tuple[SearchService, JobStatus], tmp_path: Path
) -> None:
    searches, job = searched
    assert job.search and job.search.report
    service, recipe = searches.service, f"# a comment\n{job.search.recipe}"
    for visitor, is_theirs in (("me", True), ("another", False)):
        to = str(tmp_path / visitor)
        plan = service.plan(recipe, to, WHO, visitor)
        merge = service.merge(plan, to, WHO, visitor, private=True, overwrite=False)
        done = until_ended(searches.service, merge)
        assert isinstance(done.result, Result), done.problems
        for card in (done.request.card, (tmp_path / visitor / "README.md").read_text()):
            assert (job.search.report.card().strip() in card) == is_theirs


def test_a_search_that_is_stopped_keeps_its_best_recipe(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    searches = service_of(tmp_path)
    job = searches.start(SPACE.format(family, 100_000) + "  by: random\n", {"own": OWN}, WHO, "me")
    deadline = time.monotonic() + 120
    while not (found := searches.service.job(job).search) or not found.recipe:
        assert time.monotonic() < deadline and searches.service.job(job).is_live, searches.service.job(job)
        time.sleep(0.02)

    assert searches.service.board.cancel(job)
    stopped = until_ended(searches.service, job)
    assert not list(Path(tempfile.gettempdir()).glob("alloy-search-*"))

    assert stopped.state == "cancelled"
    assert stopped.search and stopped.search.recipe and not stopped.search.report
    with speaking("en"):
        assert "The best recipe so far is below" in shown(str(search_card(stopped))).text


@pytest.mark.parametrize(
    ("space", "texts", "code"),
    [
        ("merge_method: linear\nsearch: {{objective: [{{text: english}}]}}", {}, "nothing-to-search"),
        (SPACE.replace("[0, 1.2]", "[3, 1]"), {"own": OWN}, "search-values"),
        (SPACE + "#" * MAX_SPACE, {"own": OWN}, "space-too-long"),
        (SPACE, {"own": ["x" * (MAX_CHARACTERS + 1)]}, "text-too-long"),
        (SPACE.replace("{0}/a", "{0}/nothing"), {"own": OWN}, "no-folder-or-model-id"),
    ],
)
def test_what_cannot_be_searched_is_refused_at_once(
    space: str, texts: dict[str, list[str]], code: str, family: Path, tmp_path: Path
) -> None:
    with pytest.raises(MergeError) as refused:
        service_of(tmp_path).start(space.format(family, 3), texts, WHO, "me")

    assert code in [problem.code for problem in refused.value.problems]


def test_too_little_text_ends_in_words(family: Path, tmp_path: Path) -> None:
    searches = service_of(tmp_path)

    job = until_ended(searches.service, searches.start(SPACE.format(family, 3), {"own": OWN[:4]}, WHO, "me"))

    assert (job.state, [problem.code for problem in job.problems]) == ("failed", ["text-too-small"])
    assert "text-too-small" not in shown(str(search_card(job))).text


def test_strangers_search_no_files_of_the_server_and_not_for_hours(
    family: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_user("ann")
    for name in ("base", "a", "b"):
        hub.put(f"ann/{name}", family / name)
    secret = tmp_path / "secret.txt"
    secret.write_text("\n\n".join(OWN))
    searches = service_of(tmp_path, SPACE_ID="you/alloy")
    orders: list[Any] = []
    monkeypatch.setattr("ui.server.searches._run", lambda order, *_: orders.append(order) or SearchState())
    space = SPACE.format("ann", 100_000)

    until_ended(searches.service, searches.start(space, {"own": OWN}, WHO, "me"))
    monkeypatch.undo()
    named = space.replace("text: own", f"text: {secret}").replace("100000", "2")
    refused = until_ended(searches.service, searches.start(named, {}, WHO, "me"))
    with pytest.raises(MergeError):
        searches.start(SPACE.format(family, 2), {"own": OWN}, WHO, "me")

    assert (orders[0].minutes, orders[0].trials <= 200, orders[0].allow_folders) == (MAX_MINUTES, True, False)
    assert [problem.code for problem in refused.problems] == ["no-bundled-text"]


def test_recipes_that_were_found_are_known_by_what_they_say() -> None:
    found = FoundRecipes()

    found.add("me", "{merge_method: linear, models: [a]}", "card")

    assert found.card("me", "# note\nmodels: [a]\nmerge_method: linear") == "card"
    assert (found.card("me", "models: [b]"), found.card("you", "models: [a]\nmerge_method: linear")) == (
        "",
        "",
    )


def test_the_chart_draws_each_trial_and_baseline() -> None:
    state = SearchState(values=(0.9, None, 0.8), baselines={"average": 0.85, "parent a/<b>": 1.0})

    with speaking("en"):
        picture = shown(str(chart(state)))

    assert picture.names.count("circle") == 2
    assert [kind for key, kind in picture.attributes if key == "class"].count("baseline") == 2
    assert "plain average" in picture.text and "<b>" in picture.text
    assert chart(SearchState()) == ""


def test_two_texts_that_pull_apart_have_a_picture_of_their_front(
    searched: tuple[SearchService, JobStatus],
) -> None:
    assert searched[1].search and searched[1].search.report
    one, other = {"trial 0": 0.8, "trial 1": 0.7}, {"trial 0": 0.5, "trial 1": 0.6}
    figures = {
        name: {who: {"search": value} for who, value in {**scores, "average": 0.9}.items()}
        for name, scores in (("pirate", one), ("english", other))
    }
    front = {who: {"pirate": one[who], "english": other[who]} for who in one}
    report = replace(searched[1].search.report, winner="trial 1", figures=figures, front=front)

    with speaking("en"):
        picture = shown(str(front_chart(report)))

    kinds = [kind for key, kind in picture.attributes if key == "class"]
    assert [kinds.count(kind) for kind in ("trial", "trial winner", "known")] == [1, 1, 1]
    assert "plain average" in picture.text
    assert front_chart(replace(report, front={"trial 1": front["trial 1"]})) == ""
    assert front_chart(replace(report, figures={"pirate": figures["pirate"]})) == ""


@pytest.mark.parametrize("voice", VOICES)
def test_the_voices_of_the_demo_are_conversations(voice: str) -> None:
    found = conversations(voice)

    assert len(found) == len(set(found)) >= 20
    assert all('"role": "assistant"' in document for document in found)


# -- the page -------------------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> gr.Blocks:
    return build_page(Host.from_environment({"ALLOY_RESULTS": str(tmp_path), "ALLOY_DEMO": "1"}))


def tab_of(page: gr.Blocks) -> Any:
    return event(page, "SearchTab._start").__self__


def test_the_preset_fills_everything_in(page: gr.Blocks) -> None:
    tab = tab_of(page)
    memory = tab.editor.opening(tab.editor.first_recipe)[tab.editor.form.memory]

    updates = tab._preset(memory)

    assert updates[tab.texts.chosen] == ["pirate", "bard"] and updates[tab.texts.guard] == "english"
    assert updates[tab.editor.yaml] == updates[tab.shown]
    assert len(updates[tab.moving]["value"]) == 2
    [wired] = [fn for fn in page.fns.values() if getattr(fn.fn, "__func__", None) is type(tab)._preset]
    assert updates.keys() <= set(wired.outputs)


def test_what_a_browser_keeps_is_restored_when_the_page_loads(page: gr.Blocks) -> None:
    """Gradio restores what is inside a tab only when that is opened; the first one is open."""
    within = {}
    for state in page.blocks.values():
        if isinstance(state, gr.BrowserState):
            around: Any = state
            while around is not None and not isinstance(around, gr.Tab):
                around = around.parent
            within[state.storage_key] = around.id if around else None

    assert {"alloy-search", "alloy-votes", "alloy-merges"} <= within.keys()
    assert set(within.values()) <= {None, "merge"}, within


def test_opening_the_tab_again_keeps_what_was_chosen(page: gr.Blocks) -> None:
    tab = tab_of(page)
    recipe = tab.editor.first_recipe

    assert tab._opened(recipe, None)[tab.shown] == recipe
    assert "__type__" in tab._opened(recipe, recipe)


def values(tab: Any, recipe: str, **chosen: Any) -> dict[Any, Any]:
    """What the fields hold after the tab was opened on a recipe."""
    given = {field: field.value for field in {tab.editor.yaml, *tab.inputs}}
    for field, update in tab.show(recipe).items():
        given[field] = update.get("value") if isinstance(update, dict) else update
    return {**given, tab.editor.yaml: recipe, **{getattr(tab, name): value for name, value in chosen.items()}}


def test_ranges_are_shown_of_numbers_that_may_change(page: gr.Blocks) -> None:
    tab = tab_of(page)
    memory = tab.editor.opening(tab.editor.first_recipe)[tab.editor.form.memory]
    updates = tab._preset(memory)
    recipe, (*weights, factor) = updates[tab.editor.yaml], [key for _, key in updates[tab.moving]["choices"]]

    rows = [row for row, _, _ in tab.ranges]
    for made in (updates, tab._moved(recipe, weights)):
        assert [made[row]["visible"] for row in rows] == [True, *[False] * (len(rows) - 1)]
    both, nothing = tab._moved(recipe, [*weights, factor]), tab._moved(recipe, None)
    assert [both[row]["visible"] for row in rows][:3] == [True, True, False]
    assert not any(nothing[row]["visible"] for row in rows)


def test_start_needs_a_number_and_a_text(page: gr.Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    tab = tab_of(page)
    recipe = tab.editor.first_recipe
    nothing = values(tab, recipe, moving=[])
    without = {**values(tab, recipe), tab.texts.chosen: []}

    for given, words in ((nothing, "at least one number"), (without, "Choose a text")):
        with pytest.raises(gr.Error, match=words):
            tab._start(given, None, None)


def test_start_searches_the_recipe_of_the_merge_tab(page: gr.Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    tab = tab_of(page)
    asked: list[Any] = []
    monkeypatch.setattr(tab.searches, "start", lambda *given: asked.append(given) or "job")
    given = {
        **values(tab, tab.editor.first_recipe),
        tab.texts.own: "One.\n\nTwo.",
        tab.texts.dataset.name: "ann/rows",
    }

    started = tab._start(given, None, None)

    text, documents, *_ = asked[0]
    assert (started[tab.job], started[tab.space]) == ("job", text)
    assert "anchors: 5" in text
    goals = [(goal.kind, goal.source) for goal in read_space(text).settings.goals]
    assert goals == [("text", "english"), ("text", "own"), ("dataset", "ann/rows")]
    assert documents["own"] == ["One.", "Two."]


def test_votes_and_chats_of_the_visitor_are_texts(page: gr.Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    tab = tab_of(page)
    asked: list[Any] = []
    monkeypatch.setattr(tab.searches, "start", lambda *given: asked.append(given) or "job")
    given = values(tab, tab.editor.first_recipe)
    given[tab.texts.chosen] = ["votes", "chats"]
    vote = {
        "left": "a",
        "right": "b",
        "message": "Hi",
        "left_answer": "Ahoy",
        "right_answer": "Yo",
        "vote": "left",
    }
    talk = [{"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Farewell"}]
    stored = next(field for field in tab.texts.examples.inputs if isinstance(field, gr.BrowserState))
    first, *_ = (field for field in tab.texts.examples.inputs if isinstance(field, gr.Chatbot))

    for empty, words in ((stored, "no votes"), (first, "no chats")):
        with pytest.raises(gr.Error, match=words):
            tab._start({**given, stored: [vote], first: talk, empty: []}, None, None)
    tab._start({**given, stored: [vote], first: talk}, None, None)

    text, documents, *_ = asked[0]
    goals = [(goal.kind, goal.source) for goal in read_space(text).settings.goals]
    assert goals == [("text", "votes"), ("text", "chats")]
    said = {name: [messages_of(one) for one in documents[name]] for name in ("votes", "chats")}
    assert said == {
        "votes": [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]],
        "chats": [[{"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Farewell"}]],
    }


def test_a_data_set_may_have_a_configuration(page: gr.Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    tab = tab_of(page)
    asked: list[Any] = []
    monkeypatch.setattr(tab.searches, "start", lambda *given: asked.append(given) or "job")
    fields = tab.texts.dataset
    given = {
        **values(tab, tab.editor.first_recipe),
        fields.name: "ann/rows",
        fields.subset: "ko",
        fields.rows: 10**6,
    }

    tab._start(given, None, None)

    goal = read_space(asked[0][0]).settings.goals[1]
    assert (goal.source, goal.subset, goal.split, goal.rows) == ("ann/rows", "ko", "train", MAX_ROWS)


def test_what_is_wrong_is_said_on_the_tab(page: gr.Blocks) -> None:
    tab = tab_of(page)
    recipe = tab.editor.first_recipe.replace("slerp", "slerp\nunknown: 1")

    updates = tab._start(values(tab, recipe), None, None)

    assert tab.job not in updates
    assert "unknown" in str(updates[tab.message])


def test_the_card_follows_the_job(page: gr.Blocks, searched: tuple[SearchService, JobStatus]) -> None:
    tab = tab_of(page)
    tab.searches, (_, job) = searched[0], searched

    done = tab._watch(job.id, "", REQUEST, None)
    again = tab._watch(job.id, done[tab.drawn], REQUEST, None)
    lost = tab._watch("gone", "", REQUEST, None)

    assert job.title in str(done[tab.card]) and tab.card not in again
    assert (done[tab.use]["visible"], done[tab.stop]["visible"], done[tab.clock]["active"]) == (
        True,
        False,
        False,
    )
    assert "restarted" in str(lost[tab.card]) and not lost[tab.use]["visible"]
    assert tab.recipe(job.id) == job.search.recipe if job.search else False
    assert (tab.recipe("gone"), tab.recipe(None)) == ("", "")


def test_a_rented_search_is_kept_so_that_it_is_found_again(
    page: gr.Blocks, searched: tuple[SearchService, JobStatus], monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = tab_of(page)
    tab.searches, (_, job) = searched[0], searched
    rented = Rented("ann", "1", "cpu-upgrade", "", 0, "search")
    kept = record(replace(job, request=replace(job.request, rented=rented)))
    asked: list[JobStatus] = []
    monkeypatch.setattr("ui.search.tab.found_again", lambda _, lost, *__: asked.append(lost) or job)

    known = tab._watch(kept, "", REQUEST, None)
    assert job.title in str(known[tab.card]) and not asked
    found = tab._watch({**kept, "id": "lost"}, "", REQUEST, None)
    local = tab._watch({**kept, "id": "lost", "rented": None}, "", REQUEST, None)

    assert job.title in str(found[tab.card])
    assert [(it.id, it.request.rented and it.request.rented.id) for it in asked] == [("lost", "1")]
    assert "restarted" in str(local[tab.card])


def test_the_api_searches(family: Path, tmp_path: Path) -> None:
    searches = service_of(tmp_path)
    api = Api(searches.service, searches)

    started = api.search(SPACE.format(family, 2), REQUEST, None, {"own": "\n\n".join(OWN)})
    until_ended(searches.service, started["job"])
    state = api.job(started["job"])
    refused = api.search("nothing", REQUEST, None)

    assert (state["state"], state["search"]["report"]["ending"] in ("better", "worse", "none", "short")) == (
        "done",
        True,
    )
    assert "merge_method" in state["search"]["recipe"] and "request" not in state
    assert not refused["ok"] and refused["problems"]


def test_a_card_in_each_state_can_be_read() -> None:
    job = JobStatus(
        "id", "<one>", ("a", "b"), "running", search=SearchState("trials", 9, (0.9,), {"average": 1.0})
    )
    with speaking("en"):
        running = shown(str(search_card(replace(job, seconds_left=65.0, elapsed=20.0)))).text
        waiting = shown(
            str(search_card(replace(job, state="waiting", position=2, search=SearchState())))
        ).text

    with speaking("en"):
        worse = shown(
            str(search_card(replace(job, search=SearchState("trials", 9, (1.1,), {"average": 1.0}))))
        ).text

    assert "best 0.9000 (0.1000 below the plain average)" in running and "65 s of trials left" in running
    assert "best 1.1000 (not below the plain average yet)" in worse
    assert "number 2 in the queue" in waiting


def test_a_strangers_model_is_not_opened_where_the_page_is_served(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file for mergekit-evolve with groups of layers asks how many there are."""
    monkeypatch.setattr("searching.genome.open_checkpoint", None)
    genome = {"models": [f"{family}/a", f"{family}/b"], "merge_method": "linear", "layer_granularity": 3}
    text = json.dumps({"genome": genome, "tasks": [{"name": "kmmlu"}]})

    with pytest.raises(ProblemError) as raised:
        service_of(tmp_path).start(text, {}, WHO, "me")

    assert raised.value.problems[0].code == "genome-layers"
    assert raised.value.problems[0].values["layers"] == 4
    with pytest.raises(ProblemError, match="neither a folder here nor"):
        service_of(tmp_path).start(text.replace(f"{family}/a", "./nothing"), {}, WHO, "me")
