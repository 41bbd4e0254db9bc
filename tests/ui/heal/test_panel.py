"""Which layers matter, and Heal it: from the fields to the card, and the API, without a browser."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoints.problems import PlanError, ProblemError
from evaluation.remark import Remark
from healing import plan_training
from merging import Result, cut_recipe
from tests.ui.conftest import event, until_ended
from ui.api import Api
from ui.heal.card import layers_found_card, loss_curve
from ui.heal.panel import parent_of
from ui.host import Host
from ui.hub.account import Account
from ui.merge.job_card import job_card
from ui.merge.my_merges import may_heal
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
    assert not may_heal(job) or job.heal


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
    assert "several models, or none" in several[owner.layers]


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


def test_a_result_of_one_parent_with_slices_may_be_healed() -> None:
    done = JobStatus(
        "", "x", ("org/one",), "done", request=MergeRequest("merge_method: passthrough\nslices: []")
    )

    assert may_heal(done)
    assert not may_heal(replace(done, models=("a/a", "b/b")))
    assert not may_heal(replace(done, request=MergeRequest("models: []")))


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
    assert loss_curve([1.0]) == ""
    measuring = LayersFound("org/one", (1.0, 0.1), None, ())
    assert "Trying cuts" in layers_found_card(measuring)
    tried = replace(measuring, whole=10.0, tried=(Candidate("1", (1,), 12.0, None, None, ""),))
    assert "12.00" in layers_found_card(tried)
