"""The page as it is built: what it offers to whom, and its API."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import httpx2
import pytest
from gradio_client import Client
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from merging import MergeError, Result
from tests import ROOT
from tests.hub import Hub
from tests.tiny import save_sentencepiece, tiny_llama
from tests.ui.conftest import event, until_ended
from tests.ui.speaker import tiny_speaker
from ui.api import in_words
from ui.host import Host
from ui.hub.account import Account
from ui.languages.translate import Translated
from ui.merge.my_merges import FinishedMerge, stands_alone
from ui.page import build_page, launch_settings
from ui.server.downloads import links
from ui.server.jobs import JobBoard, JobStatus
from ui.server.merge_service import MergeService

LINEAR = """
merge_method: linear
models:
  - {model: ann/one, parameters: {weight: 1}}
  - {model: ann/two, parameters: {weight: 1}}
"""
TOOLS = {
    "methods",
    "plan",
    "merge",
    "gguf",
    "search",
    "job",
    "cancel",
    "chat",
    "perplexity",
    "influence",
    "heal",
}
API = ROOT / "docs" / "api.md"
Open = Callable[..., Client]


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Open]:
    """Serve a page with the given environment, and connect to it."""
    pages: list[gr.Blocks] = []

    def serve(token: str | None = None, **environment: str) -> Client:
        host = Host.from_environment({"ALLOY_RESULTS": str(tmp_path / "results"), **environment})
        page = build_page(host)
        pages.append(page)
        page.queue(default_concurrency_limit=4)
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_settings(page, host))
        return Client(url, verbose=False, oauth_token=token, analytics_enabled=False)

    yield serve
    for page in pages:
        page.close()


@pytest.fixture
def ann(hub: Hub, tmp_path: Path) -> str:
    """The token of a user with two tiny models."""
    token = hub.add_user("ann")
    base = tiny_llama(tmp_path / "one", 0)
    hub.put("ann/one", base)
    hub.put("ann/two", tiny_llama(tmp_path / "two", 1, base))
    return token


def ended(client: Client, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state: dict[str, Any] = client.predict(job, api_name="/job")
        if state["state"] not in ("waiting", "running"):
            return state
        time.sleep(0.1)
    raise AssertionError(state)


def test_the_api_is_small_and_the_rest_is_private(open_page: Open) -> None:
    described: Any = open_page().view_api(return_format="dict")

    assert {name.strip("/") for name in described["named_endpoints"]} == TOOLS
    assert described["unnamed_endpoints"] == {}


def test_options_of_events_are_written_once() -> None:
    written = {
        path.name
        for path in (ROOT / "ui").rglob("*.py")
        if re.search(r"api_visibility|queue\W+False|concurrency_id\W+model.*trigger_mode", path.read_text())
    }

    assert written == {"events.py"}


def test_the_tools_of_mcp_are_the_endpoints_and_described(open_page: Open) -> None:
    client = open_page()

    tools = httpx2.get(f"{client.src}gradio_api/mcp/schema").json()

    assert {tool["name"] for tool in tools} == TOOLS
    for tool in tools:
        assert tool["description"]
        assert not {"token", "oauth", "oauth_token", "request"} & tool["inputSchema"]["properties"].keys()


def test_a_client_of_mcp_plans_a_merge(open_page: Open, ann: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", ann)
    address = f"{open_page().src}gradio_api/mcp/"

    async def call() -> Any:
        async with (
            streamablehttp_client(address) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await session.call_tool("plan", {"recipe": LINEAR.replace("linear", "lineal")})

    with ThreadPoolExecutor(1) as pool:  # a browser of the tests before may keep a loop in this thread
        answer = pool.submit(asyncio.run, call()).result()

    assert "Did you mean 'linear'?" in answer.content[0].text


def test_the_example_of_the_docs_runs(
    open_page: Open, ann: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    [script] = [
        code for code in re.findall(r"```python\n(.*?)```", API.read_text(), re.DOTALL) if "Client(" in code
    ]
    client = open_page(ann)
    for told, true in {
        "https://owner-alloy.hf.space": client.src,
        '"hf_..."': f'"{ann}", verbose=False, analytics_enabled=False',
        "owner/first": "ann/one",
        "owner/second": "ann/two",
        "owner/merged": "ann/by-the-readme",
        "sleep(1)": "sleep(0.1)",
    }.items():
        assert told in script
        script = script.replace(told, true)
    scope: dict[str, Any] = {}

    exec(script, scope)

    assert (scope["plan"]["ok"], scope["state"]["state"]) == (True, "done")
    assert hub.repo("ann/by-the-readme").private


def test_models_answer_and_are_scored_by_api(open_page: Open, ann: str, hub: Hub, tmp_path: Path) -> None:
    hub.put("ann/speaks", tiny_speaker(tmp_path / "speaks"))
    client = open_page(ann)

    said: Any = client.predict("ann/speaks", "Hi", max_new_tokens=5, temperature=0, api_name="/chat")
    scored: Any = client.predict("ann/speaks", "abc " * 50, api_name="/perplexity")
    refused: list[Any] = [
        client.predict("ann/nothing", "Hi", api_name="/chat"),
        client.predict("ann/nothing", "abc", api_name="/perplexity"),
        client.predict("ann/speaks", "a" * 200_001, api_name="/perplexity"),
    ]

    assert said["ok"], said
    assert "5 tokens" in said["about"]
    assert scored["perplexity"] > 1, scored
    assert scored["tokens"] > 100
    assert [(answer["ok"], answer["problems"][0]["code"]) for answer in refused] == [
        (False, "model-not-found"),
        (False, "model-not-found"),
        (False, "text-too-long"),
    ]


def test_methods_carry_their_parameters(open_page: Open) -> None:
    methods = {method["name"]: method for method in open_page().predict(api_name="/methods")}

    assert methods["ties"]["needs_base"]
    assert {"weight", "density", "lambda"} <= {p["name"] for p in methods["ties"]["parameters"]}


def test_a_merge_by_api_lands_in_the_callers_account(open_page: Open, ann: str, hub: Hub) -> None:
    client = open_page(ann)

    plan: Any = client.predict(LINEAR, "hf://ann/merged", False, api_name="/plan")
    started: Any = client.predict(LINEAR, "hf://ann/merged", True, False, api_name="/merge")
    job = ended(client, started["job"])

    assert (plan["ok"], plan["problems"], plan["shards"]) == (True, [], 1)
    assert job["state"] == "done", job["problems"]
    assert job["result"]["location"] == "hf://ann/merged"
    assert hub.repo("ann/merged").private
    assert ann not in repr(job)


def test_gguf_files_by_api(open_page: Open, ann: str, hub: Hub, tmp_path: Path) -> None:
    hub.put("ann/third", save_sentencepiece(tiny_llama(tmp_path / "third", 0, vocab_size=296)))
    client = open_page(ann)

    started: Any = client.predict("ann/third", "hf://ann/third-GGUF", "Q8_0,f16", api_name="/gguf")
    job = ended(client, started["job"])
    refused: Any = client.predict("ann/third", "hf://ann/third-GGUF", "IQ4_XS", api_name="/gguf")

    assert job["state"] == "done", job["problems"]
    assert hub.repo("ann/third-GGUF").private
    for kind in ("Q8_0", "F16"):
        assert hub.read("ann/third-GGUF", f"third-{kind}.gguf").startswith(b"GGUF")
    assert refused["problems"][0]["code"] == "gguf-needs-importance"


def test_a_merge_into_a_folder_of_a_laptop(open_page: Open, ann: str, tmp_path: Path) -> None:
    client = open_page(ann)

    started: Any = client.predict(LINEAR, "merged", True, False, api_name="/merge")

    assert ended(client, started["job"])["state"] == "done"
    assert (tmp_path / "results" / "merged" / "model.safetensors").is_file()


def test_problems_come_back_as_data(open_page: Open, ann: str) -> None:
    client = open_page(ann)
    wrong = LINEAR.replace("linear", "lineal")

    calls: list[Any] = [
        client.predict(wrong, "", False, api_name="/plan"),
        client.predict(wrong, "hf://ann/x", True, False, api_name="/merge"),
        client.predict(LINEAR, "../x", True, False, api_name="/merge"),
        client.predict("nonsense", api_name="/job"),
    ]

    assert [call["ok"] for call in calls] == [False] * 4
    codes = [call["problems"][0]["code"] for call in calls]
    assert codes == ["unknown-method", "unknown-method", "bad-place-here", "no-job"]
    assert client.predict("nonsense", api_name="/cancel") == {"stopped": False}


def test_strangers_on_a_space_name_no_folders_of_the_server(
    open_page: Open, ann: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", ann)  # the Space's own token, which sees what visitors must not
    client = open_page(SPACE_ID="you/alloy")
    recipe = LINEAR.replace("ann/one", str(tmp_path / "one")).replace("ann/two", str(tmp_path / "two"))

    planned: Any = client.predict(recipe, "", False, api_name="/plan")
    placed: Any = client.predict(LINEAR, "merged", True, False, api_name="/merge")

    assert not planned["ok"]
    assert placed["problems"][0]["code"] == "bad-place"


def test_a_spaces_token_reads_nothing_for_visitors(
    open_page: Open, ann: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", ann)
    hub.put("ann/closed", {"config.json": b"{}"}, private=True)
    client = open_page(SPACE_ID="you/alloy")
    hub.log.clear()

    planned: Any = client.predict(LINEAR.replace("ann/two", "ann/closed"), "", False, api_name="/plan")

    assert not planned["ok"]
    assert not [exchange for exchange in hub.log if exchange.auth]


def test_the_sign_in_button_is_there_only_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    # Off a Space Gradio stands in for the Hub's sign-in with this machine's login.
    monkeypatch.setattr("gradio.oauth._get_mocked_oauth_info", dict)

    def kinds(**environment: str) -> set[str]:
        page = build_page(Host.from_environment(environment))
        return {type(block).__name__ for block in page.blocks.values()}

    assert "LoginButton" not in kinds()
    assert "LoginButton" in kinds(OAUTH_CLIENT_ID="x", SPACE_ID="you/alloy")


def test_the_newest_result_never_takes_the_place_of_what_was_asked_for() -> None:
    page = build_page(Host.from_environment({}))
    open_chat, tried = (event(page, f"Page.{name}") for name in ("_open_chat", "_chat_with_trial"))
    tabs = open_chat.__self__
    shown_in_chat = tabs.in_chat
    newest, trial = FinishedMerge("ann/new", ("ann/a",)), FinishedMerge("try: ann/new", ("ann/a", "ann/b"))
    request = gr.Request(session_hash="x")

    def names(updates: dict[Any, Any]) -> list[str]:
        return [updates[model] for model in tabs.chat.models]

    opened = open_chat(newest, [], "", request)
    assert names(opened) == ["ann/new", "ann/a", None]
    assert open_chat(newest, [], opened[shown_in_chat], request) == gr.skip()  # once

    # The tab that a trial opens is opened like any other.
    shown = tried(trial, newest, request)
    assert names(shown) == ["try: ann/new", "ann/a", None]
    assert open_chat(newest, [], shown[shown_in_chat], request) == gr.skip()
    assert (
        names(open_chat(FinishedMerge("ann/newer", ()), [], shown[shown_in_chat], request))[0] == "ann/newer"
    )


def test_every_input_has_a_label() -> None:
    page = build_page(Host.from_environment({}))
    inputs = (gr.Textbox, gr.Dropdown, gr.Slider, gr.Checkbox, gr.Radio, gr.Number, gr.Code, gr.Chatbot)

    unlabelled = [block for block in page.blocks.values() if isinstance(block, inputs) and not block.label]

    assert unlabelled == []


def test_every_piece_of_html_knows_both_languages() -> None:
    page = build_page(Host.from_environment({}))
    words = [block.value for block in page.blocks.values() if isinstance(block, gr.HTML) and block.value]

    assert words
    assert [text for text in words if not isinstance(text, Translated)] == []


def test_a_failed_merge_goes_on_where_it_stood(ann: str, hub: Hub, tmp_path: Path) -> None:
    host = Host.from_environment({"SPACE_ID": "you/alloy", "ALLOY_DOWNLOADS": str(tmp_path / "downloads")})
    service = MergeService(host, JobBoard())
    who = Account("visitor", ann)
    plan = service.plan(LINEAR, "hf://ann/again", who, "")
    hub.put("ann/again", {"config.json": b"{}"})  # somebody was faster
    job = service.merge(plan, "hf://ann/again", who, "ann", private=True, overwrite=False)
    failed = until_ended(service, job, seconds=60)
    assert failed.state == "failed"
    with pytest.raises(MergeError):
        service.again(failed, who, "ann")
    hub.store.repos.pop("ann/again")

    again = until_ended(service, service.again(failed, who, "ann"), seconds=60)

    assert (again.state, again.request.recipe) == ("done", LINEAR)
    assert hub.repo("ann/again").private


def test_a_result_is_asked_whether_it_stands_alone(ann: str, hub: Hub, tmp_path: Path) -> None:
    folder = tiny_speaker(tmp_path / "speaker")
    hub.put("ann/speaker", folder, private=True)
    result = Result("hf://ann/speaker", "", None, 10, 1.0)
    done = JobStatus("id", "ann/speaker", ("ann/one",), "done", result=result)

    assert "stands alone" in stands_alone(done, Account("visitor", ann), allow_folders=False)
    assert "was not found" in stands_alone(done, Account("nobody"), allow_folders=False)
    huge = replace(done, result=replace(result, bytes_out=10**15))
    assert "larger machine" in stands_alone(huge, Account("visitor", ann), allow_folders=False)

    config = json.loads((folder / "config.json").read_text())
    hub.put("ann/speaker", {"config.json": json.dumps({**config, "_name_or_path": "<b>ann/one"}).encode()})
    tied = stands_alone(done, Account("visitor", ann), allow_folders=False)
    assert "does not stand alone" in tied
    assert "&lt;b&gt;ann/one" in tied


def test_who_has_no_account_takes_files_home(ann: str, hub: Hub, tmp_path: Path) -> None:
    host = Host.from_environment({"SPACE_ID": "you/alloy", "ALLOY_DOWNLOADS": str(tmp_path / "downloads")})
    service = MergeService(host, JobBoard())
    who = Account("nobody")
    hub.put("ann/open", tiny_speaker(tmp_path / "open"))
    recipe = LINEAR.replace("ann/one", "ann/open").replace("ann/two", "ann/open")
    plan = service.plan(recipe, None, who, "")

    done = until_ended(
        service,
        service.merge(plan, "mine", who, "", private=True, overwrite=False, download=True),
        seconds=60,
    )

    assert done.result
    assert Path(done.result.location).is_relative_to(tmp_path / "downloads")
    assert {name for name, _ in links(done.result.location)} >= {"model.safetensors", "config.json"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": "many"}, "`count` is 'many'."),
        ({"count": 7.5}, "`count` is 7.5."),
        ({"share": float("nan")}, "`share` is nan."),
        ({"texts": ["a"]}, "`texts` is ['a']."),
        ({"texts": {"a": None}}, "`texts` is {'a': None}."),
        ({"count": -1}, "-1 is too few hf_"),
    ],
)
def test_whatever_an_endpoint_is_given_it_answers_in_words(given: dict[str, Any], words: str) -> None:
    def endpoint(
        request: gr.Request,
        oauth: gr.OAuthToken | None,
        count: int = 1,
        share: float = 0.5,
        texts: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        if count < 0:
            raise ValueError(f"{count} is too few {oauth and oauth.token}")
        return {"ok": True, "count": count, "share": share, "texts": texts}

    token = gr.OAuthToken(token="hf_secret", scope="", expires_at=0)

    answer = in_words(endpoint)(gr.Request(), token, **given)

    assert answer["ok"] is False
    message = answer["problems"][0]["message"]
    assert words.removesuffix(" hf_") in message and "secret" not in message
    assert in_words(endpoint)(gr.Request(), None, 3.0, 1) == {
        "ok": True,
        "count": 3,
        "share": 1.0,
        "texts": None,
    }
