"""Search while typing: what the visitor may see, and no waiting for a Hub that does not answer."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from tests.hub import Hub
from ui.account import Account
from ui.hub_search import MOST_OFFERED, SECONDS_OF_SILENCE, HubSearch, kept_in_place

NOBODY = Account("nobody")


def test_a_visitor_finds_public_models_and_their_own(hub: Hub) -> None:
    token = hub.add_user("ann")
    hub.add_user("bob")
    hub.put("ann/Secret-Tiny", {"config.json": b"{}"}, private=True)
    hub.put("bob/Tiny-Public", {"config.json": b"{}"})
    search = HubSearch()

    assert search("tiny", NOBODY) == ["bob/Tiny-Public"]
    assert set(search("tiny", Account("visitor", token))) == {"bob/Tiny-Public", "ann/Secret-Tiny"}
    assert search("nothing-like-this", NOBODY) == []


def test_one_letter_is_not_searched(hub: Hub) -> None:
    hub.log.clear()

    assert HubSearch()("t", NOBODY) == []
    assert not list(hub.log)


def test_a_silent_hub_is_not_asked_again_for_a_while(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_user("bob")
    hub.put("bob/Tiny", {"config.json": b"{}"})
    now = [100.0]
    search = HubSearch(clock=lambda: now[0])
    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
        assert search("tiny", NOBODY) == []

    assert search("tiny", NOBODY) == []
    now[0] += SECONDS_OF_SILENCE + 1
    assert search("tiny", NOBODY) == ["bob/Tiny"]


def test_an_answer_that_is_no_list_of_models_is_no_trouble(hub: Hub) -> None:
    hub.fault("GET", "/api/models", status=500)

    assert HubSearch()("tiny", NOBODY) == []


def test_what_an_open_list_shows_stays_at_its_place() -> None:
    assert kept_in_place(["a/1", "a/2"], ["b/1", "a/2"], "a") == ["a/1", "a/2", "b/1"]
    assert kept_in_place(["a/1", "a/2"], [], "2") == ["a/1", "a/2"]

    many = [f"a/{i}" for i in range(MOST_OFFERED)]
    joined = kept_in_place(many, ["b/1", "b/17"], "1")
    assert len(joined) == MOST_OFFERED
    assert {"b/1", "b/17"} <= set(joined)
    assert all(joined[i] == name for i, name in enumerate(many) if "1" in name)
    assert kept_in_place(["x"] * MOST_OFFERED, ["x/1"], "x")[-1] == "x/1"
