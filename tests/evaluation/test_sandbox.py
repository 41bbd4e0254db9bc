"""A sandbox reads what it may and nothing else, by each means that this system has."""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from checkpoints.problems import Cancelled
from evaluation.sandbox import Outcome, ask, links_out


@pytest.fixture(params=["landlock", "namespace"])
def means(request: pytest.FixtureRequest) -> str:
    """Ways in which the operating system itself confines a process."""
    means = str(request.param)
    if ask("builtins:dict", {}, readable=[], means=[means]).confined_by != means:
        pytest.skip(f"this system has no {means} for us")
    return means


def run(means: str, *command: str | Path, **settings: Any) -> Outcome:
    """Run another program in a sandbox: what it opens, Python does not see."""
    given = {"args": [str(word) for word in command], "text": True}
    return ask("subprocess:check_output", given, means=[means], **settings)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A model of one file beside another one, and a link from it into the other."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir()
        (folder / "words").write_text(folder.name)
    (mine / "link").symlink_to(other / "words")
    return mine, other


def test_only_what_is_readable_is_read(means: str, folders: tuple[Path, Path]) -> None:
    mine, other = folders

    assert run(means, "cat", mine / "words", readable=[mine]) == Outcome("mine", "", means)
    for path in (mine / "link", other / "words"):
        assert run(means, "cat", path, readable=[mine]).error


def test_a_folder_inside_of_a_readable_one_can_be_closed(means: str, folders: tuple[Path, Path]) -> None:
    mine, other = folders
    closed = {"readable": [mine.parent], "out_of_reach": [other]}

    assert run(means, "cat", mine / "words", **closed).found == "mine"
    assert run(means, "cat", other / "words", **closed).error


def test_the_network_is_closed(means: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5); print('connected')"

        found = run(means, sys.executable, "-c", code, readable=[])

    assert found.found is None
    assert found.confined_by == means


def test_without_any_means_python_refuses_and_says_what(folders: tuple[Path, Path]) -> None:
    mine, _ = folders

    def read(path: Path) -> Outcome:
        return ask("evaluation.text:read_text", {"path": str(path)}, readable=[mine], means=[])

    assert read(mine / "words") == Outcome("mine", "", "python")
    assert "link cannot be read (out of reach)" in read(mine / "link").error


def test_standing_input_is_closed() -> None:
    assert "EOF" in ask("builtins:input", {}, readable=[]).error


def test_a_sandbox_is_ended() -> None:
    cancel = threading.Event()
    cancel.set()
    began = time.monotonic()

    with pytest.raises(Cancelled):
        ask("subprocess:check_output", {"args": ["sleep", "600"]}, readable=[], cancel=cancel)
    late = ask("subprocess:check_output", {"args": ["sleep", "600"]}, readable=[], timeout=1)

    assert str(late.error) == "it took more than 1 seconds."
    assert time.monotonic() - began < 120


def test_a_process_that_dies_says_how() -> None:
    assert str(ask("os:abort", {}, readable=[]).error).startswith("it ended with status -6")


def test_a_snapshot_of_the_cache_links_into_its_own_store(tmp_path: Path) -> None:
    store, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "1"
    for folder in (store, snapshot):
        folder.mkdir(parents=True)
    (store / "blob").write_text("")
    (snapshot / "config.json").symlink_to("../../blobs/blob")
    assert links_out(snapshot) == []

    (tmp_path / "base").write_text("")
    (snapshot / "weights").symlink_to(tmp_path / "base")
    assert links_out(snapshot) == [(snapshot / "weights", tmp_path / "base")]
