"""Recipes from links, models and files."""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64encode

import pytest

from checkpoints.typed_text import MAX_CHARACTERS
from merging import MergeError
from tests.hub import Hub
from ui.hub.account import Account
from ui.hub.recipes import find_recipe, query_of, recipe_in, recipe_of

NOBODY = Account("nobody")
RECIPE = "merge_method: linear\nmodels:\n  - model: a/b  # 한국어\n    parameters: {weight: 1}\n"
CARD = f"---\nlicense: mit\n---\n# A merge\n\n```python\nimport x\n```\n\n```yaml\n{RECIPE}```\n"


def test_a_link_holds_the_recipe_and_nothing_else() -> None:
    link = f"https://somewhere/spaces/x?a=1&{query_of(RECIPE)}&__theme=dark"

    assert recipe_of(link) == RECIPE
    assert recipe_of(query_of(RECIPE)) == RECIPE
    assert find_recipe(link, NOBODY) == (RECIPE, "")


@pytest.mark.parametrize("link", ["recipe=", "recipe=%%%", "recipe=AAAA", "", "recipe=eJw", "recipe=ä"])
def test_damaged_links_hold_none(link: str) -> None:
    assert not recipe_of(link)


def test_a_link_does_not_unfold_to_gigabytes() -> None:
    bomb = urlsafe_b64encode(zlib.compress(b"a" * 50_000_000)).decode()

    assert len(recipe_of(f"recipe={bomb}") or "") <= MAX_CHARACTERS


def test_a_file_is_a_recipe_or_a_card_that_shows_one() -> None:
    assert recipe_in(RECIPE) == RECIPE
    assert recipe_in(CARD) == RECIPE
    assert recipe_in("# a card\nmerge_method is a word\n") is None
    assert recipe_in("a: [") is None


@pytest.mark.parametrize(
    "source",
    ["ann/merged", "{hub}/ann/merged", "https://huggingface.co/ann/merged/tree/main", "hf://ann/merged"],
)
@pytest.mark.parametrize("file", ["mergekit_config.yml", "README.md"])
def test_a_merged_model_gives_its_recipe(hub: Hub, source: str, file: str) -> None:
    hub.add_user("ann")
    hub.put("ann/merged", {file: (RECIPE if file.endswith("yml") else CARD).encode(), "config.json": b"{}"})

    assert find_recipe(source.replace("{hub}", hub.endpoint), NOBODY) == (RECIPE, "ann/merged")


def test_only_who_may_read_a_model_gets_its_recipe(hub: Hub) -> None:
    token = hub.add_user("ann")
    hub.put("ann/closed", {"mergekit_config.yml": RECIPE.encode()}, private=True)

    assert find_recipe("ann/closed", Account("visitor", token))[0] == RECIPE
    with pytest.raises(MergeError, match="'ann/closed' was not found"):
        find_recipe("ann/closed", NOBODY)


@pytest.mark.parametrize(
    ("source", "code"),
    [("ann/plain", "no-recipe"), ("ann/missing", "not-found"), ("file:///etc/passwd", "source"), ("", "source"),
     ("http://127.0.0.1:1/secret", "source")],
)  # fmt: skip
def test_what_gives_none_is_told(hub: Hub, source: str, code: str) -> None:
    hub.add_user("ann")
    hub.put("ann/plain", {"README.md": b"# plain", "config.json": b"{}"})

    with pytest.raises(MergeError) as caught:
        find_recipe(source, NOBODY)

    assert caught.value.problems[0].code == code
