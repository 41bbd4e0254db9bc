"""Whose account a request acts for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx2
import pytest

from tests.hub import Hub
from ui.host import Host
from ui.hub.account import Account, account, identify, visitor
from ui.server.internal_error import log_unexpected, redact

LAPTOP = Host.from_environment({})
SPACE = Host.from_environment({"SPACE_ID": "you/alloy", "OAUTH_CLIENT_ID": "x"})
TOKEN = "hf_" + "t0ken" * 5


def test_a_host_knows_where_it_is() -> None:
    assert LAPTOP.allow_folders
    assert not SPACE.allow_folders
    assert not Host.from_environment({"SPACE_ID": "you/alloy"}).allow_folders
    assert Host.from_environment({"ALLOY_RESULTS": "/some/place"}).results == Path("/some/place")
    assert Host.from_environment({"ALLOY_DEMO": "1"}).demo


def test_a_laptop_uses_its_own_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    assert account(LAPTOP, None) == Account("machine", TOKEN)
    assert account(LAPTOP, gr.OAuthToken("hf_other", "", 0)) == Account("visitor", "hf_other")


def test_a_spaces_own_token_never_serves_a_visitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    who = account(SPACE, None)

    assert who == Account("nobody")
    assert who.for_hub is False  # None would mean "the machine's login"


def test_the_hub_says_the_names(hub: Hub) -> None:
    token = hub.add_user("ann", orgs=["lab"])

    assert identify(Account("visitor", token)).owners == ("ann", "lab")
    assert identify(Account("nobody")).owners == ()
    assert "401" in identify(Account("visitor", "hf_wrong")).trouble


def test_a_hub_out_of_reach_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: Any) -> None:
        raise httpx2.ConnectError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", unreachable)

    assert "cannot be reached" in identify(Account("machine", TOKEN)).trouble


def test_a_user_has_one_turn_whatever_the_token(hub: Hub) -> None:
    first, second, bob = hub.add_user("ann"), hub.add_user("ann"), hub.add_user("bob")

    one, same, other = (visitor(Account("visitor", token), None) for token in (first, second, bob))

    assert first != second
    assert one == same != other
    assert first not in one


def test_a_token_that_is_made_up_counts_for_the_address(hub: Hub) -> None:
    request: Any = SimpleNamespace(headers={}, client=SimpleNamespace(host="10.16.3.80"))

    turns = {visitor(Account("visitor", f"hf_madeup{number}"), request) for number in range(3)}

    assert turns == {"10.16.3.80"}


@pytest.mark.parametrize(
    ("forwarded", "turn"),
    [
        (None, "10.16.3.80"),
        ("8.8.4.4", "8.8.4.4"),
        ("2001:4860:4860::8888, 10.0.0.3", "2001:4860:4860::/64"),
        ("2001:4860:4860::1:2:3:4", "2001:4860:4860::/64"),
        ("::ffff:8.8.4.4", "8.8.4.4"),
        ("1.1.1.1, 8.8.4.4, 10.0.0.3", "8.8.4.4"),  # the first is what the visitor claims
        ("nonsense, 192.168.0.7", "10.16.3.80"),
        ("1.1.1.1:1, 8.8.4.4:50123, 10.0.0.3:80", "8.8.4.4"),
        ("[2001:4860:4860::8888]:443", "2001:4860:4860::/64"),
        ("8.8.4.4, [2001:4860:4860::1:2:3:4]", "2001:4860:4860::/64"),
        ("[::ffff:8.8.4.4]:443", "8.8.4.4"),
        ("8.8.4.4:x, [2001:4860, 2001:4860:4860::8888:443:", "10.16.3.80"),
    ],
)
def test_visitors_behind_a_proxy_have_turns_of_their_own(forwarded: str | None, turn: str) -> None:
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    client = SimpleNamespace(host="10.16.3.80")
    request: Any = SimpleNamespace(headers=headers, client=client)

    assert visitor(Account("nobody"), request) == turn


def test_tokens_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    assert redact(f"with {TOKEN}, {TOKEN}!") == "with (token), (token)!"
    assert redact("by mysecret", "mysecret", None) == "by (token)"
    try:
        raise ValueError(f"Bearer {TOKEN} and mysecret")
    except ValueError as error:
        line = log_unexpected(error, "mysecret")
    assert line == "ValueError: Bearer (token) and (token)"
    assert "Traceback" in caplog.text
    assert TOKEN not in caplog.text
    assert "Account" in repr(Account("visitor", TOKEN))
    assert TOKEN not in repr(Account("visitor", TOKEN))
