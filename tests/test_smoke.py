"""The script that a person runs against the real Hub, against the one on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import smoke
from tests.hub import Hub


@pytest.mark.nightly
def test_it_merges_scores_and_deletes(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.add_user("carol"))
    for name in ("a", "b"):
        hub.put(f"carol/{name}", folder / name)
    monkeypatch.setattr(smoke, "find_spec", lambda name: None)

    status = smoke.main(["--models", "carol/a", "carol/b", "--shard-size", "60KB"])

    told = capsys.readouterr().out
    assert "ok       merge by LFS" in told
    assert "score what came by LFS" in told
    assert "ok       everything deleted" in told
    assert sorted(hub.repos) == ["carol/a", "carol/b"]
    # These models have no tokenizer, so they cannot be scored: the report says so, and what was made is deleted.
    assert status == 1
    assert "failed   score" in told
