"""Cards of parents are read wherever the parents are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from merging import make_plan, read_recipe, run_plan
from merging.licences import ModelCards, licence_of
from merging.plan import Plan
from tests.hub import Hub
from tests.merges import files
from tests.s3 import Bucket

CARD = b"---\nlicense: gemma\nbase_model: org/base\n---\n# A\n"

# Puts a model with a card somewhere; returns how a recipe names it.
Put = Callable[[dict[str, bytes]], str]


@pytest.fixture
def in_folder(tmp_path: Path) -> Put:
    def put(content: dict[str, bytes]) -> str:
        (tmp_path / "a").mkdir()
        for name, data in content.items():
            (tmp_path / "a" / name).write_bytes(data)
        return str(tmp_path / "a")

    return put


@pytest.fixture
def in_file(in_folder: Put) -> Put:
    return lambda content: f"{in_folder(content)}/model.safetensors"


@pytest.fixture
def on_hub(hub: Hub, alice: str) -> Put:
    def put(content: dict[str, bytes]) -> str:
        hub.put("alice/a", content)
        return "alice/a"

    return put


@pytest.fixture
def in_part(hub: Hub, alice: str) -> Put:
    """A folder in a repository, whose card speaks for it."""

    def put(content: dict[str, bytes]) -> str:
        parts = {f"part/{name}": data for name, data in content.items() if name != "README.md"}
        hub.put("alice/parts", {**parts, "README.md": content["README.md"]}, private=True)
        return "alice/parts/part"

    return put


@pytest.fixture
def in_bucket(hub: Hub, alice: str) -> Put:
    def put(content: dict[str, bytes]) -> str:
        hub.put_in_bucket("alice/work", {f"a/{name}": data for name, data in content.items()}, private=True)
        return "hf://buckets/alice/work/a"

    return put


@pytest.fixture
def in_store(bucket: Bucket) -> Put:
    def put(content: dict[str, bytes]) -> str:
        bucket.put(content, "a")
        return f"{bucket.address}/a"

    return put


def planned(name: str, token: str) -> Plan:
    plan = make_plan(read_recipe(f"merge_method: passthrough\nmodels: [{{model: {name}}}]"), token=token)
    assert plan.problems == ()
    return plan


@pytest.mark.parametrize("place", ["in_folder", "in_file", "on_hub", "in_part", "in_bucket", "in_store"])
def test_the_card_of_a_result_states_it(
    place: str, request: pytest.FixtureRequest, folder: Path, alice: str, tmp_path: Path
) -> None:
    put: Put = request.getfixturevalue(place)
    plan = planned(put({**files(folder / "a"), "README.md": CARD}), alice)
    cards = ModelCards()

    [parent] = cards.parents(plan, alice)
    assert (parent.licence, parent.bases) == ("gemma", ("org/base",))
    assert cards.parents(plan, alice) == (parent,)
    run_plan(plan, str(tmp_path / "out"), token=alice, licence=licence_of(plan, alice))
    assert "license: gemma\n" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("card", [None, b"no front matter", b"---\n: [\n---\n", b"\xff\xfe"])
def test_a_card_that_says_nothing(card: bytes | None, in_bucket: Put, folder: Path, alice: str) -> None:
    content = {**files(folder / "a"), **({"README.md": card} if card else {})}

    [parent] = ModelCards().parents(planned(in_bucket(content), alice), alice)

    assert (parent.licence, parent.bases) == ("", ())


def test_a_bucket_that_is_closed_by_now(in_bucket: Put, folder: Path, alice: str, hub: Hub) -> None:
    plan = planned(in_bucket({**files(folder / "a"), "README.md": CARD}), alice)

    [parent] = ModelCards().parents(plan, hub.add_user("bob"))

    assert parent.licence == ""
