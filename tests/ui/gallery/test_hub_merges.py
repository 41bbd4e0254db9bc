"""The list of merges: what everyone may see, in pages, remembered, and within the Hub's limits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hub import Hub
from ui.gallery import hub_merges
from ui.gallery.hub_merge import HubMerge
from ui.gallery.hub_merges import (
    ENOUGH,
    SECONDS_KEPT,
    SECONDS_OF_REQUESTS,
    HubBusyError,
    HubMerges,
    Listed,
    Wanted,
    _cursor,
)
from ui.hub.account import Account

RECIPE = """\
merge_method: {0}
base_model: ann/base
models:
  - {{model: ann/one, parameters: {{weight: 0.5}}}}
"""

# Of a card: a licence, languages, a sample answer, and a difference to a parent.
CARD = """\
license: apache-2.0
language: [ko, en]
widget: [{text: "Hello?", output: {text: "Ahoy!"}}]
model-index:
- name: m
  results:
  - dataset: {name: Stories, type: text}
    task: {type: text-generation}
    metrics:
    - {type: bits_per_byte_difference, name: d, value: -0.1, args: {other: ann/one, interval_95: [-0.2, -0.05]}}
"""


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ann(hub: Hub) -> str:
    return hub.add_user("ann")


def put(
    hub: Hub,
    name: str,
    method: str = "task_arithmetic",
    *,
    card: str = "",
    base: str = "ann/base",
    weights: bool = True,
    **options: Any,
) -> None:
    """A merge on the Hub, as Alloy writes its card."""
    front = f"base_model: [{base}, ann/one]\ntags: [merge, alloy]\n{card}"
    text = f"---\n{front}---\n# m\n\n```yaml\n{RECIPE.format(method)}```\n"
    files = {"README.md": text.encode(), "config.json": b"{}"}
    hub.put(name, {**files, "model.bin": b""} if weights else files, **options)


def names(listed: Listed) -> set[str]:
    return {one.model.name for one in listed.merges}


def test_merges_are_listed_with_recipe_scores_and_licence(hub: Hub, ann: str) -> None:
    put(hub, "ann/merged", card=CARD)
    hub.put("ann/plain", {"README.md": b"# no merge", "config.json": b"{}"})

    [one] = HubMerges().page(Wanted()).merges

    assert one.model.name == "ann/merged"
    assert one.recipe == RECIPE.format("task_arithmetic")
    assert one.sketch and one.sketch.method == "task_arithmetic" and one.parents == ("ann/base", "ann/one")
    assert (one.model.licence, one.model.languages) == ("apache-2.0", ("ko", "en"))
    assert one.model.gain and one.model.gain.verdict == "better"
    assert one.model.sample and one.model.sample.answer == "Ahoy!"


@pytest.mark.parametrize("weights", [True, False])
def test_a_recipe_without_weights_is_known_to_be_one(hub: Hub, ann: str, weights: bool) -> None:
    put(hub, "ann/merged", weights=weights)

    [one] = HubMerges().page(Wanted()).merges

    assert one.recipe and one.model.has_weights == weights


def test_private_merges_are_listed_for_nobody(hub: Hub, ann: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", ann)  # the machine's own login, which could see it
    put(hub, "ann/open")
    put(hub, "ann/closed", private=True)

    assert names(HubMerges().page(Wanted())) == {"ann/open"}


def test_only_its_owner_sees_a_private_merge_by_name_and_it_is_not_remembered(hub: Hub, ann: str) -> None:
    put(hub, "ann/closed", private=True)
    merges = HubMerges()

    found = merges.merge("ann/closed", Account("visitor", ann))

    assert found is not None and found.model.private and found.sketch
    assert merges.merge("ann/closed") is None
    assert merges.merge("ann/closed", Account("visitor", hub.add_user("bob"))) is None
    for name in ("ann/missing", "../secret", "ann", "http://127.0.0.1:1/x", "a/b/c"):
        assert merges.merge(name) is None


def test_filters_of_the_hub_and_our_own(hub: Hub, ann: str) -> None:
    put(hub, "ann/soup", "ties", card="license: mit\nlanguage: ko\n")
    put(hub, "ann/sum", card="license: gemma\n")
    merges = HubMerges()

    assert names(merges.page(Wanted(method="ties"))) == {"ann/soup"}
    assert names(merges.page(Wanted(licence="gemma"))) == {"ann/sum"}
    assert names(merges.page(Wanted(language="ko"))) == {"ann/soup"}
    assert names(merges.page(Wanted(base="ann/one"))) == {"ann/soup", "ann/sum"}
    assert names(merges.page(Wanted(base="ann/other"))) == set()
    assert names(merges.page(Wanted(smallest=1))) == set()  # their sizes are unknown


def test_merges_of_mergekit_are_shown_where_their_recipe_can_be_read(hub: Hub, ann: str) -> None:
    card = b"---\ntags: [mergekit]\n---\n"
    hub.put("ann/kit", {"README.md": card, "mergekit_config.yml": RECIPE.format("ties").encode()})
    hub.put("ann/secret", {"README.md": card})

    assert names(HubMerges().page(Wanted())) == {"ann/kit"}
    assert names(HubMerges().page(Wanted(tag="alloy"))) == set()


def test_pages_follow_each_other_without_a_repeat(hub: Hub, ann: str) -> None:
    hub.page_size = 5
    for number in range(ENOUGH + 8):
        put(hub, f"ann/m{number}")
    merges = HubMerges()

    first = merges.page(Wanted(tag="alloy"))
    assert first.following is not None
    second = merges.page(Wanted(tag="alloy"), first.following)

    assert len(first.merges) == 15 and len(second.merges) == 5 and second.following is None
    assert not names(first) & names(second)


def test_what_was_asked_once_is_remembered_for_a_while(hub: Hub, ann: str) -> None:
    put(hub, "ann/merged")
    clock = Clock()
    merges = HubMerges(clock)
    merges.page(Wanted())
    hub.log.clear()

    merges.page(Wanted())
    assert len(hub.log) == 0
    clock.now = SECONDS_KEPT + 1
    merges.page(Wanted())
    assert len(hub.log) == 2  # the two lists; the recipe of a commit never changes


def test_the_hub_is_not_asked_more_than_it_allows(
    hub: Hub, ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_merges, "MAX_REQUESTS", 4)
    put(hub, "ann/merged")
    clock = Clock()
    merges = HubMerges(clock)
    for number in range(4):
        assert merges.merge(f"ann/missing-{number}") is None
    hub.log.clear()

    assert merges.page(Wanted()).silent
    with pytest.raises(HubBusyError):
        merges.merge("ann/merged")
    assert len(hub.log) == 0
    clock.now = SECONDS_OF_REQUESTS + 1
    assert names(merges.page(Wanted())) == {"ann/merged"}


def test_a_hub_that_does_not_answer_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")

    listed = HubMerges().page(Wanted())

    assert listed.silent and not listed.merges


@pytest.mark.parametrize(
    ("link", "cursor"),
    [
        ('<https://huggingface.co/api/models?limit=2&cursor=abc%3D>; rel="next"', "abc="),
        ('<http://127.0.0.1:9/steal?cursor=abc>; rel="next"', "abc"),  # the address is not used
        ('<https://x/?cursor=%0d%0aEvil>; rel="next"', ""),
        ("", ""),
        ('<nonsense>; rel="next"', ""),
    ],
)
def test_of_a_link_only_the_cursor_counts(link: str, cursor: str) -> None:
    assert _cursor(link) == cursor


@pytest.mark.parametrize(
    "entry",
    [
        {}, {"id": 7}, {"id": "a/b"}, {"id": "../x", "sha": "0" * 40}, {"id": "a/b", "sha": "main"},
        {"id": "a/b\n", "sha": "0" * 40}, {"id": "<b>/x", "sha": "0" * 40},
    ],
)  # fmt: skip
def test_an_entry_without_a_name_or_commit_is_no_merge(entry: dict[str, Any]) -> None:
    assert HubMerge.listed(entry) is None


def test_an_entry_may_hold_anything_else() -> None:
    odd: dict[str, Any] = {
        "id": "a/b", "sha": "0" * 40, "cardData": [1], "likes": "many", "createdAt": 5, "safetensors": "x",
        "siblings": {"a": 1}, "model-index": {"a": 1},
    }  # fmt: skip
    found = HubMerge.listed(odd)

    assert found == HubMerge("a/b", "0" * 40, private=True)  # what is not said to be public is not
    card = {"language": {"a": 1}, "widget": [{"text": 1}, {"text": "x", "output": "y"}], "license": 5}
    assert HubMerge.listed({**odd, "cardData": card}) is not None
