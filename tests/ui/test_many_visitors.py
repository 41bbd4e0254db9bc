"""Eight visitors at once on one server: each is served, none sees another, and nobody takes it all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from merging import Progress, Result
from tests.hub import Hub
from tests.ui.speaker import tiny_speaker
from tests.ui.test_page import Open, open_page  # noqa: F401
from ui.server.jobs import MAX_JOBS_OF_A_VISITOR, JobBoard

NAMES = [f"visitor{number}" for number in range(8)]
# Weight 0 for the model that all share: the result has the bytes of the visitor's own.
RECIPE = """
merge_method: linear
models:
  - {{model: {name}/own, parameters: {{weight: 1}}}}
  - {{model: open/shared, parameters: {{weight: 0}}}}
"""
SPACE = {"SPACE_ID": "you/alloy"}


@dataclass
class Gate:
    """A merge at the head of the line, that lasts until it is let through."""

    open: threading.Event

    def __call__(self, on_progress: Callable[[Progress], None], cancel: threading.Event) -> Result:
        assert self.open.wait(120)
        return Result("hf://gate/keeper", None, None, 0, 0.0)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> JobBoard:
    """The jobs of the pages that are opened in a test."""
    board = JobBoard()
    monkeypatch.setattr("ui.page.JobBoard", lambda: board)
    return board


@pytest.fixture
def tokens(hub: Hub, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Eight users, each with a private model of their own, and one model that all may read."""
    hub.add_user("open")
    shared = tiny_speaker(tmp_path / "shared", 100)
    hub.put("open/shared", shared)
    tokens = {name: hub.add_user(name) for name in NAMES}
    for seed, name in enumerate(NAMES):
        hub.put(f"{name}/own", tiny_speaker(tmp_path / name, seed, shared), private=True)
    yield tokens


def at_once(work: Callable[[str], Any]) -> dict[str, Any]:
    """What the work gives for each visitor, all of them at the same time."""
    with ThreadPoolExecutor(len(NAMES)) as pool:
        return dict(zip(NAMES, pool.map(work, NAMES), strict=True))


def until(client: Client, job: str, states: set[str]) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found: dict[str, Any] = client.predict(job, api_name="/job")
        if found["state"] in states:
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def test_eight_visitors_plan_merge_and_chat_at_once(
    open_page: Open,  # noqa: F811
    tokens: dict[str, str],
    hub: Hub,
    board: JobBoard,
    capfd: pytest.CaptureFixture[str],
) -> None:
    gate = Gate(threading.Event())
    board.submit("gatekeeper", "gate", (), gate)
    first = open_page(**SPACE)
    clients = {
        name: Client(first.src, verbose=False, oauth_token=token, analytics_enabled=False)
        for name, token in tokens.items()
    }
    recipes = {name: RECIPE.format(name=name) for name in NAMES}

    def plan_and_merge(name: str) -> Any:
        planned = clients[name].predict(recipes[name], f"hf://{name}/merged", api_name="/plan")
        assert planned["ok"], planned
        return clients[name].predict(recipes[name], f"hf://{name}/merged", api_name="/merge")

    def chat(name: str) -> Any:
        return clients[name].predict(
            f"{name}/own", f"I am {name}.", temperature=0, max_new_tokens=8, api_name="/chat"
        )

    # All plan and ask for a merge; what stands before each in line is true, and is nothing of the others'.
    started = at_once(plan_and_merge)
    assert all(answer["ok"] for answer in started.values()), started
    jobs = {answer["job"] for answer in started.values()}
    assert len(jobs) == 8
    assert min(map(len, jobs)) >= 32  # not to be guessed
    waiting = {name: clients[name].predict(started[name]["job"], api_name="/job") for name in NAMES}
    assert sorted(job["position"] for job in waiting.values()) == list(range(1, 9))
    in_line = sorted(NAMES, key=lambda name: waiting[name]["position"])
    waits = [waiting[name]["seconds_to_wait"] for name in in_line]
    assert waits == sorted(waits)
    assert waits[7] > waits[1] > 0
    for name, job in waiting.items():
        assert not [other for other in NAMES if other != name and other in json.dumps(job)]

    # While the line stands, all chat with their private models: each gets the answer of their own.
    said = at_once(chat)
    assert all(answer["ok"] for answer in said.values()), said
    assert len({answer["answer"] for answer in said.values()}) > 4  # of random models, a few may say the same
    again = at_once(chat)
    assert {name: answer["answer"] for name, answer in again.items()} == {
        name: answer["answer"] for name, answer in said.items()
    }

    # The line moves on in the order that it told.
    gate.open.set()
    done = at_once(lambda name: until(clients[name], started[name]["job"], {"done", "failed"}))
    assert {job["state"] for job in done.values()} == {"done"}, done
    ended = {name: board._jobs[started[name]["job"]].ended for name in NAMES}
    assert sorted(NAMES, key=ended.__getitem__) == in_line
    for name, token in tokens.items():
        assert done[name]["result"]["location"] == f"hf://{name}/merged"
        assert hub.repo(f"{name}/merged").private
        assert tensors(hub, f"{name}/merged") == tensors(hub, f"{name}/own")
        assert token not in json.dumps([done, said, waiting])

    # What is in the server's memory, and on its disk, is still its owner's alone.
    stranger, owner = NAMES[0], NAMES[1]
    read: list[Any] = [
        clients[stranger].predict(f"{owner}/own", "Hello", api_name="/chat"),
        clients[stranger].predict(f"{owner}/merged", "abc", api_name="/perplexity"),
        clients[stranger].predict(recipes[owner], "", api_name="/plan"),
        first.predict(f"{owner}/own", "Hello", api_name="/chat"),
        clients[stranger].predict(recipes[stranger], f"hf://{owner}/stolen", api_name="/merge"),
    ]
    refused = until(clients[stranger], read[4]["job"], {"failed"}) if read[4]["ok"] else read[4]
    assert not [answer for answer in read[:4] if answer["ok"]], read
    assert refused["problems"]
    assert f"{owner}/stolen" not in hub.repos
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert not [token for token in tokens.values() if token in out + err]


def tensors(hub: Hub, repo_id: str) -> bytes:
    """The bytes of a model's weights behind their header."""
    data = hub.read(repo_id, "model.safetensors")
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_a_visitor_has_a_share_of_the_line_and_no_more(
    open_page: Open,  # noqa: F811
    tokens: dict[str, str],
    board: JobBoard,
) -> None:
    gate = Gate(threading.Event())
    board.submit("gatekeeper", "gate", (), gate)
    greedy, modest = NAMES[:2]
    first = open_page(tokens[greedy], **SPACE)
    other = Client(first.src, verbose=False, oauth_token=tokens[modest], analytics_enabled=False)

    def ask(client: Client, name: str, number: int) -> Any:
        return client.predict(RECIPE.format(name=name), f"hf://{name}/n{number}", api_name="/merge")

    answers = [ask(first, greedy, number) for number in range(MAX_JOBS_OF_A_VISITOR + 2)]
    late = ask(other, modest, 0)

    assert [answer["ok"] for answer in answers] == [True] * MAX_JOBS_OF_A_VISITOR + [False] * 2
    problem = answers[-1]["problems"][0]
    assert (problem["code"], bool(problem["fix"])) == ("too-many-jobs", True)
    # Who comes later, with less, is not behind all of them.
    assert late["ok"]
    assert other.predict(late["job"], api_name="/job")["position"] == 2
    assert first.predict(answers[0]["job"], api_name="/cancel") == {"stopped": True}
    assert ask(first, greedy, 9)["ok"]
    gate.open.set()
