"""Wall time, CPU time and peak memory of a whole process."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Seconds between two looks at a process's memory.
PERIOD = 0.05


@dataclass(frozen=True)
class Cost:
    """What one process took.

    Args:
        wall: seconds from start to end
        cpu: seconds of user and system time
        curve: bytes of memory that are its own or its children's (not pages of files), every PERIOD seconds
        said: what it wrote to its standard output
    """

    wall: float
    cpu: float
    curve: tuple[int, ...]
    said: str = ""

    @property
    def anonymous(self) -> int:
        """The most bytes of such memory that were seen."""
        return max(self.curve, default=0)


def measured(command: Sequence[str], env: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    with tempfile.TemporaryFile("w+") as complaints:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=complaints, text=True
        )
        curve: list[int] = []
        over = threading.Event()

        def watch() -> None:
            while not over.wait(PERIOD):
                curve.append(_anonymous(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert process.stdout
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        over.set()
        watcher.join()
        if process.returncode:
            complaints.seek(0)
            end = (said + complaints.read())[-3000:]
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{end}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, tuple(curve), said)


def _anonymous(pid: int) -> int:
    """Bytes of anonymous memory of a process and its children, shared pages counted once; 0 when it is gone."""
    total = 0
    for one in (pid, *_children(pid)):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon")), 0)
    return total


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
