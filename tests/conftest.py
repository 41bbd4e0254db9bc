"""One loopback Hub for the whole run, started here: ``HF_ENDPOINT`` is read when huggingface_hub is imported."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.hub import Hub
from tests.merges import without_pauses
from tests.s3 import bucket, s3_endpoint

__all__ = ["bucket", "s3_endpoint"]

PAGE = "tests/ui/"
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


# How many examples are drawn where a test does not say: a look at each thing, or a night's work.
settings.register_profile("default", max_examples=3, derandomize=True)
settings.register_profile("nightly", max_examples=60)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes a night, unless it is asked for by its mark."""
    if "nightly" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    items.sort(key=lambda item: not item.nodeid.startswith(PAGE))  # they take longest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all tests of the page to one process, since they share the demo's site; others go by file."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return PAGE if nodeid.startswith(PAGE) else nodeid.partition("::")[0]

    return ByFile(config, log)


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


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny models: `base`, and its fine-tunes `a` and `b`, the last one in several files."""
    from tests.tiny import tiny_llama  # here, for the sake of the environment above

    folder = tmp_path_factory.mktemp("models")
    base = tiny_llama(folder / "base", 0)
    tiny_llama(folder / "a", 1, base)
    tiny_llama(folder / "b", 2, base, shard="100KB")
    for name in ("base", "a", "b"):
        (folder / name / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def alice(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user who has those models on the Hub, privately; returns the token."""
    token = hub.add_user("alice")
    for name in ("base", "a", "b"):
        hub.put(f"alice/{name}", folder / name, private=True)
    hub.log.clear()
    without_pauses(monkeypatch)
    return token
