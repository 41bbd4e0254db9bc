"""A server that rents machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Hub
from tests.ui.conftest import until_ended
from ui.host import Host
from ui.server.jobs import JobBoard
from ui.server.merge_service import MergeService


@pytest.fixture
def service(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MergeService]:
    """What it still follows at the end is stopped: it would go on asking the Hub, while other tests run.

    Args:
        monkeypatch: its changes stay until then
    """
    host = Host("", sign_in=False, demo=False, results=tmp_path / "merged", browser_key="key", rents=True)
    service = MergeService(host, JobBoard())
    yield service
    hub.clear_faults()
    followed = [job for job in service.board._jobs if service.job(job).is_live]
    for job in followed:
        service.board.cancel(job)
    for job in followed:
        until_ended(service, job)
