"""Functions in a process of their own: an answer, or an error that leaves this process unharmed."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import pytest

from checkpoints.confined import Confined, ConfinedError


def work(how: str) -> Any:
    """What the tests ask of the other process."""
    if how == "spin":
        while True:
            pass
    if how == "fill":
        return len(bytearray(2 << 30))
    if how == "die":
        os._exit(1)
    if how == "print":
        print("not an answer")
        sys.stdout.flush()
    if how == "secrets":
        return sorted(os.environ)
    if how == "raise":
        raise ValueError("no such thing")
    return os.getpid()


@pytest.fixture
def confined() -> Confined:
    return Confined(__name__, work.__name__, seconds=1, memory=1 << 30)


def test_the_process_is_kept(confined: Confined) -> None:
    first = confined("pid")

    assert first != os.getpid()
    assert confined("print") == confined("pid") == first


def test_an_exception_keeps_the_process(confined: Confined) -> None:
    first = confined("pid")

    with pytest.raises(ConfinedError, match="ValueError: no such thing"):
        confined("raise")
    assert confined("pid") == first


@pytest.mark.parametrize("how", ["spin", "die"])
def test_a_process_that_dies_is_replaced(confined: Confined, how: str) -> None:
    first = confined("pid")
    began = time.process_time()

    with pytest.raises(ConfinedError, match="limit"):
        confined(how)

    assert time.process_time() - began < 1  # this process only waited
    assert confined("pid") != first


def test_memory_is_limited(confined: Confined) -> None:
    with pytest.raises(ConfinedError, match=r"MemoryError|limit"):
        confined("fill")


def test_it_sees_no_secrets(confined: Confined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    assert "HF_TOKEN" not in confined("secrets")
