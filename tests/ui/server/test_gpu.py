"""ZeroGPU: what is asked for, what runs there, and what happens when there is none."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client

from checkpoints.problems import Problem
from evaluation import EvaluationError, load_model, perplexity
from searching import plan_search, read_space, run_search
from tests import ROOT
from tests.hub import Hub
from tests.ui.conftest import free_port, wait_for
from tests.ui.server.zero_gpu import ZeroGpu, zero_gpu
from tests.ui.speaker import tiny_speaker
from ui.server import gpu

SECRET = "ip-token-of-a-visitor"


@dataclass
class Space:
    """A page on ZeroGPU, and a Hub with models for it."""

    platform: ZeroGpu
    client: Client
    log: Path
    speaker: Path
    family: Path

    def chat(self, model: str = "ann/speaks", **how: Any) -> dict[str, Any]:
        said: dict[str, Any] = self.client.predict(
            model, "Hi", max_new_tokens=5, temperature=0, api_name="/chat", **how
        )
        return said


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    folder = tmp_path_factory.mktemp("zero")
    port, log = free_port(), folder / "app.log"
    with Hub() as hub, zero_gpu() as platform, log.open("wb") as output:
        hub.add_user("ann")
        speaker = tiny_speaker(folder / "speaks")
        hub.put("ann/speaks", speaker)
        spoilt = tiny_speaker(folder / "spoilt")
        (spoilt / "config.json").write_text('{"model_type": "nobody-knows"}')
        hub.put("ann/spoilt", spoilt)
        base = tiny_speaker(folder / "ann" / "base")
        for seed, name in enumerate(("base", "one", "two")):
            hub.put(f"ann/{name}", base if not seed else tiny_speaker(folder / "ann" / name, seed, base))
        environment = {
            name: value for name, value in os.environ.items() if not re.match("SPACE|OAUTH_|HF_", name)
        }
        environment |= {
            "SPACES_ZERO_GPU": "true",
            "SPACES_ZERO_DEVICE_API_URL": platform.url,
            "SPACE_ID": "you/alloy",
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": str(folder / "gradio"),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ui.server.zero_gpu", str(port)],
            cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}/"
            wait_for(process, url, log)
            headers = {"x-ip-token": SECRET}
            client = Client(url, verbose=False, headers=headers, analytics_enabled=False)
            yield Space(platform, client, log, speaker, folder)
        finally:
            # The session that it began: its workers would outlive it.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=60)


@pytest.fixture(autouse=True)
def granted(request: pytest.FixtureRequest) -> None:
    if "space" in request.fixturenames:
        platform: ZeroGpu = request.getfixturevalue("space").platform
        platform.grant()
        platform.asked.clear()
        platform.calls.clear()


def test_a_gpu_answers_for_the_visitor_who_asks(space: Space) -> None:
    said = space.chat()

    assert said["ok"], (said, space.log.read_text())
    [asked] = space.platform.asked
    assert asked["token"] == SECRET
    assert int(asked["durationSeconds"]) == gpu.seconds_to_answer([0], 5)
    assert f"{asked['durationSeconds']} s of GPU requested" in said["about"]
    assert space.platform.calls == ["/schedule", "/allow", "/release"]


def test_without_quota_the_processor_answers_and_says_so(space: Space) -> None:
    space.platform.refuse(left=3, wait=3661)

    said = space.chat()
    scored: Any = space.client.predict("ann/speaks", "abc " * 50, api_name="/perplexity")

    assert said["ok"], said
    assert "on the CPU, which is slower: today's GPU quota is used up; more in 1:01:01" in said["about"]
    assert scored["perplexity"] > 1
    assert "quota is used up" in scored["about"]
    assert "/allow" not in space.platform.calls


def test_a_long_text_is_read_in_several_calls_with_the_same_score(space: Space) -> None:
    text = "".join(f"{number}. The sea is deep. " for number in range(200))
    whole = perplexity(load_model(space.speaker), text)

    scored: Any = space.client.predict("ann/speaks", text, api_name="/perplexity")

    assert scored["ok"], scored
    asked = [int(one["durationSeconds"]) for one in space.platform.asked]
    assert len(asked) > 2 and max(asked) <= gpu.SECONDS_TO_START + gpu.SECONDS_PER_CALL
    assert scored["tokens"] == whole.tokens
    assert scored["perplexity"] == pytest.approx(whole.perplexity, rel=1e-6)


def test_a_text_whose_gpu_is_lost_is_finished_on_the_processor(space: Space) -> None:
    text = "".join(f"{number}. The sea is deep. " for number in range(200))
    space.platform.refuse_after(calls=2, left=3, wait=60)

    scored: Any = space.client.predict("ann/speaks", text, api_name="/perplexity")

    assert scored["perplexity"] == pytest.approx(perplexity(load_model(space.speaker), text).perplexity)
    assert "quota is used up" in scored["about"]
    assert space.platform.calls.count("/schedule") == 3


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ({"left": 100, "wait": -1}, "more GPU time than one request may use"),
        ({"left": 100, "wait": 0}, "today's GPU quota is used up"),
        (503, "no GPU is free right now"),
        (401, "no GPU is free right now"),
        (500, "Internal Server Error"),
    ],
)
def test_each_refusal_has_its_words_and_the_answer_comes(space: Space, refusal: Any, words: str) -> None:
    if isinstance(refusal, int):
        space.platform.fail(refusal)
    else:
        space.platform.refuse(**refusal)

    said = space.chat()

    assert said["ok"], said
    assert words in said["about"]
    assert SECRET not in space.log.read_text()


def test_what_a_worker_cannot_do_is_told_in_its_own_words(space: Space) -> None:
    said = space.chat("ann/spoilt")
    scored: Any = space.client.predict("ann/spoilt", "abc", api_name="/perplexity")

    for refused in (said, scored):
        assert not refused["ok"]
        assert "config.json that cannot be used" in refused["problems"][0]["message"]
    assert "/allow" in space.platform.calls  # it was in the worker


def test_no_gpu_is_asked_for_what_cannot_be_had(space: Space) -> None:
    said = space.chat("ann/nothing")

    assert "was not found" in said["problems"][0]["message"]
    assert space.platform.asked == []


def test_a_merge_asks_for_no_gpu(space: Space) -> None:
    recipe = "merge_method: linear\nmodels: [{model: ann/speaks, parameters: {weight: 1}}]"

    planned: Any = space.client.predict(recipe, "", False, api_name="/plan")

    assert planned["ok"], planned
    assert space.platform.asked == []


SPACE = """
merge_method: task_arithmetic
base_model: {0}ann/base
models:
  - {{model: {0}ann/one, parameters: {{weight: {{search: [0, 1.2], start: 0.3}}}}}}
  - {{model: {0}ann/two, parameters: {{weight: {{search: [0, 1.2], start: 0.7}}}}}}
search: {{objective: [{{text: own}}], by: random, budget: {{trials: 2}}}}
"""
OWN = [
    f"The {thing} number {number} is {word}."
    for number, (thing, word) in enumerate(
        (thing, word)
        for thing in ("lamp", "sea", "garden", "violin", "bridge")
        for word in ("deep", "red", "old", "far")
    )
]


def searched(space: Space) -> dict[str, Any]:
    """The state of a search that has ended."""
    started: Any = space.client.predict(SPACE.format(""), {"own": "\n\n".join(OWN)}, api_name="/search")
    assert started["ok"], (started, space.log.read_text())
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        found: Any = space.client.predict(started["job"], api_name="/job")
        if found["state"] not in ("waiting", "running"):
            assert found["state"] == "done", (found, space.log.read_text()[-3000:])
            return dict(found["search"])
        time.sleep(0.05)
    raise AssertionError(found)


@pytest.fixture(scope="module")
def undisturbed(space: Space, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of the same search in one process, with names as on the Hub."""
    text = SPACE.format(f"{space.family}/")
    plan = plan_search(read_space(text), texts={"own": OWN}, device="cpu")
    found = run_search(plan, tmp_path_factory.mktemp("search")).report.to_dict()
    plain: dict[str, Any] = json.loads(json.dumps(found).replace(f"{space.family}/", ""))
    return plain


@pytest.mark.parametrize("calls", [pytest.param(1000, marks=pytest.mark.nightly), 2])
def test_a_search_runs_in_calls_and_finds_the_same(
    space: Space, undisturbed: dict[str, Any], calls: int
) -> None:
    """Each call continues the one before; where ZeroGPU refuses, the processor does."""
    space.platform.refuse_after(calls=calls, left=3, wait=60)

    found = searched(space)

    asked = [int(one["durationSeconds"]) for one in space.platform.asked]
    assert len(asked) == 3 if calls == 2 else len(asked) > 5
    assert max(asked) <= gpu.SECONDS_TO_START + gpu.SECONDS_PER_CALL + 1  # and to load the models
    assert len(found["values"]) == 2
    for key in ("winner", "ending", "point", "trials", "documents"):
        assert found["report"][key] == undisturbed[key], key
    for who, parts in undisturbed["figures"]["own"].items():
        assert found["report"]["figures"]["own"][who] == pytest.approx(parts, rel=1e-5), who


def test_what_is_asked_for_grows_with_the_work_and_stays_below_anybodys_quota() -> None:
    small, large = gpu.seconds_to_answer([10**9], 100), gpu.seconds_to_answer([10**10], 100)

    assert small < large < gpu.seconds_to_answer([10**10] * 2, 100)
    assert gpu.seconds_to_answer([10**12], 1024) == gpu.MAX_SECONDS
    assert gpu.seconds_of_a_call([10**9], 10_000) < gpu.seconds_of_a_call([10**9], 10**9)
    assert gpu.seconds_of_a_call([10**9], 10**9) == gpu.seconds_of_a_call([10**9])
    assert gpu.seconds_of_a_call([10**12]) == gpu.MAX_SECONDS


def test_a_call_begins_no_model_that_it_has_no_time_to_load() -> None:
    call, over, endless = gpu.GpuCall(60), gpu.GpuCall(gpu.SECONDS_TO_START), gpu.GpuCall(None)

    assert call.begins(0) and call.begins(10 * gpu.BYTES_PER_SECOND)
    assert not call.begins(60 * gpu.BYTES_PER_SECOND)
    assert over.begins(10**12)  # or nothing would ever be done
    assert not over.begins(0)
    assert endless.begins(10**12) and endless.begins(10**12)


def test_off_zero_gpu_the_door_is_not_there() -> None:
    def work(number: int, device: str) -> Iterator[str]:
        yield f"{number} {device}"
        raise EvaluationError(Problem("empty-text"))

    run = gpu.on_gpu(10, work, 1)

    assert not gpu.is_zero_gpu()
    assert next(run) == (gpu.GpuRun(), "1 auto")
    with pytest.raises(gr.Error, match="There is no text"):
        next(run)
    assert gpu.quota("hf_some-token") == ""


def test_work_that_lost_its_gpu_half_way_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def aborted(*_: object) -> Iterator[int]:
        yield 1
        raise gr.Error("GPU task aborted", title="ZeroGPU worker error")

    monkeypatch.setattr(gpu, "is_zero_gpu", lambda: True)
    monkeypatch.setattr(gpu, "_on_zero_gpu", aborted)
    run = gpu.on_gpu(10, lambda device: iter([7]))

    assert next(run)[1] == 1
    with pytest.raises(gr.Error, match=r"withdrawn before this finished \(GPU task aborted\)"):
        next(run)


def test_what_is_left_of_the_quota_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    token = hub.add_user("ann")
    monkeypatch.setattr(gpu, "is_zero_gpu", lambda: True)

    assert gpu.quota(token) == ""  # the scope was not granted
    hub.quotas["ann"] = {"base": 300, "current": 212.5, "resetsAt": "2026-11-26T09:12:03.000Z"}
    assert gpu.quota(token) == "GPU quota: 212 of 300 s left, renewed at 09:12 UTC."
    hub.quotas["ann"]["resetsAt"] = None
    assert gpu.quota(token) == "GPU quota: 212 of 300 s left today."
    assert gpu.quota("hf_wrong") == gpu.quota(None) == ""
