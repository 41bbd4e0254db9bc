"""A line of limited speed between the Hub and its clients."""

from __future__ import annotations

import asyncio
import time


class Line:
    """One direction of a line, which all requests share.

    Attributes:
        rate: bytes a second; None for as many as the machine carries.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self._is_free_at = 0.0

    async def carry(self, size: int) -> None:
        """Wait until this many more bytes are across."""
        if self.rate is None:
            return
        now = time.monotonic()
        self._is_free_at = max(self._is_free_at, now) + size / self.rate
        await asyncio.sleep(self._is_free_at - now)
