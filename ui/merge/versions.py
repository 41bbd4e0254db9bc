"""Which answer of the server a recipe and a form come from, so that nothing is made of fields that are out of date.

Each answer that writes the recipe has a number, which the browser keeps beside the fields and sends with every event.
An event that was sent before the last answer was shown has an older number: its fields are half of the recipe that is
there, and half of the one before. The browser is asked to send them again.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

# Times that the browser is asked to send its fields again before it is sent once more what they should show, and the
# seconds before each.
MOST_TRIES, SECONDS_BETWEEN = 40, 0.05
_LOCK = threading.Lock()


def next_try(before: object) -> int:
    """The number of the next time that the browser is asked to send its fields again; waits for the answer that it is
    to show first.

    Args:
        before: the number of the last time; None, or what a stranger sent, counts as none
    """
    time.sleep(SECONDS_BETWEEN)
    return int(before) + 1 if isinstance(before, int) else 1


@dataclass
class Versions:
    """Numbers the answers that write one page's recipe, in the order in which they are made."""

    newest: int = 0

    def next(self, after: int | None = None) -> int | None:
        """The number of a new answer.

        Args:
            after: the version that the answer was made from; None: from none

        Returns:
            The number; None if another answer has been made since, and this one must not take its place.
        """
        with _LOCK:
            if after not in (None, self.newest):
                return None
            self.newest += 1
            return self.newest
