"""What every destination has to do. One of your own passes when each of `CHECKS` does."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest

from merging import Cancelled, DestinationError, Plan
from merging.destinations import Destination, Receipt, Sink, open_sink

# Bytes that are written at once, so that a file takes many writes.
PIECE = 7_000


@dataclass(frozen=True)
class Case:
    """A kind of destination under test.

    Args:
        open: a new destination at the same place each time; may be told to overwrite
        shown: what anybody sees there: content by filename; None if there is nothing
        traces: all that a look behind the scenes finds there, such as temporary folders and branches
        plan: that is run
        shards: the content of its output files
        files: the content of its small files
        token: what a worker elsewhere is given
    """

    open: Callable[[bool], Destination]
    shown: Callable[[], dict[str, bytes] | None]
    traces: Callable[[], set[str]]
    plan: Plan
    shards: dict[str, bytes]
    files: dict[str, bytes]
    token: Any = None


def never(*_: object) -> None:
    """A check that does not stop anything."""


def written(sink: Sink, filename: str, content: bytes, seed: int = 0) -> Receipt:
    """Write a file in pieces, in a random order and from several threads."""
    writer = sink.open_shard(filename, len(content))
    starts = list(range(0, len(content), PIECE))
    random.Random(seed).shuffle(starts)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: writer.write(at, memoryview(content)[at : at + PIECE]), starts))
    stored = writer.close()
    return Receipt(filename, len(content), stored.sha256, written_by=(stored.way,), processor="test")


def publish(case: Case, destination: Destination) -> None:
    for name, content in case.files.items():
        destination.write_file(name, content)
    destination.finish("Merge")


def expected(case: Case) -> dict[str, bytes]:
    return {**case.shards, **case.files}


def shows_the_whole_result_at_once(case: Case) -> None:
    before, destination = case.shown(), case.open(False)
    assert destination.check(case.plan) == []
    assert dict(destination.begin(case.plan, never)) == {}

    for name, content in case.shards.items():
        destination.admit(written(destination.sink, name, content))
        assert case.shown() in (before, None, {})
    publish(case, destination)

    shown = case.shown()
    assert shown is not None
    assert {name: shown.get(name) for name in expected(case)} == expected(case)


def takes_files_beside_each_other(case: Case) -> None:
    """Two at a time, as the engines open them."""
    destination = case.open(False)
    destination.begin(case.plan, never)

    with ThreadPoolExecutor(2) as pool:
        made = [
            pool.submit(written, destination.sink, name, content, seed)
            for seed, (name, content) in enumerate(case.shards.items())
        ]
        for one in made:
            destination.admit(one.result())
    publish(case, destination)

    shown = case.shown()
    assert shown is not None
    assert {name: shown.get(name) for name in case.shards} == case.shards


def leaves_nothing_of_what_is_abandoned(case: Case) -> None:
    before, traces, destination = case.shown(), case.traces(), case.open(False)
    destination.begin(case.plan, never)
    for name in list(case.shards)[:3]:
        destination.admit(written(destination.sink, name, case.shards[name]))
    assert case.traces() != traces

    destination.abandon(keep=False)
    destination.abandon(keep=False)  # and does not mind

    assert case.shown() == before
    assert case.traces() == traces
    shows_the_whole_result_at_once(case)


def keeps_what_was_admitted_or_nothing(case: Case) -> None:
    """What a later run finds is whole, and not written again."""
    before, destination = case.shown(), case.open(False)
    destination.begin(case.plan, never)
    names = list(case.shards)[:2]
    for name in names:
        destination.admit(written(destination.sink, name, case.shards[name]))
    destination.abandon(keep=True)
    assert case.shown() in (before, None, {})

    again = case.open(False)
    assert again.check(case.plan) == []
    kept = again.begin(case.plan, never)
    assert set(kept) <= set(names)
    for name, receipt in kept.items():
        assert (receipt.filename, receipt.size) == (name, len(case.shards[name]))
        assert receipt.processor == "test"
        assert Receipt.from_json(receipt.to_json()) == receipt
    for name, content in case.shards.items():
        if name not in kept:
            again.admit(written(again.sink, name, content))
    publish(case, again)

    shown = case.shown()
    assert shown is not None
    assert {name: shown.get(name) for name in case.shards} == case.shards


def refuses_a_file_that_never_arrived(case: Case) -> None:
    """At the latest when it is to show the result."""
    names = list(case.shards)
    if len(names) == 1:
        return
    before, destination = case.shown(), case.open(False)
    destination.begin(case.plan, never)
    made = {name: written(destination.sink, name, case.shards[name]) for name in names[1:]}
    content = bytes(reversed(case.shards[names[0]]))
    digest = made[names[1]].sha256 and hashlib.sha256(content).hexdigest()
    lost = replace(made[names[1]], filename=names[0], size=len(content), sha256=digest)

    with pytest.raises(DestinationError):
        for receipt in (lost, *made.values()):
            destination.admit(receipt)
        publish(case, destination)

    destination.abandon(keep=False)
    assert case.shown() in (before, None, {})


def refuses_to_replace_what_is_there(case: Case) -> None:
    shows_the_whole_result_at_once(case)
    if case.shown() is None:
        return

    [problem] = case.open(False).check(case.plan)
    assert problem.code in ("destination-exists", "folder-not-empty"), problem
    over = case.open(True)
    assert over.check(case.plan) == []
    over.begin(case.plan, never)
    for name, content in case.shards.items():
        over.admit(written(over.sink, name, content))
    publish(case, over)
    assert {name: (case.shown() or {}).get(name) for name in expected(case)} == expected(case)


def lets_workers_elsewhere_write(case: Case) -> None:
    """A sink that is opened from plain data in place of the destination's own."""
    destination = case.open(False)
    destination.begin(case.plan, never)
    data = destination.sink.to_data()
    if data is None:
        destination.abandon(keep=False)
        return
    assert all(isinstance(value, str | int | bool) for value in data.values())
    assert case.token is None or case.token not in str(data)

    for name, content in case.shards.items():
        sink = open_sink(data, token=case.token)
        receipt = Receipt.from_json(written(sink, name, content).to_json())
        destination.admit(receipt)
    publish(case, destination)

    shown = case.shown()
    assert shown is not None
    assert {name: shown.get(name) for name in case.shards} == case.shards


def ends_what_waits_when_told_to(case: Case) -> None:
    """Files are opened until the destination has no more room, if that ever happens."""
    before, destination, stop = case.shown(), case.open(False), threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Cancelled

    destination.begin(case.plan, check)

    def open_all() -> int:
        return len([destination.sink.open_shard(name, 1000) for name in case.shards])

    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(open_all)
        threading.Event().wait(0.3)
        stop.set()
        try:
            assert opening.result(60) == len(case.shards)
        except Cancelled:
            assert len(case.shards) > 1
    destination.abandon(keep=False)

    assert case.shown() == before


def states_what_it_holds(case: Case) -> None:
    destination = case.open(False)

    assert 0 <= destination.held(case.plan) <= 2 * case.plan.bytes_out + 10**9
    assert destination.disk_bytes(1000) in (0, 1000)
    assert destination.name


CHECKS: tuple[Callable[[Case], None], ...] = (
    shows_the_whole_result_at_once,
    takes_files_beside_each_other,
    leaves_nothing_of_what_is_abandoned,
    keeps_what_was_admitted_or_nothing,
    refuses_a_file_that_never_arrived,
    refuses_to_replace_what_is_there,
    lets_workers_elsewhere_write,
    ends_what_waits_when_told_to,
    states_what_it_holds,
)
