"""A copy of a search's records on a branch of a private repository, from where another machine continues the search.

The folder's records remain the truth. They are copied now and then; a copy that the Hub refuses is made up for by the
next one.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from checkpoints.problems import DestinationError, Problem
from checkpoints.repositories.repository import HUB_SCHEME
from merging.destinations.private_branch import PrivateBranch
from searching.optimiser import SearchError

# Seconds between two copies: what was scored since the last one is lost with the machine.
PAUSE = 30.0


class Backup:
    """The copy.

    Args:
        records: the file in the folder of the search
        place: `hf://owner/name`; the repository is made if there is none
        key: of the search, the same for the same space, parents and data

    Raises:
        SearchError: the place is no repository on the Hub.
    """

    def __init__(self, records: Path, place: str, key: str) -> None:
        repo = place.removeprefix(HUB_SCHEME)
        if not place.startswith(HUB_SCHEME) or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
            raise SearchError(Problem("backup-not-on-hub", {"given": place}))
        self._records = records
        self._branch = PrivateBranch(repo, f"search-{key[:16]}")
        self._copied, self._when = b"", float("-inf")

    def open(self) -> None:
        """Take the records from the branch where the folder has none.

        Raises:
            DestinationError: the Hub refuses, or the repository is public.
        """
        self._branch.open()
        if self._branch.is_there and not self._records.read_bytes():
            with tempfile.TemporaryDirectory(prefix="alloy-search-") as folder:
                if found := self._branch.download(self._records.name, Path(folder)):
                    shutil.copyfile(found, self._records)

    def copy(self, *, now: bool = False) -> None:
        """Copy the records if the last copy is old enough, or `now`."""
        if not now and time.monotonic() - self._when < PAUSE:
            return
        self._when = time.monotonic()
        content = self._records.read_bytes()
        with suppress(DestinationError):
            if content != self._copied:
                self._branch.store({self._records.name: content}, "Copy the records of a search")
                self._copied = content

    def remove(self) -> None:
        """Remove the branch: the search has ended."""
        self._branch.remove()
