"""Searches and trainings on rented machines: what their commands print is shown as if they ran here."""

from __future__ import annotations

import base64
import gzip
import json
import secrets
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from evaluation.remark import Remark
from merging import MergeError, Result
from searching import Comparison, SearchReport
from tests.hub import Hub
from tests.hub.rented import RentedJob
from tests.merges import wait_for, without_pauses
from tests.tiny import save_tokenizer, tiny_llama
from tests.ui.conftest import until_ended
from tests.ui.rented.rooms import furnish
from tests.ui.test_cards import shown
from ui.hub.account import Account
from ui.merge.history import record, restored
from ui.merge.job_card import job_card
from ui.rented import heal, search
from ui.rented.job import INSTALL, packed
from ui.rented.merge import found_again
from ui.search.card import search_card
from ui.server.heals import HealService, chain_of
from ui.server.jobs import JobBoard, JobStatus
from ui.server.merge_service import MergeService
from ui.server.searches import SearchService

MACHINE, TO = "cpu-upgrade", "hf://alice/healed"
SPACE = """
merge_method: task_arithmetic
base_model: alice/base
models:
  - {model: alice/a, parameters: {weight: {search: [0, 1.2], start: 0.5}}}
search:
  objective: [{text: own}]
  budget: {trials: 2, minutes: 5}
"""
TEXTS = {"own": [f"The {colour} lamp, {number}: 등불." for number in range(12) for colour in ("red", "blue")]}
# An answer that the command printed is read from here.
PRINT = "cat {lines} >&2; exit {status}"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and `a`."""
    folder = tmp_path_factory.mktemp("family")
    base = save_tokenizer(tiny_llama(folder / "base", 0, vocab_size=258))
    save_tokenizer(tiny_llama(folder / "a", 1, base, vocab_size=258))
    return folder


@pytest.fixture
def who(hub: Hub, family: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    without_pauses(monkeypatch)
    monkeypatch.setattr("ui.rented.job.POLL", 0.05)
    token = hub.add_user("alice")
    for name in ("base", "a"):
        hub.put(f"alice/{name}", family / name, private=True)
    return Account("machine", token)


@pytest.fixture
def prints(hub: Hub, tmp_path: Path) -> Callable[..., None]:
    """Lets the command print lines, and end with a status."""

    def set_up(*lines: object, status: int = 0, first: str = "") -> None:
        file = tmp_path / "lines"
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        furnish(hub, tmp_path, first + PRINT.format(lines=shlex.quote(str(file)), status=status))

    return set_up


def only(hub: Hub) -> RentedJob:
    [job] = hub.rented.jobs.values()
    return job


def chain() -> str:
    return chain_of(
        "merge_method: passthrough\nmodels: [{model: alice/a}]", datasets=["python-topics"], steps=2
    )


STEPS = [{"phase": "training", "step": number, "of": 2, "loss": 3.5 - number} for number in (1, 2)]


def judged(healed: bool, result: Result | None) -> dict[str, Any]:
    known = Remark("difference-detectable", {"value": 0.01})
    of_a_later_version = Remark("difference-of-tomorrow")
    return {
        "phase": "done",
        "healed": healed,
        "scores": [["before", 61.0, 2.5], ["after", 40.0, 2.1]],
        "remarks": [asdict(known), asdict(of_a_later_version)],
        "losses": [2.5, 1.5],
        "seconds": 3.0,
        "result": asdict(result) if result else None,
    }


def begun(service: MergeService, who: Account, to: str = TO) -> str:
    return heal.begin(HealService(service), chain(), to, who, "me", MACHINE, 600.0)


def test_a_training_is_followed_to_its_result(
    hub: Hub, who: Account, service: MergeService, prints: Callable[..., None], family: Path
) -> None:
    size = (family / "a" / "model.safetensors").stat().st_size
    prints("loading", *STEPS, judged(True, Result(TO, None, None, size, 3.0)))
    hub.put("alice/healed", family / "a", private=True)  # what the command would have left

    job = until_ended(service, begun(service, who))

    assert (job.state, job.problems) == ("done", ())
    assert job.heal is not None
    assert (job.heal.phase, job.heal.healed, job.heal.losses) == ("judged", True, (2.5, 1.5))
    assert job.heal.scores[1] == ("after", 40.0, 2.1)
    assert [remark.code for remark in job.heal.remarks] == ["difference-detectable"]
    assert job.result is not None
    assert job.result.verified
    assert job.result.commit == hub.repo("alice/healed").history()[0].id
    assert "On a rented machine: cpu-upgrade" in shown(job_card(job)).text
    spec = only(hub).spec
    assert spec["command"] == ["bash", "-c", INSTALL + heal.SCRIPT, "alloy"]
    assert gzip.decompress(base64.b64decode(spec["environment"]["CHAIN"])).decode() == chain()
    assert spec["environment"]["EXTRAS"] == "[healing]"
    assert spec["secrets"] == {"HF_TOKEN": who.token}
    told = json.dumps({**spec, "secrets": None}) + repr(job) + repr(record(job))
    assert str(who.token) not in told


def test_a_training_that_did_not_help_is_no_failure_of_the_machine(
    hub: Hub, who: Account, service: MergeService, prints: Callable[..., None]
) -> None:
    prints(*STEPS, judged(False, None), status=3)

    job = until_ended(service, begun(service, who))

    assert job.state == "done", (job.problems, only(hub).lines)
    assert job.heal is not None
    assert (job.heal.healed, job.result) == (False, None)
    assert only(hub).runs == 1


@pytest.mark.parametrize("kept", [True, False])
def test_a_result_that_is_not_there_is_no_success(
    kept: bool, hub: Hub, who: Account, service: MergeService, prints: Callable[..., None], family: Path
) -> None:
    prints(judged(True, Result(TO, None, None, 5, 3.0)))
    if kept:  # something else is there
        hub.put("alice/healed", family / "a", private=True)

    job = until_ended(service, begun(service, who))

    assert not (job.result and job.result.verified)
    assert job.state == ("done" if kept else "failed")


def test_a_problem_there_is_shown_here(
    hub: Hub, who: Account, service: MergeService, prints: Callable[..., None]
) -> None:
    problem = {"code": "model-changed", "values": {"model": "alice/a"}, "where": "alice/a"}
    prints({"phase": "failed", "problems": [problem]}, status=1)

    job = until_ended(service, begun(service, who))

    assert [found.code for found in job.problems] == ["model-changed"]
    assert only(hub).runs == 2


@pytest.mark.parametrize("last", [{"phase": "done"}, {"phase": "done", "report": {"ending": "x"}}, "nothing"])
def test_an_end_that_says_nothing_is_a_failure(
    last: object,
    hub: Hub,
    who: Account,
    service: MergeService,
    prints: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ui.rented.job.LATE_SECONDS", 0.2)
    prints(last)
    jobs = [begun(service, who), search.begin(SearchService(service), SPACE, TEXTS, who, "me", MACHINE, 60.0)]

    ended = [until_ended(service, job) for job in jobs]

    assert [[found.code for found in job.problems] for job in ended] == [["rented-failed"]] * 2


def test_a_token_that_a_machine_prints_is_not_shown(
    hub: Hub, who: Account, service: MergeService, prints: Callable[..., None]
) -> None:
    prints(judged(False, None), status=3, first='echo "the token is $HF_TOKEN"; ')

    job = until_ended(service, begun(service, who))

    assert str(who.token) in repr(only(hub).lines)
    assert "the token is (token)" in repr(job)
    assert str(who.token) not in repr(job) + str(job_card(job)) + repr(record(job))


def test_a_training_is_found_again_after_a_restart(
    hub: Hub, who: Account, service: MergeService, prints: Callable[..., None], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    prints(*STEPS, judged(False, None), status=3, first=f"while [ ! -e {gate} ]; do sleep 0.05; done; ")
    kept = json.loads(json.dumps(record(service.job(begun(service, who)))))
    later = MergeService(service.host, JobBoard())
    lost = restored(later.host, kept, None)
    assert lost is not None

    found = found_again(later, lost, who, "me")
    gate.touch()
    done = until_ended(later, found.id)

    assert done.heal is not None
    assert (done.state, done.heal.healed) == ("done", False)


@pytest.mark.parametrize("to", ["/tmp/healed", "s3://store/healed", "hf://buckets/alice/store/healed"])
def test_a_training_goes_to_a_repository_on_the_hub(
    to: str, service: MergeService, who: Account, hub: Hub
) -> None:
    with pytest.raises(MergeError) as caught:
        begun(service, who, to)

    assert [problem.code for problem in caught.value.problems] == ["rented-heal-elsewhere"]
    assert not hub.rented.jobs


def reported(point: dict[str, float], recipe: str) -> SearchReport:
    average = Comparison(
        "average", -0.02, (-0.03, -0.01), 0.01, 0.01, "better", 0.005, {"own": (-0.02, None)}
    )
    return SearchReport(
        "better", "winner", "trial 1", point, recipe, (average,), {"own": {"trial 1": {"report": 1.5}}},
        {"search": 0.03, "choice": 0.02, "report": 0.02}, {}, {}, {"alice/a.weight": (0.4, 0.8)}, {},
        {"own": {"search": 8, "choice": 8, "report": 8}}, {}, {"ended": 2, "stopped": 0, "failed": 0}, 12.0,
        {"by": "tpe", "seed": 0, "split": {}, "space": "x", "data": "y", "parents": []},
    )  # fmt: skip


def scored(who: str, value: float | None, part: str = "search", phase: str = "trials") -> dict[str, Any]:
    return {
        "phase": phase, "who": who, "part": part, "value": value, "best": value, "trials": 2, "seconds_left": 3.0,
        "least": 0.01,
    }  # fmt: skip


@pytest.fixture
def found(
    hub: Hub, who: Account, service: MergeService, prints: Callable[..., None], tmp_path: Path
) -> JobStatus:
    """A search that ended there."""
    from searching import read_space

    space = read_space(SPACE)
    [axis] = space.axes
    report = reported({axis.name: 0.75}, space.recipe({axis.name: 0.75}).text)
    lines = [
        scored("average", 1.6, phase="baselines"),
        scored("trial 0", 1.7),
        scored("trial 1", None),
        {"phase": "done", "report": report.to_dict()},
    ]
    unpacked = tmp_path / "unpacked"
    prints(*lines, first=f"cp space.yaml texts.json {unpacked}; ")
    unpacked.mkdir()
    searches = SearchService(service)

    job = until_ended(service, search.begin(searches, SPACE, TEXTS, who, "me", MACHINE, 300.0))

    assert (unpacked / "space.yaml").read_text() == space.text
    assert json.loads((unpacked / "texts.json").read_text()) == TEXTS
    assert job.search is not None
    assert job.search.report == report
    return job


def test_a_search_comes_back_in_its_log(
    found: JobStatus, hub: Hub, service: MergeService, who: Account
) -> None:
    state = found.search
    assert state is not None
    assert state.report is not None
    assert (found.state, state.phase, state.values) == ("done", "report", (1.7, None))
    assert (state.baselines, state.least, state.trials) == ({"average": 1.6}, 0.01, 2)
    assert "weight: 0.75" in state.recipe
    assert list(state.coefficients.values()) == [(0.75,)]
    card = shown(str(search_card(found))).text
    assert str(state.report.verdict) in card
    spec = only(hub).spec
    assert spec["command"] == ["bash", "-c", INSTALL + search.SCRIPT, "alloy"]
    assert gzip.decompress(base64.b64decode(spec["environment"]["SPACE"])).decode().strip() == SPACE.strip()
    assert str(who.token) not in json.dumps({**spec, "secrets": None}) + repr(found)
    # The model card of its merge says how it was found.
    assert service.found.card("me", state.recipe)


def test_a_recipe_that_cannot_be_merged_is_no_result(
    hub: Hub, who: Account, service: MergeService, prints: Callable[..., None]
) -> None:
    from searching import read_space

    [axis] = read_space(SPACE).axes
    report = reported({axis.name: 0.75}, "")
    prints({"phase": "done", "report": report.to_dict()})
    job = search.begin(SearchService(service), SPACE, TEXTS, who, "me", MACHINE, 300.0)
    hub.repos.pop("alice/a")

    ended = until_ended(service, job)

    assert ended.state == "failed"
    assert "alice/a" in str(ended.problems[0])


def test_texts_that_no_environment_takes(hub: Hub, who: Account, service: MergeService) -> None:
    texts = {"own": [secrets.token_hex(4_000) for _ in range(24)]}
    with pytest.raises(MergeError) as caught:
        search.begin(SearchService(service), SPACE, texts, who, "me", MACHINE, 300.0)

    assert [problem.code for problem in caught.value.problems] == ["text-too-long"]
    assert not hub.rented.jobs


def test_what_the_work_takes(who: Account, service: MergeService) -> None:
    training = heal.needs_of(HealService(service), chain(), who, "me")
    searching = search.needs_of(SearchService(service), SPACE, TEXTS, who, "me")

    assert training.memory > 0
    assert training.alone[0] == 2 * training.alone[1] > 0
    assert searching.memory > 0
    assert {*searching.alone} == {300.0}


def test_a_search_is_found_again_after_a_restart(
    hub: Hub, who: Account, service: MergeService, prints: Callable[..., None], tmp_path: Path
) -> None:
    from searching import read_space

    space, gate = read_space(SPACE), tmp_path / "gate"
    point = {axis.name: 0.75 for axis in space.axes}
    scores = [scored(f"trial {number}", 1.5 - number / 1000) for number in range(300)]
    end = {"phase": "done", "report": reported(point, space.recipe(point).text).to_dict()}
    prints(*scores, scores[0], end, first=f"while [ ! -e {gate} ]; do sleep 0.05; done; ")
    job = search.begin(SearchService(service), SPACE, TEXTS, who, "me", MACHINE, 300.0)
    kept = json.loads(json.dumps(record(service.job(job))))
    assert str(who.token) not in json.dumps(kept)
    later = SearchService(MergeService(service.host, JobBoard()))
    lost = restored(later.host, kept, None)
    assert lost is not None

    assert search.found_again(later, lost, Account("nobody"), "me") is None
    found = search.found_again(later, lost, who, "me")
    gate.touch()
    assert found is not None
    done = until_ended(later.service, found.id)

    assert (done.state, done.title, done.models) == ("done", "base + a", ("alice/base", "alice/a"))
    assert done.search is not None
    assert "weight: 0.75" in done.search.recipe
    assert (len(done.search.values), done.search.layers) == (300, 4)
    assert later.service.found.card("me", done.search.recipe)


@pytest.mark.parametrize("made_up", ["a training", "a bomb"])
def test_a_job_that_is_no_search(
    made_up: str, hub: Hub, who: Account, service: MergeService, prints: Callable[..., None]
) -> None:
    prints({"phase": "done", "report": reported({}, "").to_dict()})
    kept = record(service.job(begun(service, who)))
    if made_up == "a bomb":
        only(hub).spec["environment"]["SPACE"] = packed(" " * 10_000_000)
    kept["rented"]["work"] = "search"
    later = SearchService(MergeService(service.host, JobBoard()))
    lost = restored(later.host, kept, None)
    assert lost is not None

    found = search.found_again(later, lost, who, "me")

    assert found is not None
    assert [it.code for it in until_ended(later.service, found.id).problems] == ["rented-failed"]


def lines_of(job: RentedJob) -> list[dict[str, Any]]:
    """What the commands of a job said for programs, in all its attempts."""
    return [json.loads(text) for _, text in job.lines if text.startswith("{")]


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_the_second_attempt_at_a_search_continues(
    hub: Hub, who: Account, service: MergeService, tmp_path: Path
) -> None:
    furnish(hub, tmp_path)
    searched = search.begin(
        SearchService(service), SPACE.replace("trials: 2", "trials: 12"), TEXTS, who, "me", MACHINE, 300.0
    )
    machine = only(hub)

    def scored_first() -> list[dict[str, Any]]:
        wanted = ("given", "search")
        return [line for line in lines_of(machine) if (line.get("who"), line.get("part")) == wanted]

    # The copy is made before the line is printed.
    wait_for(lambda: copied(hub, "alice/alloy-code", "search-") and bool(scored_first()), 600)
    hub.rented.lose(machine)
    done = until_ended(service, searched, seconds=900)

    assert done.state == "done", done.problems
    assert machine.runs == 2
    assert len(scored_first()) == 1
    assert not [ref for ref in hub.repo("alice/alloy-code").refs if ref.startswith("search-")]


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_the_second_attempt_at_a_training_continues(
    hub: Hub, who: Account, service: MergeService, tmp_path: Path
) -> None:
    furnish(hub, tmp_path)
    recipe = "merge_method: passthrough\nmodels: [{model: alice/a}]"
    steps = chain_of(recipe, datasets=["python-topics"], steps=14)
    trained = heal.begin(HealService(service), steps, TO, who, "me", MACHINE, 600.0)
    wait_for(lambda: copied(hub, "alice/healed", "heal-"), 600)
    machine = only(hub)
    hub.rented.lose(machine)
    done = until_ended(service, trained, seconds=900)

    assert done.state == "done", done.problems
    assert machine.runs == 2
    made = [line["step"] for line in lines_of(machine) if line["phase"] == "training"]
    assert made.count(1) == made.count(10) == made.count(14) == 1


def copied(hub: Hub, repo: str, branch: str) -> bool:
    """Whether a branch has something that its repository has not."""
    found = hub.repos.get(repo)
    refs = [ref for ref in found.refs if ref.startswith(branch)] if found else []
    return bool(found and refs and len(found.history(refs[0])) > len(found.history()))


@pytest.mark.nightly
def test_both_really_run_there(hub: Hub, who: Account, service: MergeService, tmp_path: Path) -> None:
    furnish(hub, tmp_path)
    searches = SearchService(service)

    trained, searched = (
        until_ended(service, job, seconds=600)
        for job in (begun(service, who), search.begin(searches, SPACE, TEXTS, who, "me", MACHINE, 300.0))
    )

    assert trained.state == searched.state == "done", (trained.problems, searched.problems)
    assert trained.heal is not None
    assert (trained.heal.phase, len(trained.heal.losses)) == ("judged", 2)
    assert trained.heal.remarks
    assert (trained.result is not None) == trained.heal.healed == ("alice/healed" in hub.repos)
    assert searched.search is not None
    assert searched.search.report is not None
    assert len(searched.search.values) == 2
    assert searched.search.report.trials["ended"] == 2
