"""Every registered destination does what destinations have to do, see `conformance`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from checkpoints.names import BUCKET_SCHEME, STORE_SCHEMES
from checkpoints.object_store import connect
from merging import DestinationError, Plan, make_plan, read_recipe
from merging.destinations import (
    DESTINATIONS,
    HUB_SCHEME,
    DestinationKind,
    open_destination,
    open_sink,
    scheme_of,
)
from merging.destinations.memory import MemoryDestination
from tests.hub import Hub
from tests.merges import files, merged, ties, weight_files
from tests.merging.destinations.conformance import CHECKS, Case, written

SIZE = 60_000
# What is tested: the scheme of its address, and how its files go there. A destination in memory has no address.
KINDS = {
    "folder": ("", "folder"),
    "Hub": (HUB_SCHEME, "LFS"),
    "Hub, a repository that is there": (HUB_SCHEME, "LFS"),
    "Hub, one file": (HUB_SCHEME, "LFS"),
    "Hub, streaming": (HUB_SCHEME, "Xet"),
    "bucket": (BUCKET_SCHEME, "Xet"),
    "bucket, one file": (BUCKET_SCHEME, "Xet"),
    "S3": ("s3://", "object store"),
    "S3, one file": ("s3://", "object store"),
    "Google Cloud": ("gs://", "object store"),
    "Azure": ("az://", "object store"),
}
# What is no server but obstore's store in memory.
IN_MEMORY = {"Google Cloud", "Azure"}


def in_store(request: pytest.FixtureRequest, scheme: str, plan: Plan, right: dict[str, bytes]) -> Case:
    """A place in an object store."""
    kind = request.getfixturevalue("kind")
    if kind in IN_MEMORY:
        address, memory = f"{scheme}bucket/out", MemoryStore()
        request.getfixturevalue("monkeypatch").setattr("checkpoints.object_store.connect", lambda _: memory)
    else:
        address = f"{request.getfixturevalue('bucket').address}/models/out"

    def everything() -> dict[str, bytes]:
        store = connect(address) if kind not in IN_MEMORY else memory
        found = [entry["path"] for chunk in obstore.list(store) for entry in chunk]
        return {path: bytes(obstore.get(store, path).bytes()) for path in found}

    def shown() -> dict[str, bytes] | None:
        """Without its config, nothing takes it for a model."""
        found = {name: data for name, data in everything().items() if not name.startswith(".")}
        return found if "config.json" in found else None

    small = {name: text.encode() for name, text in plan.files.items()}
    return Case(
        lambda over: open_destination(address, overwrite=over),
        shown,
        lambda: {*everything()},
        plan,
        {shard.filename: right[shard.filename] for shard in plan.shards},
        small,
    )


def in_bucket(request: pytest.FixtureRequest, plan: Plan, right: dict[str, bytes]) -> Case:
    """A folder of a bucket; nothing is there in the other kind."""
    hub: Hub = request.getfixturevalue("hub")
    token: str = request.getfixturevalue("alice")
    if request.getfixturevalue("kind") == "bucket":
        hub.put_in_bucket("alice/work", {"models/out-2/config.json": b"{}"}, private=True)

    def everything() -> dict[str, bytes]:
        found = hub.bucket_files("alice/work") or {}
        return {path.removeprefix("models/out/"): data for path, data in found.items() if "/out/" in path}

    def shown() -> dict[str, bytes]:
        return {name: data for name, data in everything().items() if not name.startswith(".")}

    return Case(
        lambda over: open_destination("hf://buckets/alice/work/models/out", token=token, overwrite=over),
        shown,
        lambda: {*everything(), *hub.store.buckets},
        plan,
        {shard.filename: right[shard.filename] for shard in plan.shards},
        {name: text.encode() for name, text in plan.files.items()},
        token,
    )


@pytest.fixture
def case(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Case:
    """The destination of the parameter `kind`, and a merge to it."""
    kind = request.getfixturevalue("kind")
    size = 10**9 if kind.endswith("one file") else SIZE
    merged(ties(folder), tmp_path / "right", size)
    plan = make_plan(read_recipe(ties(folder)), shard_size=size)
    small = {name: text.encode() for name, text in plan.files.items()}
    shards = {shard.filename: weight_files(tmp_path / "right")[shard.filename] for shard in plan.shards}
    if (scheme := KINDS[kind][0]) in STORE_SCHEMES:
        return in_store(request, scheme, plan, weight_files(tmp_path / "right"))
    if scheme == BUCKET_SCHEME:
        return in_bucket(request, plan, weight_files(tmp_path / "right"))
    if kind == "folder":
        to = tmp_path / "place" / "out"

        def shown() -> dict[str, bytes] | None:
            return files(to) if to.exists() else None

        def traces() -> set[str]:
            to.parent.mkdir(exist_ok=True)
            return {path.name for path in to.parent.iterdir()}

        return Case(
            lambda over: open_destination(str(to), overwrite=over), shown, traces, plan, shards, small
        )
    hub: Hub = request.getfixturevalue("hub")
    token: str = request.getfixturevalue("alice")
    if kind == "Hub, a repository that is there":
        hub.put("alice/out", {"README.md": b"to be filled"}, private=True)
    if kind == "Hub, streaming":
        patch = request.getfixturevalue("monkeypatch")
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
        plan = replace(plan, streams=True)

    def on_hub() -> dict[str, bytes] | None:
        if "alice/out" not in hub.repos:
            return None
        names = [name for name in hub.repo("alice/out").files() if name != ".gitattributes"]
        return {name: hub.read("alice/out", name) for name in names}

    def refs() -> set[str]:
        return {*hub.repo("alice/out").refs} if "alice/out" in hub.repos else set()

    return Case(
        lambda over: open_destination("hf://alice/out", token=token, overwrite=over),
        on_hub,
        refs,
        plan,
        shards,
        small,
        token,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
def test_conforms(check: Callable[[Case], None], kind: str, case: Case) -> None:
    check(case)


def test_every_registered_destination_is_tested() -> None:
    assert {scheme for scheme, _ in KINDS.values()} == {*DESTINATIONS}


@pytest.mark.parametrize("scheme", DESTINATIONS)
def test_visitors_of_a_server_write_only_where_a_destination_says_so(scheme: str) -> None:
    """A new one that does not say so is refused to them."""
    assert not DestinationKind(DESTINATIONS[scheme].open, DESTINATIONS[scheme].open_sink).for_visitors
    assert DESTINATIONS[scheme].for_visitors == scheme.startswith("hf://")
    if not DESTINATIONS[scheme].for_visitors:
        with pytest.raises(DestinationError) as caught:
            open_destination(f"{scheme}bucket/model", allow_folders=False)
        assert [one.code for one in caught.value.problems] in (["store-refused"], ["destination-name"])
    assert scheme_of(f"{scheme}owner/name") == scheme


def test_a_place_that_is_none(folder: Path) -> None:
    for to, allow_folders, code in (
        ("", True, "destination-name"),
        ("  ", True, "destination-name"),
        ("some/folder", False, "destination-name"),
        ("s3://bucket/model", False, "store-refused"),
        ("s3://bucket", True, "store-address"),
        ("gs://key:secret@bucket/model", True, "store-address"),
        ("az://bucket/model?sig=secret", True, "store-address"),
        ("hf://buckets/owner", True, "bucket-address"),
        ("hf://buckets/owner/name/../other", False, "bucket-address"),
    ):
        with pytest.raises(DestinationError) as caught:
            open_destination(to, allow_folders=allow_folders)
        assert [problem.code for problem in caught.value.problems] == [code]
        assert "secret" not in str(caught.value)


def test_memory_takes_files_in_any_order_and_is_no_place_for_workers_elsewhere(folder: Path) -> None:
    """What it makes of them is a model, see `test_memory`."""
    plan: Plan = make_plan(read_recipe(ties(folder)), shard_size=SIZE)
    destination = MemoryDestination()
    assert destination.check(plan) == []
    destination.begin(plan, lambda: None)

    assert destination.sink.to_data() is None
    assert not destination.sink.crosses_processes
    writer = destination.sink.open_shard(plan.shards[0].filename, plan.shards[0].bytes)
    writer.write(100, memoryview(b"later"))
    writer.write(0, memoryview(b"first"))
    assert writer.close() == (None, "memory")
    destination.abandon(keep=True)
    assert destination.model is None


def test_sinks_are_opened_by_their_scheme(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        open_sink({"scheme": "gopher://"})
    sink = open_sink({"scheme": "", "folder": str(tmp_path)})
    sink.open_shard("a.safetensors", 3).write(0, memoryview(b"abc"))
    assert (tmp_path / "a.safetensors").read_bytes() == b"abc"


@pytest.mark.parametrize("kind", KINDS)
def test_the_cases_are_what_they_are_called(kind: str, case: Case) -> None:
    destination = case.open(False)
    destination.begin(case.plan, lambda: None)
    name, content = next(iter(case.shards.items()))

    assert written(destination.sink, name, content).written_by == (KINDS[kind][1],)
    destination.abandon(keep=False)
