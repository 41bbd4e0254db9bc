"""Which layers matter, and Heal it: from the fields to the card, and the API, without a browser."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoints.problems import PlanError, ProblemError
from evaluation import difference, load_model, perplexity
from evaluation.remark import Remark
from evaluation.text import bundled_text
from healing import plan_training
from merging import Result, cut_recipe, make_plan, read_recipe, run_plan, stack_recipe
from merging.rented_machines import RentedMachine
from tests.ui.conftest import event, until_ended
from ui.api import Api
from ui.heal.card import layers_found_card, loss_curve
from ui.heal.offer import USUAL_STEPS, HealOffer, HealOffers, compared, may_heal, offer_lines, usual_chain
from ui.heal.panel import parent_of
from ui.host import Host
from ui.hub.account import Account
from ui.merge.history import record, record_of_result, restored
from ui.merge.job_card import job_card
from ui.page import build_page
from ui.server.heal_state import HealState
from ui.server.heals import Candidate, HealService, LayersFound, chain_of
from ui.server.jobs import JobBoard, JobStatus, MergeRequest
from ui.server.merge_service import MergeService
from ui.server.searches import SearchService

WHO = Account("nobody")
REQUEST: Any = SimpleNamespace(headers={}, client=SimpleNamespace(host="127.0.0.1"))


@pytest.fixture
def heals(tmp_path: Path) -> HealService:
    return service_of(tmp_path)


def service_of(tmp_path: Path, **environment: str) -> HealService:
    host = Host.from_environment({"ALLOY_RESULTS": str(tmp_path / "results"), **environment})
    return HealService(MergeService(host, JobBoard()))


def short(parent: Path, steps: int = 2) -> str:
    return chain_of(cut_recipe(str(parent), [2]), datasets=["python-topics"], steps=steps)


def test_layers_are_measured_and_the_best_cut_is_a_recipe(heals: HealService, parent: Path) -> None:
    *before, found = heals.layers(str(parent), 2, 2, WHO)

    assert found is not None
    assert any(one and one.by_layer == found.by_layer and one.whole is None for one in before)
    assert len(found.by_layer) == 5
    assert found.tried[0].perplexity == min(one.perplexity for one in found.tried)
    assert found.tried[0].recipe == cut_recipe(str(parent), found.tried[0].dropped)
    card = layers_found_card(found)
    assert str(card).count('class="layer dropped"') == 2
    assert found.tried[0].name in card


def test_a_cut_is_healed_as_a_job(heals: HealService, parent: Path, tmp_path: Path) -> None:
    to = str(tmp_path / "results" / "healed")

    job = until_ended(heals.service, heals.start(short(parent), to, WHO, "me", keep=True))

    assert job.state == "done", job.problems
    assert job.heal
    assert job.heal.phase == "judged"
    assert len(job.heal.losses) == 2
    assert [name for name, *_ in job.heal.scores] == ["before", "after", "teacher"]
    assert (Path(to) / "config.json").exists()
    card = job_card(job)
    assert "before" in card
    assert 'class="best"' in card
    assert not may_heal(job)
    assert job.request.training.startswith("---\ntrain: distillation")


def test_a_stopped_training_leaves_nothing(heals: HealService, parent: Path, tmp_path: Path) -> None:
    to = tmp_path / "results" / "healed"
    id = heals.start(short(parent, 200), str(to), WHO, "me")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((found := heals.service.job(id)).heal and found.heal.losses):
        time.sleep(0.02)

    assert heals.service.board.cancel(id)

    assert until_ended(heals.service, id).state == "cancelled"
    assert not to.exists()


def test_a_shared_server_has_limits(parent: Path, tmp_path: Path) -> None:
    heals = service_of(tmp_path, SPACE_ID="you/alloy")
    chain = chain_of("merge_method: passthrough\nmodels: [{model: org/one}]", datasets=["a/b"], steps=10)

    with pytest.raises(ProblemError):
        heals.plan("x" * 30_000, WHO, "me")
    with pytest.raises(PlanError):  # there is no such model
        heals.start(chain, "hf://you/x", WHO, "me")


def test_a_shared_server_reads_no_files_of_its_own(parent: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("Nobody else may read this. " * 99)
    recipe = cut_recipe(str(parent), [2])

    for data, text in ((secret, "english"), ("python-topics", secret)):
        training = f"---\ntrain: distillation\ndatasets: [{{path: {data}}}]\nevaluate: {{texts: {text}}}\n"
        plan = plan_training(recipe + training, allow_folders=False)
        assert not plan.ok
        assert "Nobody" not in str([problem.message for problem in plan.problems])


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        ("merge_method: passthrough\nmodels: [{model: org/one}]", "org/one"),
        ("merge_method: linear\nmodels: [{model: a/a}, {model: b/b}]\nparameters: {weight: 1}", None),
        ("nonsense: [", None),
    ],
)
def test_layers_are_those_of_the_only_parent(text: str, parent: str | None) -> None:
    assert parent_of(text) == parent


def test_the_panel_measures_takes_over_a_cut_and_plans(parent: Path, tmp_path: Path) -> None:
    host = Host.from_environment({"ALLOY_RESULTS": str(tmp_path / "results")})
    page = build_page(host)
    recipe = cut_recipe(str(parent), [2])
    owner = event(page, "_measure_layers").__self__  # type: ignore[attr-defined]
    given = {
        owner.editor.yaml: recipe,
        owner.drop: 1,
        owner.tries: 1,
        owner.steps: 10,
        owner.data: "python-topics",
    }

    *_, shown = event(page, "_measure_layers")(given, None)
    planned = event(page, "_plan_training")(given, REQUEST, None)
    several = next(iter(event(page, "_measure_layers")({**given, owner.editor.yaml: "models: []"}, None)))

    found = shown[owner.found]
    assert shown[owner.uses[0]]["value"] == f"Leave out {found.tried[0].name}"
    assert "1,280 tokens" in planned
    assert "psf-2.0" in planned
    assert "several, or none" in several[owner.layers]


def test_the_api_measures_and_heals(heals: HealService, parent: Path, tmp_path: Path) -> None:
    api = Api(heals.service, SearchService(heals.service))

    found = api.influence(str(parent), None, drop=1, tries=1)
    wrong = api.influence("/nowhere", None)
    bad = api.heal("train: magic", "hf://me/x", REQUEST, None)

    assert found["ok"]
    assert len(found["by_layer"]) == 5
    assert found["tried"][0]["recipe"].startswith("merge_method: passthrough")
    assert not wrong["ok"]
    assert wrong["problems"]
    assert not bad["ok"]
    job = heals.start(short(parent), str(tmp_path / "results" / "api"), WHO, "me", keep=True)
    until_ended(heals.service, job)
    status = api.job(job)
    assert status["state"] == "done"
    assert set(status["heal"]["scores"]) == {"before", "after", "teacher"}


DONE = JobStatus(
    "", "x", ("org/one",), "done", request=MergeRequest("merge_method: passthrough\nslices: []"),
    result=Result("x", None, None, 1, 1.0),
)  # fmt: skip
MACHINE = RentedMachine("cpu-upgrade", "CPU Upgrade", 8, 32 * 10**9, 0.0005)
WORSE = HealOffer(
    60.0, 40.0, Remark("difference-worse", {"model": "x", "other": "org/one", "value": 0.2, "low": 0.1, "high": 0.3}),
    True,
)  # fmt: skip


def test_only_a_result_of_one_parent_with_other_layers_is_compared() -> None:
    assert may_heal(DONE)
    for other in (
        replace(DONE, models=("a/a", "b/b")),
        replace(DONE, request=MergeRequest("models: []")),
        replace(DONE, request=replace(DONE.request, training="---\ntrain: sft\n")),
        replace(DONE, request=replace(DONE.request, download=True)),
        replace(DONE, state="failed", result=None),
    ):
        assert not may_heal(other)


def offers_of(heals: HealService, *, rents: bool = True) -> HealOffers:
    rented: Any = SimpleNamespace(host=SimpleNamespace(rents=rents), there=lambda _: [MACHINE])
    return HealOffers(heals, rented)


def known(offers: HealOffers, job: JobStatus) -> HealOffer | None:
    """What is known of a job's result once it has been compared."""
    assert offers.of(job, WHO, "me") is None
    deadline = time.monotonic() + 60
    while offers.is_pending(job) and time.monotonic() < deadline:
        time.sleep(0.01)
    return offers.of(job, WHO, "me")


def test_a_silent_stack_predicts_as_its_parent_does_and_is_not_offered_healing(
    heals: HealService, parent: Path, tmp_path: Path
) -> None:
    recipe = stack_recipe(str(parent), [1])
    result = run_plan(make_plan(read_recipe(recipe)), str(tmp_path / "stack"))
    job = replace(DONE, id="1", models=(str(parent),), request=MergeRequest(recipe), result=result)

    found = known(offers_of(heals), job)

    assert found
    assert found.perplexity == found.of_parent
    assert (found.worse, found.can_heal, found.seconds) == (False, False, None)
    assert "nothing to heal" in offer_lines(found)


@pytest.mark.parametrize("rents", [True, False])
def test_healing_is_offered_with_time_and_price_where_the_result_is_worse(
    rents: bool, heals: HealService, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.heal.offer.compared", lambda *_: iter([None, WORSE]))
    job = replace(DONE, id="1", models=(str(parent),), request=MergeRequest(cut_recipe(str(parent), [2])))

    found = known(offers_of(heals, rents=rents), job)

    assert found
    assert found.can_heal
    plan = heals.plan(usual_chain(job.request.recipe), WHO, "me")
    assert plan.training.arguments.max_steps == USUAL_STEPS
    assert found.seconds
    words = offer_lines(found)
    assert "perplexity 60.00 instead of 40.00" in words
    assert "free of charge" in words
    assert ("CPU Upgrade" in words) == ("$0.00" in words or "&lt; $0.01" in words) == rents
    assert job_card(job, offer=words).count("free of charge") == 1


def test_what_cannot_be_compared_is_not_offered_healing(heals: HealService, tmp_path: Path) -> None:
    there = Result(str(tmp_path / "x"), None, None, 1, 1.0)
    gone = replace(DONE, id="1", models=(str(tmp_path / "gone"),), result=there)

    assert known(offers_of(heals), gone) is None


def test_the_verdict_is_that_of_the_whole_interval(parent: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    run_plan(make_plan(read_recipe(cut_recipe(str(parent), [2, 3]))), str(cut))
    names = str(cut), str(parent)
    texts = bundled_text("english")
    one, other = (perplexity(load_model(name, device="cpu"), texts) for name in names)

    *_, found = compared(*names, None, True)

    assert found
    assert (found.perplexity, found.of_parent) == (one.perplexity, other.perplexity)
    assert found.worse == (difference(one, other, texts).verdict == "worse")


@pytest.mark.parametrize(
    ("offer", "visible"), [(None, False), (replace(WORSE, seconds=60.0), True), (WORSE, False)]
)
def test_the_button_is_there_where_healing_is_offered(
    offer: HealOffer | None, visible: bool, tmp_path: Path
) -> None:
    page = build_page(Host.from_environment({"ALLOY_RESULTS": str(tmp_path)}))
    mine: Any = event(page, "MyMerges._watch").__self__  # type: ignore[attr-defined]
    mine.heal_offers = SimpleNamespace(of=lambda *_: offer, is_pending=lambda _: offer is None)
    there = Result(str(tmp_path / "cut"), None, None, 1, 1.0)
    job = replace(DONE, id="1", request=replace(DONE.request, to=there.location), result=there)

    shown = mine._watch([record(job)], {"1": record_of_result(there)}, None, (), REQUEST, None)

    slot = mine.slots[0]
    assert shown[slot.heal]["visible"] == visible
    assert ("It predicts worse than its parent" in shown[slot.card]) == (offer is not None)
    assert shown[mine.clock]["active"] == (offer is None)


def test_a_training_that_failed_is_tried_again_with_the_same_chain(
    heals: HealService, parent: Path, tmp_path: Path
) -> None:
    to = tmp_path / "results" / "healed"
    to.parent.mkdir()
    to.write_text("in the way")
    job = until_ended(heals.service, heals.start(short(parent), str(to), WHO, "me", keep=True))
    assert job.state == "failed"
    to.unlink()
    kept = restored(heals.host, record(job), None)
    assert kept

    again = until_ended(heals.service, heals.again(kept, WHO, "me"))

    assert again.state == "done", again.problems
    assert again.request == replace(job.request, seconds=again.request.seconds)
    assert again.heal


def test_cards_say_what_happened() -> None:
    remark = Remark(
        "difference-none", {"model": "after", "other": "before", "value": 0.0, "low": -0.1, "high": 0.1}
    )
    state = HealState(
        "judged", 3, (3.0, 2.0, 1.5), 0.0, False, (("before", 60.0, 1.3), ("after", 61.0, 1.4)), (remark,)
    )
    job = JobStatus("", "you/x", ("org/one",), "done", heal=state)

    assert "It did not heal, so it was not kept." in job_card(job)
    assert "61.00" in job_card(job)
    kept = replace(
        job,
        heal=replace(state, result=Result("x", None, None, 1, 1.0)),
        result=Result("x", None, None, 1, 1.0),
    )
    assert "was kept as you asked" in job_card(kept)
    running = replace(job, state="running", heal=HealState("training", 3, (3.0, 2.0), 30.0))
    assert "Step 2 of 3" in job_card(running)
    assert "Healing: you/x" in job_card(running)
    assert "30 s left" in job_card(running)
    assert loss_curve([1.0]) == ""
    measuring = LayersFound("org/one", (1.0, 0.1), None, ())
    assert "Trying cuts" in layers_found_card(measuring)
    tried = replace(measuring, whole=10.0, tried=(Candidate("1", (1,), 12.0, None, None, ""),))
    assert "12.00" in layers_found_card(tried)
