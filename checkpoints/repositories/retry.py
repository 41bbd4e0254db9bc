"""How long to go on when the Hub is busy: what its answers ask for, and when to give up."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

# Answers that may be better in a moment.
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
# The Hub counts requests by windows of five minutes: who waits for two of them has waited long enough.
LONGEST_WAIT = 600.0
LONGEST_BACKOFF = 30.0


class Patience:
    """The pauses between the attempts at one call; it ends after so many failures, or seconds of waiting.

    Args:
        attempts: how many may fail in a row; those that are told how long to wait do not count
        pause: waits for a number of seconds
    """

    def __init__(self, attempts: int, pause: Callable[[float], object]):
        self._attempts = attempts
        self._pause = pause
        self._failures = 0
        self._waited = 0.0

    def progress(self) -> None:
        """Something came: count failures from here."""
        self._failures = 0

    def wait(self, response: Any = None) -> bool:
        """Pause before the next attempt, as the last answer asks, or for 0.5, 1, 2, ... seconds.

        Returns:
            False, at once, if there should be no next attempt.
        """
        asked = asked_pause(response)
        if asked is None:
            self._failures += 1
            if self._failures >= self._attempts:
                return False
        seconds = min(0.5 * 2 ** (self._failures - 1), LONGEST_BACKOFF) if asked is None else asked
        if self._waited + seconds > LONGEST_WAIT:
            return False
        self._waited += seconds
        self._pause(seconds)
        return True


def asked_pause(response: Any) -> float | None:
    """Seconds that a busy answer asks to wait, at least one: by `Retry-After`, a number or a date, or on 429 by
    `RateLimit: "resolvers";r=0;t=55`, where a window ends in t seconds. None if it does not say."""
    if response is None or response.status_code not in TRY_AGAIN:
        return None
    window = re.search(r"\bt=(\d+)", response.headers.get("RateLimit", ""))
    if window and response.status_code == 429:
        return float(window[1]) + 1
    asked = response.headers.get("Retry-After", "").strip()
    if asked.isdigit():
        return max(float(asked), 1.0)
    try:
        until = parsedate_to_datetime(asked)
    except ValueError:
        return None
    # A date without a zone is in GMT, as the standard demands of all of them.
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max((until - datetime.now(UTC)).total_seconds(), 1.0)
