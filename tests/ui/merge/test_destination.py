"""Where results may go: never outside the results folder, never another's account."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr
import pytest

from merging import MergeError, Plan, Problem
from ui.host import Host
from ui.merge.destination import (
    BUCKET,
    DOWNLOAD,
    FOLDER,
    HUB,
    REFUSE,
    REVISION,
    DestinationChoice,
    destination_of,
)
from ui.merge.destination_panel import DestinationPanel
from ui.merge.naming import named, suggested_name

LAPTOP = Host(space_id="", sign_in=False, demo=False, results=Path("/results"), browser_key="k")
SPACE = Host(space_id="you/alloy", sign_in=True, demo=False, results=Path("/results"), browser_key="k")


def place(host: Host, kind: str, owner: str, name: str, owners: Sequence[str]) -> str:
    return DestinationChoice(kind, owner, owners=tuple(owners)).location(host, name)


ESCAPES = [
    "",
    "../up",
    "..",
    "/etc/x",
    "a/b",
    "a\\b",
    ".hidden",
    "-x",
    "a..b",
    "a--b",
    "x" * 97,
    "a b",
    "é",
    "a\nb",
]


def test_a_name_under_an_account() -> None:
    assert place(SPACE, HUB, "you", "merge", ["you"]) == "hf://you/merge"


def test_a_folder_is_for_laptops_alone() -> None:
    assert place(LAPTOP, FOLDER, "", "merge", []) == "/results/merge"
    with pytest.raises(MergeError, match="Sign in"):
        place(SPACE, FOLDER, "", "merge", [])


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("kind", [HUB, FOLDER])
def test_a_name_cannot_leave_its_place(name: str, kind: str) -> None:
    with pytest.raises(MergeError, match="cannot be a model's name"):
        place(LAPTOP, kind, "you", f"x{name}" if name == ".." else name, ["you"])


def in_bucket(host: Host, address: str, owners: Sequence[str] = ("you",)) -> str:
    return DestinationChoice(BUCKET, address=address, owners=tuple(owners)).location(host, "merge")


@pytest.mark.parametrize("host", [LAPTOP, SPACE])
def test_a_model_is_a_folder_in_a_bucket(host: Host) -> None:
    assert in_bucket(host, "hf://buckets/you/store") == "hf://buckets/you/store/merge"
    assert in_bucket(host, "hf://buckets/you/store/models/") == "hf://buckets/you/store/models/merge"


def test_a_store_is_for_laptops_alone() -> None:
    for address in ("s3://store/models", "gs://store/models", "az://store/models"):
        assert in_bucket(LAPTOP, address, owners=()) == f"{address}/merge"
        with pytest.raises(MergeError, match="cannot be used on this server"):
            in_bucket(SPACE, address)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "The bucket is missing. Write `hf://buckets/owner/name`"),
        ("/tmp", "'/tmp' is not an address in a bucket of the Hub"),
        ("you/store", "is not an address in a bucket"),
        ("hf://buckets/you", "is not an address in a bucket"),
        ("hf://buckets/you/store/../x", "is not an address in a bucket"),
        ("hf://buckets/somebody/store", "Choose one of: you"),
        ("s3://key:secret@store/models", "cannot be used on this server"),
    ],
)
def test_what_is_no_bucket_of_the_visitor(address: str, words: str) -> None:
    with pytest.raises(MergeError, match=words) as caught:
        in_bucket(SPACE, address)
    assert "secret" not in str(caught.value)
    if "secret" in address:
        with pytest.raises(MergeError, match="Credentials belong in the environment") as caught:
            in_bucket(LAPTOP, address)
        assert "secret" not in str(caught.value)


def test_a_bucket_needs_a_sign_in() -> None:
    for host, words in ((SPACE, "Sign in"), (LAPTOP, "hf auth login")):
        with pytest.raises(MergeError, match=words):
            in_bucket(host, "hf://buckets/you/store", owners=())


def test_the_fields_follow_the_kind() -> None:
    with gr.Blocks():
        panel = DestinationPanel(SPACE)

    shown = {kind: panel._kind_chosen(kind) for kind in (HUB, DOWNLOAD, BUCKET)}

    fields = (panel.owner, panel.address, panel.private, panel.existing)
    visible = {kind: [found[field]["visible"] for field in fields] for kind, found in shown.items()}
    assert visible == {
        HUB: [True, False, True, True],
        DOWNLOAD: [False, False, False, False],
        BUCKET: [False, True, True, True],
    }
    kept = [value for _, value in shown[BUCKET][panel.existing]["choices"]]
    assert kept == [REFUSE, REVISION]


def test_what_is_missing_is_said() -> None:
    with pytest.raises(MergeError, match="hf auth login"):
        place(LAPTOP, HUB, "", "x", [])
    with pytest.raises(MergeError, match="Choose one of: you, lab"):
        place(SPACE, HUB, "somebody", "x", ["you", "lab"])


def test_places_of_api_callers() -> None:
    assert destination_of(SPACE, "hf://you/merge") == "hf://you/merge"
    assert destination_of(LAPTOP, "merge") == "/results/merge"
    for text in ("merge", "/tmp/x", "hf://you", "hf:///x", "https://hub/you/x"):
        with pytest.raises(MergeError):
            destination_of(SPACE, text)
    for text in ("../x", "/tmp/x", "hf://you/../x", "hf://a/b/c"):
        with pytest.raises(MergeError):
            destination_of(LAPTOP, text)


def test_a_suggested_name_that_is_taken_is_numbered_and_a_written_one_stays() -> None:
    def planned(called: str) -> Plan:
        taken = (
            (Problem("destination-exists", {"repository": "a/m"}),)
            if called in ("m-linear", "m-linear-2")
            else ()
        )
        return Plan(recipe=text, method="linear", problems=taken)

    text = "merge_method: linear\nmodels:\n  - model: org/m\n    parameters: {weight: 1}\n"

    def is_taken(called: str) -> bool:
        return not planned(called).ok

    assert named(text, " ", planned, is_taken)[0] == "m-linear-3"
    called, plan = named(text, " m-linear ", planned, is_taken)
    assert (called, plan.ok) == ("m-linear", False)


@pytest.mark.parametrize(
    ("models", "name"),
    [
        (["org/Model-1B@main"], "Model-1B-task-arithmetic"),
        (["/some/folder"], "folder-task-arithmetic"),
        ([], "merged-task-arithmetic"),
        (["a/" + "x" * 200], "x" * 70 + "-task-arithmetic"),
        (["a/odd--name..x"], "odd-name.x-task-arithmetic"),
    ],
)
def test_suggested_names_are_allowed(models: list[str], name: str) -> None:
    assert suggested_name(models, "task_arithmetic") == name
    assert place(LAPTOP, HUB, "you", name, ["you"])


def test_object_stores_are_for_laptops() -> None:
    """Strangers would use the server's own credentials."""
    assert destination_of(LAPTOP, "s3://bucket/merged") == "s3://bucket/merged"
    for host in (LAPTOP, SPACE):
        assert destination_of(host, "hf://buckets/alice/work/merged") == "hf://buckets/alice/work/merged"
    for host, text, code in (
        (SPACE, "s3://bucket/merged", "store-refused"),
        (SPACE, "hf://buckets/alice", "bucket-address"),
        (SPACE, "gs://key:secret@bucket/merged", "store-refused"),
        (LAPTOP, "az://bucket", "store-address"),
    ):
        with pytest.raises(MergeError) as caught:
            destination_of(host, text)
        assert [problem.code for problem in caught.value.problems] == [code]
