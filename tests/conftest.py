"""One loopback Hub for the whole run, started here: ``HF_ENDPOINT`` is read when huggingface_hub is imported."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Hub

HUB = Hub().start()
HF_HOME = tempfile.TemporaryDirectory(prefix="alloy-tests-", ignore_cleanup_errors=True)

os.environ |= {
    "HF_ENDPOINT": HUB.endpoint,
    "HF_HOME": HF_HOME.name,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_XET": "1",
    "OMP_WAIT_POLICY": "PASSIVE",  # read when torch is imported, see app.py
    "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"])),
}
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Hub]:
    """The Hub of this run, as the tests before left it."""
    yield HUB
    HUB.stop()


@pytest.fixture
def hub(hub_server: Hub) -> Hub:
    """The Hub of this run, empty; and nothing that was downloaded from it before."""
    shutil.rmtree(Path(HF_HOME.name) / "hub", ignore_errors=True)
    hub_server.reset()
    return hub_server
