"""Functions that work on strangers' files in a process of their own, with limits of time and memory.

The process is started by the first call and kept for the next one, since importing what such work needs takes longer
than the work. Arguments and results are JSON. A process that exceeds a limit dies alone, and the next call starts
another.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
START = "import sys; sys.path.insert(0, sys.argv[1]); from checkpoints.confined import serve; serve()"
# All that such a process sees of this one's environment.
PASSED = ("PATH", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")


class ConfinedError(Exception):
    """The function raised, or its process exceeded a limit; the text says which."""


class Confined:
    """A function of one JSON value that runs in a process of its own.

    Args:
        module, function: where the process finds it
        seconds: of processor time, and of waiting, for one call
        memory: bytes that the process may allocate
    """

    def __init__(self, module: str, function: str, *, seconds: int, memory: int):
        self.name = f"{module}.{function}"
        self.limits = json.dumps(
            {"module": module, "function": function, "seconds": seconds, "memory": memory}
        )
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)

    def __call__(self, argument: Any) -> Any:
        """Call the function.

        Raises:
            ConfinedError: it raised, died, or took too long.
        """
        question = json.dumps(argument).encode() + b"\n"
        with self._lock:
            process = self._process or self._start()
            try:
                assert process.stdin
                process.stdin.write(question)
                process.stdin.flush()
                answer = self._read(process)
            except (OSError, EOFError):
                self.close()
                raise ConfinedError("it exceeded its limit of time or memory") from None
        if "error" in answer:
            raise ConfinedError(answer["error"])
        return answer["result"]

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", START, str(ROOT), self.limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in PASSED if name in os.environ},
            start_new_session=True,
        )
        return self._process

    def _read(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """The next line of the process.

        Raises:
            EOFError: it died, or did not answer in time.
        """
        assert process.stdout
        found = bytearray()
        deadline = time.monotonic() + 2 * self.seconds
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not found.endswith(b"\n"):
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise EOFError
                part = os.read(process.stdout.fileno(), 1 << 20)
                if not part:
                    raise EOFError
                found += part
        answer: dict[str, Any] = json.loads(found)
        return answer

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process:
            process.kill()
            process.communicate()


def serve() -> None:
    """Answer calls in the child process until its parent closes standard input."""
    import resource

    limits = json.loads(sys.argv[2])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    resource.setrlimit(resource.RLIMIT_DATA, (limits["memory"], limits["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    function = None
    for line in sys.stdin.buffer:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        used = int(usage.ru_utime + usage.ru_stime)
        resource.setrlimit(resource.RLIMIT_CPU, (used + limits["seconds"], resource.RLIM_INFINITY))
        try:
            function = function or getattr(importlib.import_module(limits["module"]), limits["function"])
            answer = {"result": function(json.loads(line))}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
