"""A process of its own that can read one model and nothing else."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.confined import PASSED
from checkpoints.problems import Cancelled, Problem
from evaluation.confine import LANDLOCK, NAMESPACE, PYTHON
from evaluation.remark import Remark

_PACKAGES = Path(__file__).parents[1]
_OURS = ("checkpoints", "evaluation")
_SCRIPT = Path(__file__).with_name("confine.py")
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/proc", "/sys", "/dev", "/run", "/System",
           "/Library")  # fmt: skip
# Variables that say which device there is, and how many threads it has.
_DEVICE = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY")

# What keeps everything else out of reach, as phrases of remarks.
MEANS = {LANDLOCK: "held-by-landlock", NAMESPACE: "held-by-namespace", PYTHON: "held-by-python"}


@dataclass(frozen=True)
class Outcome:
    """What came back from a sandbox.

    Attributes:
        found: what the function returned, None if it failed.
        error: why it failed, in the words of what failed or as a remark of our own; "" if it did not.
        confined_by: "landlock", "namespace", or "python" where the system has neither; "" if it did not get so far.
        problems: the same as `error`, where a `ProblemError` was raised.
    """

    found: Any
    error: str | Remark
    confined_by: str = ""
    problems: tuple[Problem, ...] = ()

    @property
    def why(self) -> str | dict[str, Any]:
        """The error as a value of a remark."""
        return self.error.phrase if isinstance(self.error, Remark) else self.error


def ask(
    call: str,
    given: Mapping[str, Any],
    *,
    readable: Sequence[Path],
    out_of_reach: Sequence[Path] = (),
    timeout: float | None = None,
    cancel: threading.Event | None = None,
    means: Sequence[str] = (LANDLOCK, NAMESPACE),
) -> Outcome:
    """Call a function of this package in a process that reads only Python, the system and what it is given.

    Args:
        call: "module:function"; what it returns must be JSON.
        given: its keyword arguments, ready for JSON.
        readable: files and folders that it may read.
        out_of_reach: folders that it may not read, even if they are inside the system's or Python's own.
        timeout: seconds until it is ended.
        cancel: when set, it is ended.
        means: ways to confine it, the first that works.

    Raises:
        Cancelled: `cancel` was set.
    """
    with tempfile.TemporaryDirectory(prefix="alloy-sandbox-") as name:
        place = Path(name).resolve()
        inside, root = place / "inside", place / "root"
        for folder in (inside, root, inside / "packages"):
            folder.mkdir()
        for package in _OURS:
            (inside / "packages" / package).symlink_to(_PACKAGES / package)
        allowed = [*what_python_reads(), *readable]
        settings = {
            "call": call,
            "given": given,
            "readable": [str(it) for path in allowed for it in _without(path.absolute(), out_of_reach)] + [str(inside)],
            "root": str(root),
            "means": list(means),
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            cwd=inside,
            env=_environment(inside),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return _answer(process, json.dumps(settings), timeout, cancel)


def what_python_reads() -> list[Path]:
    """What Python, the system's libraries and our own packages in a sandbox need."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    return [
        *map(Path, _SYSTEM),
        *(Path(path) for path in (sys.prefix, sys.base_prefix, site.getuserbase())),
        *_search_path(),
        *(Path(path) for path in libraries if path),
        *(_PACKAGES / package for package in _OURS),
    ]


def own_places(folder: Path) -> list[Path]:
    """Where the files of a model may really be: its folder, and for a snapshot in the Hub's cache also its store."""
    real = folder.resolve()
    return [real, real.parents[1] / "blobs"] if real.parent.name == "snapshots" else [real]


def links_out(folder: Path) -> list[tuple[Path, Path]]:
    """Files and folders of a model that are links to another place, each with its target."""
    own = own_places(folder)
    pairs = [(path, path.resolve()) for path in sorted(folder.iterdir())]
    return [(path, target) for path, target in pairs if not any(map(target.is_relative_to, own))]


def _answer(
    process: subprocess.Popen[str], asked: str, timeout: float | None, cancel: threading.Event | None
) -> Outcome:
    given: str | None = asked
    started = time.monotonic()
    try:
        while True:
            try:
                said, complaints = process.communicate(given, timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                given = None
                if cancel is not None and cancel.is_set():
                    raise Cancelled from None
                if timeout is not None and time.monotonic() - started > timeout:
                    return Outcome(None, Remark("took-too-long", {"seconds": timeout}))
    finally:
        process.kill()
        process.wait()
    try:
        data = json.loads(said.splitlines()[-1])
        return Outcome(**{**data, "problems": tuple(map(Problem.from_data, data["problems"]))})
    except (ValueError, LookupError, TypeError):
        lines = complaints.strip().splitlines()
        last = lines[-1] if lines else "no message"
        return Outcome(None, Remark("ended-early", {"status": process.returncode, "words": last}))


def _environment(inside: Path) -> dict[str, str]:
    """What Python and the processor need, and nothing that leads to other models or to an account."""
    kept = {name: os.environ[name] for name in (*PASSED, *_DEVICE) if name in os.environ}
    paths = [str(inside / "packages"), *(str(path) for path in _search_path())]
    return kept | {
        "HF_HOME": str(inside / "home"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HOME": str(inside),
        "TMPDIR": str(inside),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUSERBASE": site.getuserbase(),
    }


def _search_path() -> list[Path]:
    """Where this process imports from, without the folder it was started in and that of our own packages."""
    paths = dict.fromkeys(Path(path or ".").absolute() for path in sys.path)
    return [path for path in paths if path not in (_PACKAGES, Path.cwd(), Path("/"))]


def _without(path: Path, closed: Sequence[Path]) -> list[Path]:
    """A path, or where it contains a closed folder everything in it but that."""
    real = path.resolve()
    if any(real.is_relative_to(folder) for folder in closed):
        return []
    if not any(folder.is_relative_to(real) for folder in closed):
        return [path] if path.exists() else []
    return [kept for inner in sorted(path.iterdir()) for kept in _without(inner, closed)]
