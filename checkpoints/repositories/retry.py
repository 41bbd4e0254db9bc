"""When to call the Hub again, and when to give up: after pauses that grow, or as long as its answers ask for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError

T = TypeVar("T")

# Answers that may be better in a moment.
RETRIED = {408, 425, 429, 500, 502, 503, 504}
# Failures in a row before a call is given up: with pauses that begin at half a second and double, after 15 seconds.
ATTEMPTS = 6
# The Hub counts requests in windows of five minutes, so two of them are long enough.
MAX_WAIT = 600.0
MAX_BACKOFF = 30.0


class Retries:
    """The pauses between the attempts at one call.

    Args:
        attempts: how many may fail in a row; those whose answer says how long to wait do not count
        pause: waits for a number of seconds
    """

    def __init__(self, attempts: int, pause: Callable[[float], object]):
        self._attempts = attempts
        self._pause = pause
        self._failures = 0
        self._waited = 0.0

    def progress(self) -> None:
        """Some bytes came: count failures from here."""
        self._failures = 0

    def wait(self, response: Any = None) -> bool:
        """Pause before the next attempt, as the last answer asks, or for 0.5, 1, 2, ... seconds.

        Returns:
            False, at once, if there should be no next attempt.
        """
        asked = retry_after(response)
        if asked is None:
            self._failures += 1
            if self._failures >= self._attempts:
                return False
        seconds = min(0.5 * 2 ** (self._failures - 1), MAX_BACKOFF) if asked is None else asked
        if self._waited + seconds > MAX_WAIT:
            return False
        self._waited += seconds
        self._pause(seconds)
        return True


def retry(call: Callable[[], T], connecting: int = ATTEMPTS) -> T:
    """Call the Hub, again after a pause while it is busy or does not answer.

    Args:
        call: to the Hub
        connecting: failures to connect in a row after which it counts as unreachable

    Raises:
        HfHubHTTPError, httpx2.TransportError: of the last attempt
    """
    retries, unconnected = Retries(ATTEMPTS, time.sleep), 0
    while True:
        try:
            return call()
        except (httpx2.TransportError, HfHubHTTPError) as error:
            response = getattr(error, "response", None)
            if response is not None and response.status_code not in RETRIED:
                raise
            unconnected = unconnected + 1 if isinstance(error, httpx2.ConnectError) else 0
            if unconnected >= connecting or not retries.wait(response):
                raise


def retry_after(response: Any) -> float | None:
    """Seconds that a busy answer asks to wait, at least one: by `Retry-After`, a number or a date, or on 429 by
    `RateLimit: "resolvers";r=0;t=55`, where a window ends in t seconds. None if it does not say."""
    if response is None or response.status_code not in RETRIED:
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
