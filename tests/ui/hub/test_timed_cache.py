"""Values are kept for a while, and not too many of them."""

from __future__ import annotations

from ui.hub.timed_cache import TimedCache


def test_a_value_is_kept_for_some_seconds() -> None:
    now = [100.0]
    cache = TimedCache[str](10, 5, lambda: now[0])
    cache.keep("key", "value")

    now[0] = 109.9
    assert cache.get("key") == "value"
    now[0] = 110.0
    assert cache.get("key") is None
    assert cache.get("other") is None


def test_of_too_many_values_the_last_are_kept() -> None:
    cache = TimedCache[int](10, 2, lambda: 0.0)
    for number in range(3):
        cache.keep(number, number)

    assert [cache.get(number) for number in range(3)] == [None, 1, 2]
