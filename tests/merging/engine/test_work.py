"""Merges that are made in parts, by processes that know nothing of each other."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from checkpoints.object_store import ObjectStore
from merging import DestinationError, MergeError, Plan, make_plan, read_recipe, run_plan
from merging.__main__ import main
from merging.destinations import Receipt
from merging.engine.task import make_shards
from merging.engine.work import Work, begin_work, read_receipts, receipt_line
from tests.hub import Hub
from tests.merges import files, merged, ties, weight_files, weights

SIZE = 60_000


class Idle:
    """An engine that is not to be asked for anything."""

    name = "idle"

    def suits(self, *_: object) -> bool:
        return True

    def run(self, merge: object, shards: Sequence[object]) -> None:
        raise AssertionError(f"{len(shards)} shards were left")


@pytest.fixture
def right(folder: Path, tmp_path: Path) -> dict[str, bytes]:
    merged(ties(folder), tmp_path / "right" / "out", SIZE)
    return files(tmp_path / "right" / "out")


def planned(place: Path | str, to: Path | str, token: str | None = None) -> Plan:
    return make_plan(read_recipe(ties(place)), str(to), token=token, shard_size=SIZE)


def lines_of(work: Work, count: int, token: str | None = None) -> list[list[str]]:
    """What each part prints, when it got the work as text."""
    text = work.to_json()
    assert Work.from_json(text) == work
    parts = [Work.from_json(text).part(number, count) for number in range(1, count + 1)]
    return [[receipt_line(work.merge, made) for made in make_shards(part, token=token)] for part in parts]


def test_parts_in_a_folder_that_all_share(folder: Path, tmp_path: Path, right: dict[str, bytes]) -> None:
    to = tmp_path / "out"
    lines = lines_of(begin_work(planned(folder, to), str(to)), 4)
    assert not to.exists()
    plan = planned(folder, to)

    run_plan(plan, str(to), receipts=read_receipts(chain(*lines), plan), on=Idle())  # type: ignore[arg-type]

    assert files(to) == right
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert [len(part) for part in lines] == [1, 2, 1, 2]


def test_a_last_run_makes_what_is_missing(folder: Path, tmp_path: Path, right: dict[str, bytes]) -> None:
    to = tmp_path / "out"
    lines = lines_of(begin_work(planned(folder, to), str(to)), 3)
    plan = planned(folder, to)

    run_plan(plan, str(to), receipts=read_receipts(lines[2], plan))

    assert files(to) == right


def test_parts_on_the_hub(
    hub: Hub, alice: str, folder: Path, tmp_path: Path, right: dict[str, bytes]
) -> None:
    to = "hf://alice/out"
    work = begin_work(planned("alice", to, alice), to, token=alice)
    assert alice not in work.to_json()
    lines = lines_of(work, 2, alice)
    assert list(hub.repo("alice/out").files()) in ([], [".gitattributes"])
    plan = planned("alice", to, alice)

    given = read_receipts(chain(*lines), plan)
    result = run_plan(plan, to, token=alice, receipts=given, on=Idle())  # type: ignore[arg-type]

    assert result.verified
    assert weights(hub, "alice/out") == weight_files(tmp_path / "right" / "out")
    assert [*hub.repo("alice/out").refs] == ["main"]


def test_parts_in_an_object_store(
    folder: Path, right: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: defaultdict[str, MemoryStore] = defaultdict(MemoryStore)
    monkeypatch.setattr("checkpoints.object_store.connect", stores.__getitem__)
    to = "gs://bucket/out"
    lines = lines_of(begin_work(planned(folder, to), to), 2)
    plan = planned(folder, to)
    assert plan.problems == ()

    run_plan(plan, to, receipts=read_receipts(chain(*lines), plan), on=Idle())  # type: ignore[arg-type]

    assert {*ObjectStore(to).entries()} == {*right}
    again = planned(folder, f"{to}/other")
    begun = begin_work(again, f"{to}/other")
    lost = replace(next(make_shards(begun.part(1, 6))), filename=again.shards[1].filename)
    with pytest.raises(DestinationError) as caught:
        run_plan(again, f"{to}/other", receipts=[lost])
    assert [problem.code for problem in caught.value.problems] == ["receipt-without-file"]


def test_a_part_may_be_empty_or_made_twice(folder: Path, tmp_path: Path) -> None:
    to = tmp_path / "out"
    work = begin_work(planned(folder, to), str(to))
    assert len(work.task.plan.shards) == 6

    parts = [work.part(number, 9).plan.shards for number in range(1, 10)]
    made = [*make_shards(work.part(1, 6)), *make_shards(work.part(1, 6))]

    assert [shard for part in parts for shard in part] == [*work.task.plan.shards]
    assert () in parts
    plan = planned(folder, to)
    assert read_receipts([receipt_line(work.merge, each) for each in made], plan) == [made[1]]


def test_receipts_of_another_merge_are_refused(folder: Path, tmp_path: Path) -> None:
    plan = planned(folder, tmp_path / "out")
    good = receipt_line(plan.fingerprint, Receipt("model.safetensors", 1))
    for lines, code in (
        ([good, receipt_line("0123456789abcdef", Receipt("model.safetensors", 1))], "other-merge"),
        ([good, "no JSON"], "no-receipt"),
        ([good, "[1]"], "no-receipt"),
        ([good, json.dumps({"merge": plan.fingerprint})], "no-receipt"),
    ):
        with pytest.raises(MergeError) as caught:
            read_receipts(lines, plan)
        assert [(p.code, p.values["line"]) for p in caught.value.problems] == [(code, 2)]


def test_a_receipt_without_its_file_is_refused(folder: Path, tmp_path: Path) -> None:
    """And the files of the other parts stay."""
    to = tmp_path / "out"
    work = begin_work(planned(folder, to), str(to))
    made = list(make_shards(work.part(1, 1)))
    (tmp_path / ".out.merging" / made[1].filename).unlink()

    with pytest.raises(DestinationError) as caught:
        run_plan(planned(folder, to), str(to), receipts=made)

    assert [problem.code for problem in caught.value.problems] == ["receipt-without-file"]
    assert (tmp_path / ".out.merging" / made[0].filename).is_file()
    run_plan(planned(folder, to), str(to), receipts=[made[0]])
    assert to.is_dir()


def test_receipts_of_another_processor_are_refused(folder: Path, tmp_path: Path) -> None:
    to = tmp_path / "out"
    made = list(make_shards(begin_work(planned(folder, to), str(to)).part(1, 1)))

    with pytest.raises(MergeError) as caught:
        run_plan(planned(folder, to), str(to), receipts=[replace(made[0], processor="m68k"), *made[1:]])

    assert [problem.code for problem in caught.value.problems] == ["other-processor"]


def test_a_single_file_on_the_hub_is_no_work_for_many(hub: Hub, alice: str, folder: Path) -> None:
    plan = make_plan(read_recipe(ties(folder)), "hf://alice/out", token=alice)

    with pytest.raises(MergeError) as caught:
        begin_work(plan, "hf://alice/out", token=alice)

    assert [problem.code for problem in caught.value.problems] == ["one-part"]
    assert "alice/out" not in hub.repos


def test_the_commands(
    folder: Path, tmp_path: Path, right: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, work, receipts = (tmp_path / name for name in ("recipe.yaml", "work.json", "receipts.jsonl"))
    recipe.write_text(ties(folder))
    to = ["--to", str(tmp_path / "out"), "--shard-size", str(SIZE)]

    assert main(["begin", str(recipe), *to, "--work", str(work)]) == 0
    assert "6 of 6 files are to be made" in capsys.readouterr().out
    for part in ("1/2", "2/2"):
        assert main(["part", str(work), "--part", part]) == 0
    receipts.write_text(capsys.readouterr().out)
    assert main(["run", str(recipe), *to, "--receipts", str(receipts), "--progress", "jsonl"]) == 0

    assert files(tmp_path / "out") == right
    progress = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert [line["phase"] for line in progress[-2:]] == ["finish", "done"]
    assert progress[-2]["bytes_done"] == progress[-2]["bytes_total"] > 0
    assert progress[-1]["result"]["location"] == str(tmp_path / "out")


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "-1/2"])
def test_parts_that_are_none(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["part", "work.json", f"--part={part}"])
    assert ended.value.code == 2
    assert "is not a part such as 3/16" in " ".join(capsys.readouterr().err.split())
