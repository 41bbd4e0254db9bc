"""Disk space for models from the Hub: checked before a download starts, and freed where a server may free it."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, scan_cache_dir, try_to_load_from_cache

from checkpoints.problems import Problem
from evaluation.error import EvaluationError

# Share of the disk that a server's downloads may fill; the rest is for results, uploads and the system.
_SHARE_OF_DISK = 1 / 2
# Seconds for which a model that was asked for may still be loading, and is not deleted.
_IN_USE = 600


class Downloads:
    """The Hub's cache on this machine.

    On a server, new models evict the least recently used ones. On a personal machine nothing is ever deleted, because
    other programs use the cache too.

    Attributes:
        is_limited: whether it is a server's
    """

    def __init__(self) -> None:
        self.is_limited = False
        self._used: dict[str, float] = {}  # when a commit was last asked for
        self._coming: Counter[str] = Counter()  # downloads in progress, by commit
        self._coming_bytes = 0
        self._lock = threading.Lock()

    def limit(self) -> None:
        """Keep the cache below half of the disk from now on, by deleting the least recently used models."""
        self.is_limited = True

    def touch(self, commit: str) -> None:
        """Note that a model is in use."""
        self._used[commit] = time.monotonic()

    @contextmanager
    def room_for(self, repo: str, commit: str, files: Mapping[str, int]) -> Iterator[None]:
        """Reserve disk space for the files of a model while they are downloaded.

        Args:
            repo: "owner/name"
            commit: the commit of these files
            files: sizes in bytes by name; files in the cache need no space

        Raises:
            EvaluationError: there is not enough space.
        """
        self.touch(commit)
        missing = sum(
            size
            for file, size in files.items()
            if not isinstance(try_to_load_from_cache(repo, file, revision=commit), str)
        )
        with self._lock:
            room = self._room()
            if self.is_limited and room < missing:
                self._make_room(missing - room)
                room = self._room()
            if missing > room:
                values = {
                    "repo": repo,
                    "size": missing / 1e9,
                    "room": room / 1e9,
                    "cache": constants.HF_HUB_CACHE,
                }
                code = "no-room-here" if self.is_limited else "no-room-for-download"
                raise EvaluationError(Problem(code, values))
            self._coming[commit] += 1
            self._coming_bytes += missing
        try:
            yield
        finally:
            self.touch(commit)
            with self._lock:
                self._coming[commit] -= 1
                self._coming_bytes -= missing

    def _room(self) -> int:
        """How many more bytes may be downloaded."""
        cache = Path(constants.HF_HUB_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(cache)
        room = disk.free
        if self.is_limited:
            room = min(room, int(disk.total * _SHARE_OF_DISK) - scan_cache_dir(cache).size_on_disk)
        return max(room - self._coming_bytes, 0)

    def _make_room(self, size: int) -> None:
        """Delete unused models until this many bytes are free, the least recently used first."""
        found = scan_cache_dir(constants.HF_HUB_CACHE)
        since = time.monotonic() - _IN_USE
        unused = [
            (self._used.get(revision.commit_hash, 0.0), revision.commit_hash, revision.size_on_disk)
            for repo in found.repos
            for revision in repo.revisions
            if self._used.get(revision.commit_hash, -_IN_USE) < since
            and not self._coming[revision.commit_hash]
        ]
        leave = []
        for _, commit, bytes_held in sorted(unused):
            if size <= 0:
                break
            leave.append(commit)
            size -= bytes_held
        if leave:
            found.delete_revisions(*leave).execute()


DOWNLOADS = Downloads()
