"""A copy of the records on the Hub: another machine continues from it, and it is gone when the search has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints.problems import DestinationError
from searching import SearchError, SearchProgress, run_search
from tests.hub import Hub
from tests.searching.synthetic import Score, documents, plan, space
from tests.searching.test_run import lines, report

PLACE = "hf://alice/searches"


class DiedError(BaseException):
    """The machine is gone."""


@pytest.fixture(autouse=True)
def alice(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is logged in."""
    monkeypatch.setenv("HF_TOKEN", hub.add_user("alice"))


def searched(
    folder: Path, *, dies_after: str = "", log: Path | None = None, backup: str | None = PLACE
) -> None:
    def watch(progress: SearchProgress) -> None:
        if progress.scored.who == dies_after:
            raise DiedError

    score = Score(log=log) if log else Score()
    run_search(
        plan(score, space("tpe", trials=9), documents(12, 5, 8)), folder, backup=backup, on_trial=watch
    )


def branches(hub: Hub) -> list[str]:
    return [ref for ref in hub.repo("alice/searches").refs if ref.startswith("search-")]


def test_another_machine_continues_as_if_undisturbed(hub: Hub, tmp_path: Path) -> None:
    searched(tmp_path / "whole", backup=None)

    for machine in ("trial 2", "trial 5"):
        with pytest.raises(DiedError):
            searched(tmp_path / machine, dies_after=machine, log=tmp_path / "log")
    [branch] = branches(hub)
    searched(tmp_path / "last", log=tmp_path / "log")

    assert lines(tmp_path / "last") == lines(tmp_path / "whole")
    assert report(tmp_path / "last") == report(tmp_path / "whole")
    scored = (tmp_path / "log").read_text().splitlines()
    assert len(scored) == len({*scored})  # nothing twice
    assert hub.repo("alice/searches").private
    assert branch.startswith("search-")
    assert not branches(hub)


def test_a_copy_is_made_at_the_first_record_and_then_now_and_then(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searching.backup.PAUSE", 3600.0)
    with pytest.raises(DiedError):
        searched(tmp_path, dies_after="trial 5")

    [branch] = branches(hub)
    made = [commit for commit in hub.repo("alice/searches").history(branch) if "records" in commit.title]
    assert len(made) == 2  # the first, and the one of the error; not one for each line


def test_a_copy_that_is_refused_does_not_end_the_search(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DestinationError([])

    monkeypatch.setattr("searching.backup.PrivateBranch.store", refuse)

    searched(tmp_path)

    assert report(tmp_path)["ending"] == "better"


def test_a_public_repository_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.put("alice/searches", tmp_path)

    with pytest.raises(DestinationError, match="is public"):
        searched(tmp_path / "search")


@pytest.mark.parametrize(
    "place", ["searches", "s3://bucket/key", "hf://buckets/a/b", "hf://alice", "alice/searches"]
)
def test_another_place_is_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="--backup hf://owner/name"):
        searched(tmp_path, backup=place)
