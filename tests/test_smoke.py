"""The script that a person runs against the real Hub, against the one on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import smoke
from tests.hub import Hub
from tests.ui.rented.rooms import furnish

pytestmark = pytest.mark.nightly


@pytest.fixture
def carol(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user whose login is the machine's, and who has two models."""
    token = hub.add_user("carol")
    monkeypatch.setenv("HF_TOKEN", token)
    for name in ("a", "b"):
        hub.put(f"carol/{name}", folder / name)
    monkeypatch.setattr(smoke, "find_spec", lambda name: None)
    return token


def run(*options: str) -> int:
    return smoke.main(["--models", "carol/a", "carol/b", "--shard-size", "60KB", *options])


def test_it_merges_scores_and_deletes(hub: Hub, carol: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = run()

    told = capsys.readouterr().out
    assert "ok       merge by LFS" in told
    assert "score what came by LFS" in told
    assert "ok       everything deleted" in told
    assert sorted(hub.repos) == ["carol/a", "carol/b"]
    # These models have no tokenizer, so they cannot be scored: the report says so, and what was made is deleted.
    assert status == 1
    assert "failed   score" in told
    assert not hub.rented.jobs


@pytest.mark.parametrize(
    ("machine", "flavor", "before"),
    [(None, "cpu-basic", ""), ("cpu-upgrade", "cpu-upgrade", ""), (None, "cpu-basic", "exit 7")],
    ids=["the cheapest", "a named one", "one that fails"],
)
def test_on_a_job_if_asked(
    machine: str | None,
    flavor: str,
    before: str,
    hub: Hub,
    carol: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ui.rented.job.POLL", 0.05)
    monkeypatch.setattr("ui.rented.job.LATE_SECONDS", 0.2)
    furnish(hub, tmp_path, before)

    run("--job", *([machine] if machine else []))

    told = capsys.readouterr()
    outcome = "failed  " if before else "ok      "
    assert f"{outcome} merge on a rented machine" in told.out
    assert (f"by {flavor}, verified" in told.out) == (not before)
    assert "ok       everything deleted" in told.out
    assert sorted(hub.repos) == ["carol/a", "carol/b"]
    [job] = hub.rented.jobs.values()
    assert job.spec["flavor"] == flavor
    assert carol not in told.out + told.err + repr(job.lines)
