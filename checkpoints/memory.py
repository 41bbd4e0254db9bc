"""How much memory this process may use: the machine's, or what its container allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

CGROUP = Path("/sys/fs/cgroup")
# Of control groups, version 2 and version 1: folder, limit, usage, and the part of the usage that is file cache,
# which the kernel gives back before it refuses memory.
FILES = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def machine_memory() -> int:
    """The memory in bytes that this process can ever have."""
    limits = [limit for limit, _ in _containers()]
    return int(min([psutil.virtual_memory().total, *limits]))


def free_memory() -> int:
    """The memory in bytes that this process can still get."""
    left = [limit - used for limit, used in _containers()]
    return int(max(min([psutil.virtual_memory().available, *left]), 0))


def _containers() -> Iterator[tuple[int, int]]:
    """The limit in bytes of each control group that has one, and how much of it is used."""
    for folder, limit_file, used_file, cache in FILES:
        place = CGROUP / folder
        try:
            limit = int((place / limit_file).read_text())  # "max" is no number: no limit
            used = int((place / used_file).read_text())
            counts = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        yield limit, used - int(counts.get(cache, 0))
