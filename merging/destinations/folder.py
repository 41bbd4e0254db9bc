"""A result in a folder: written beside its place, and renamed into it when it is whole."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoints.problems import DestinationError, Problem
from merging.destinations.destination import ResultPlace, Stored
from merging.destinations.receipt import Receipt, no_file
from merging.destinations.written_parts import WrittenParts
from merging.plan import Plan

# What an interrupted run may leave; the next run to the same place removes it, unless it is one of the same plan.
SUFFIX = ".merging"
# The file in it that names the plan.
MERGE = ".merge"


class FolderDestination:
    """Writes into `.NAME.merging` beside the folder; a run that ends early leaves the folder itself untouched.

    Of files that are written together it notes the parts that are whole: a run of the same plan continues one that was
    killed.
    """

    can_stream = False

    def __init__(self, path: Path, *, overwrite: bool):
        self.path = path.expanduser().absolute()
        self.name = self.path.name
        self.partial = self.path.with_name(f".{self.name}{SUFFIX}")
        self.overwrite = overwrite
        self.sink = FolderSink(self.partial)
        self._lock: weakref.finalize[..., FolderDestination] | None = (
            None  # closes it, at the latest with this object
        )
        self._was_begun = False  # whether another run of the same plan has written here

    def held(self, plan: Plan) -> int:
        return 0

    def disk_bytes(self, size: int) -> int:
        return size

    def check(self, plan: Plan | None = None) -> list[Problem]:
        problems = []
        disk_bytes = plan.bytes_out + plan.bytes_beside if plan else 0
        where = str(self.path)
        if self.path.exists() and not self.path.is_dir():
            problems.append(Problem("destination-is-file", {"path": where}, where))
        elif self.path.is_dir() and any(self.path.iterdir()) and not self.overwrite:
            problems.append(Problem("folder-not-empty", {"path": where}, where))
        parent = next(folder for folder in self.path.parents if folder.exists())
        if not os.access(parent, os.W_OK):
            problems.append(Problem("destination-closed", {"path": str(parent)}, where))
        free = shutil.disk_usage(parent).free
        if free < disk_bytes:
            values = {"needed": disk_bytes, "free": free, "path": str(parent)}
            problems.append(Problem("disk-too-small", values, where))
        return problems

    def warnings(self, plan: Plan) -> list[Problem]:
        return []

    def begin(self, plan: Plan, check: Callable[[], None]) -> dict[str, Receipt]:
        """Make the partial folder, and hold it against a second run."""
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.partial.with_suffix(".lock"), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            problem = Problem("destination-busy", {"path": str(self.path)}, str(self.path))
            raise DestinationError(problem) from None
        self._lock = weakref.finalize(self, os.close, lock)
        parts = WrittenParts(self.partial, plan.fingerprint) if plan.together else None
        done = parts.read() if parts else frozenset()
        merge = self.partial / MERGE
        self._was_begun = not parts and merge.is_file() and merge.read_text() == plan.fingerprint
        if not (done or self._was_begun):
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir()
            if parts:
                parts.begin()
            else:
                merge.write_text(plan.fingerprint)
        self.sink = FolderSink(self.partial, parts, done)
        return {}

    def admit(self, receipt: Receipt) -> None:
        path = self.partial / receipt.filename
        if not path.is_file() or path.stat().st_size != receipt.size:
            raise DestinationError(no_file(receipt, str(self.path)))

    def write_file(self, filename: str, data: bytes) -> None:
        path = self.partial / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        with no_room(path):
            path.write_bytes(data)

    def finish(self, message: str) -> ResultPlace:
        if self.sink.parts:
            self.sink.parts.remove()
        (self.partial / MERGE).unlink(missing_ok=True)
        replaced = self.partial.with_suffix(".replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if self.path.exists():
            self.path.rename(replaced)
        self.partial.rename(self.path)
        shutil.rmtree(replaced, ignore_errors=True)
        self._release()
        return ResultPlace(str(self.path))

    def abandon(self, *, keep: bool) -> None:
        if self._lock is not None:
            if not (keep and self._was_begun):
                shutil.rmtree(self.partial, ignore_errors=True)
            self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self.partial.with_suffix(".lock").unlink(missing_ok=True)
            self._lock()
            self._lock = None


@contextmanager
def no_room(path: Path) -> Iterator[None]:
    """A disk that fills up while it is written to, as a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        problem = Problem("disk-full", {"file": path.name}, str(path.parent))
        raise DestinationError(problem) from error


def _reserve(descriptor: int, size: int) -> None:
    """Give a new file its size and, where the file system can, its blocks: writing is cheaper then, and a disk
    that is too small says so before the work and not after it."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:  # macOS has no such call
        os.truncate(descriptor, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.truncate(descriptor, size)


class FolderSink:
    """Writes output files into a folder that exists.

    Args:
        folder: gets the files
        parts: notes the parts of the files that are whole, if they have parts
        done: parts that an earlier run wrote, into files that are there
    """

    crosses_processes = True
    in_order = False

    def __init__(self, folder: Path, parts: WrittenParts | None = None, done: frozenset[str] = frozenset()):
        self.folder = folder
        self.parts = parts
        self.done = done

    def open_shard(self, filename: str, size: int) -> FolderShard:
        return FolderShard(self.folder / filename, size, continues=bool(self.done))

    def to_data(self) -> dict[str, object]:
        return {"scheme": "", "folder": str(self.folder)}


class FolderShard:
    """An output file that is written in place.

    The file is an object, not a descriptor: when a run fails it is closed as soon as the last worker has let go of
    it, and never while one still writes to its number.
    """

    def __init__(self, path: Path, size: int, *, continues: bool = False):
        self._path = path
        self._file = path.open("r+b" if continues else "wb", buffering=0)
        with no_room(path):
            _reserve(self._file.fileno(), size)

    def __getstate__(self) -> Path:
        return self._path

    def __setstate__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("r+b", buffering=0)

    def write(self, offset: int, data: memoryview) -> None:
        done = 0
        with no_room(self._path):
            while done < len(data):
                done += os.pwrite(self._file.fileno(), data[done:], offset + done)

    def close(self) -> Stored:
        self._file.close()
        return Stored(None, "folder")
