"""The cache of computed values: each computed once, and a bound on what is kept."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from checkpoints.lru_cache import LruCache


def test_a_value_is_computed_once_for_all_threads_that_ask() -> None:
    cache, computed = LruCache[bytes](limit=100, nbytes=len), []
    together = threading.Barrier(4)

    def ask(number: int) -> bytes:
        together.wait(60)
        return cache.get("key", lambda: computed.append(number) or b"value")  # type: ignore[func-returns-value]

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, range(4))) == {b"value"}
    assert len(computed) == 1


def test_the_least_recently_used_values_are_dropped() -> None:
    cache, computed = LruCache[bytes](limit=10, nbytes=len), []

    def get(key: str, size: int = 4) -> bytes:
        return cache.get(key, lambda: computed.append(key) or bytes(size))  # type: ignore[func-returns-value]

    for key in "abac":  # b is older than a when c comes, and all three are too much
        get(key)
    get("a")
    assert computed == ["a", "b", "c"]
    get("b")
    assert computed == ["a", "b", "c", "b"]
    get("large", 100)
    get("large", 100)
    assert computed[-1:] == ["large"]
    assert computed.count("large") == 1


def test_one_value_does_not_wait_for_another() -> None:
    cache, computing, end = LruCache[bytes](limit=100, nbytes=len), threading.Event(), threading.Event()

    def slow() -> bytes:
        computing.set()
        assert end.wait(60)
        return b"slow"

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.get, "slow", slow)
        assert computing.wait(60)
        assert cache.get("quick", lambda: b"quick") == b"quick"
        end.set()
        assert waiting.result() == b"slow"


def test_an_error_is_not_kept() -> None:
    cache = LruCache[bytes](limit=100, nbytes=len)

    def fail() -> bytes:
        raise ValueError("not now")

    with pytest.raises(ValueError, match="not now"):
        cache.get("key", fail)
    assert cache.get("key", lambda: b"value") == b"value"
