"""The page as it is built: what it offers to whom, and its API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client

from tests.hub import Hub
from tests.tiny import tiny_llama
from ui.host import Host
from ui.page import build_page, launch_settings

LINEAR = """
merge_method: linear
models:
  - {model: ann/one, parameters: {weight: 1}}
  - {model: ann/two, parameters: {weight: 1}}
"""
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

    assert set(described["named_endpoints"]) == {"/methods", "/plan", "/merge", "/job", "/cancel"}
    assert described["unnamed_endpoints"] == {}


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
    assert codes == ["unknown-method", "unknown-method", "bad-place", "no-job"]
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


def test_every_input_has_a_label() -> None:
    page = build_page(Host.from_environment({}))
    inputs = (gr.Textbox, gr.Dropdown, gr.Slider, gr.Checkbox, gr.Radio, gr.Number, gr.Code, gr.Chatbot)

    unlabelled = [block for block in page.blocks.values() if isinstance(block, inputs) and not block.label]

    assert unlabelled == []
