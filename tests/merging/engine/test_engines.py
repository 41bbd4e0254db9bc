"""Every registered engine does what engines have to do, see `conformance`."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from merging.engine.engine import Engine
from merging.engine.run import ENGINES
from tests.merging.engine import conformance

every_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: str(engine.name))


@pytest.fixture(autouse=True)
def no_children() -> object:
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= before


@every_engine
def test_every_shard_is_made_once(engine: Engine, folder: Path, tmp_path: Path) -> None:
    conformance.makes_every_shard_once(engine, folder, tmp_path)


@every_engine
def test_what_is_merged_is_counted(engine: Engine, folder: Path, tmp_path: Path) -> None:
    conformance.counts_what_is_merged(engine, folder, tmp_path)


@every_engine
def test_an_error_is_raised_as_it_was(
    engine: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conformance.raises_what_a_worker_raised(engine, folder, tmp_path, monkeypatch)


@every_engine
def test_a_stop_ends_all_at_once(
    engine: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conformance.stops_when_told_to(engine, folder, tmp_path, monkeypatch)


@every_engine
def test_an_error_of_the_caller_ends_all(engine: Engine, folder: Path, tmp_path: Path) -> None:
    conformance.ends_on_an_error_of_the_caller(engine, folder, tmp_path)
