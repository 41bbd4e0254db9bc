"""What the parents' cards say, and which licence binds the most."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from merging import Plan, model_card
from merging.licences import (
    FREE,
    NON_COMMERCIAL,
    OWN_TERMS,
    SHARE_ALIKE,
    UNKNOWN,
    ModelCards,
    Parent,
    common_base,
    licence_of_result,
    parent_of,
    strictest,
    strictness,
)
from merging.plan import PlannedAdapter, PlannedModel
from tests.hub import Hub
from tests.ui.test_cards import EVIL, shown
from ui.merge.lineage import lineage
from ui.merge.plan_card import Surroundings, plan_card


@pytest.mark.parametrize(
    ("licence", "rank"),
    [("apache-2.0", FREE), ("MIT", FREE), ("cc-by-4.0", FREE), ("gpl-3.0", SHARE_ALIKE), ("cc-by-sa-4.0", SHARE_ALIKE),
     ("llama3.1", OWN_TERMS), ("gemma", OWN_TERMS), ("", UNKNOWN), ("cc-by-nc-4.0", NON_COMMERCIAL),
     ("cc-by-nc-sa-4.0", NON_COMMERCIAL), ("qwen-research", NON_COMMERCIAL)],
)  # fmt: skip
def test_licences_have_a_rank(licence: str, rank: int) -> None:
    assert strictness(licence) == rank


def test_the_strictest_is_named() -> None:
    parents = [Parent("a", "mit"), Parent("b", "cc-by-nc-4.0"), Parent("c", "gemma")]
    model = PlannedModel("b", None, "1", False, "Llama", 1, 1)

    assert strictest(parents) == parents[1]
    text = shown(plan_card(Plan("", "linear", models=(model,)), Surroundings(tuple(parents), "mine"))).text
    assert "cc-by-nc-4.0 (b): no commercial use" in text


@pytest.mark.parametrize(
    ("of_b", "stated"),
    [("apache-2.0", {"license": "mit"}), ("", {}), ("llama3.1", {"license": "llama3.1"}),
     ("my terms: 1", {"license": "other", "license_name": "my-terms-1", "license_link": "https://huggingface.co/org/b"})],
)  # fmt: skip
def test_the_card_of_the_result_states_the_strictest(of_b: str, stated: dict[str, str]) -> None:
    licence = licence_of_result([Parent("org/a", "mit"), Parent("org/b", of_b)])

    model = PlannedModel("org/b", None, "1", False, "Llama", 1, 1)
    card = ModelCard(model_card(Plan("", "linear", models=(model,)), "x", licence))

    found = card.data.to_dict()
    assert {key: value for key, value in found.items() if key.startswith("license")} == stated


@pytest.mark.parametrize(
    "card",
    [None, "x", [], {}, {"license": 3, "base_model": 4}, {"license": [None], "base_model": [None, {}]}],
)
def test_whatever_a_card_says_it_is_read(card: object) -> None:
    assert parent_of("x", card).bases == ()


def test_a_named_licence_and_the_strictest_of_several() -> None:
    named = parent_of("x", {"license": "other", "license_name": "deepseek", "base_model": "a/b"})

    assert (named.licence, named.bases) == ("deepseek", ("a/b",))
    assert parent_of("x", {"license": ["mit", "gpl-3.0"]}).licence == "gpl-3.0"


def test_cards_come_from_the_hub_once_and_from_folders(hub: Hub, tmp_path: Path) -> None:
    hub.add_user("ann")
    card = b"---\nlicense: gemma\nbase_model: [ann/base]\n---\n"
    hub.put("ann/one", {"README.md": card})
    (tmp_path / "README.md").write_bytes(card)
    commit = hub.repo("ann/one").head("main").id if hasattr(hub.repo("ann/one"), "head") else "main"
    plan = Plan(
        "",
        "linear",
        models=(
            PlannedModel("ann/one", None, commit, False, "", 1, 1),
            PlannedModel(str(tmp_path), None, "x", True, "", 1, 1),
            PlannedModel("ann/missing", None, "1", False, "", 1, 1),
        ),
    )
    cards = ModelCards()
    assert cards.parents(plan, False) == (
        Parent("ann/one", "gemma", ("ann/base",)),
        Parent(str(tmp_path), "gemma", ("ann/base",)),
        Parent("ann/missing"),
    )
    hub.log.clear()
    cards.parents(plan, False)
    assert not [exchange for exchange in hub.log if "ann/one" in exchange.path]
    assert common_base(["ann/one", "ann/missing", "../etc"], False) == "ann/base"


def test_cards_of_adapters_and_of_merges_on_the_way_count(tmp_path: Path) -> None:
    for name, licence in {"base": "mit", "lora": "gemma", "other": "cc-by-nc-4.0"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    lora, other = (
        PlannedAdapter(str(tmp_path / name), None, name, True, 1.0, 1) for name in ("lora", "other")
    )
    base = PlannedModel(str(tmp_path / "base"), None, "x", True, "", 1, 1)
    made = Plan("", "linear", models=(replace(base, adapters=(lora,)), replace(base, adapters=(other,))))
    stage = PlannedModel("on the way", None, "", True, "", 1, 1, made_by=made)

    found = ModelCards().parents(Plan("", "linear", models=(stage,)), False)

    assert [parent.licence for parent in found] == ["mit", "gemma", "cc-by-nc-4.0"]


def test_the_drawing_escapes_names() -> None:
    tags = shown(
        lineage([Parent(EVIL, "mit", (EVIL + "base",)), Parent("b/c", "mit", (EVIL + "base",))], EVIL)
    )

    assert tags.names.count("rect") == 4
    assert tags.names.count("path") == 4


def test_the_drawing_shows_long_names_in_lines() -> None:
    long = "ann/" + "-".join(["abcdefgh"] * 9)
    drawn = lineage([Parent("alloy/SmolLM2-135M-Instruct"), Parent(long)], "x" * 30)

    lines = re.findall("<tspan[^>]*>([^<]*)<", drawn)
    assert lines == [
        "SmolLM2-135M-", "Instruct", "abcdefgh-", "abcdefgh-", "abcdefgh-…", "x" * 13, "x" * 13, "x" * 4
    ]  # fmt: skip


def test_a_parent_of_a_parent_is_beside_it_and_owners_tell_names_apart() -> None:
    drawn = lineage(
        [Parent("ann/Base"), Parent("ann/Tuned", bases=("ann/Base",)), Parent("eve/Base")], "merged"
    )

    tags = shown(drawn)
    assert tags.names.count("rect") == 4
    assert tags.names.count("path") == 4  # three to the result, one between parents
    assert re.findall("<tspan[^>]*>([^<]*)<", drawn) == ["ann/", "Base", "Tuned", "eve/", "Base", "merged"]
