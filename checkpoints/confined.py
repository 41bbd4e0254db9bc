"""Functions that work on strangers' files in processes of their own, with limits of time and memory.

A process is kept for the next call, since importing what such work needs takes longer than the work. Arguments and
results are JSON and go through pipes: a token among them is in no environment, argument list, file or log. A process
that exceeds a limit dies alone, and the next call starts another. A call that takes long leaves the processor to the
server, as far as that needs it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

ROOT = Path(__file__).parent.parent
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from checkpoints.confined import serve; serve()"
)
# All that such a process sees of this one's environment.
PASSED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "SYSTEMROOT", "LD_LIBRARY_PATH", "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
)  # fmt: skip
# What it takes to reach the Hub and its cache on this machine, without a token.
HUB_VARIABLES = (
    "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET",
    "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "XDG_CACHE_HOME", "SPACE_ID",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
# Seconds that a call may take beside its processor time: a busy machine starts a process slowly, and shares its cores.
SPARE = 60.0
# Bytes of one answer: more is not taken from a process that reads strangers' files.
MAX_ANSWER = 256 << 20
# Seconds of processor time after which the system prefers the server to a call, and by how much; see `os.nice`.
LONG, NICENESS = 5.0, 5
# A process that keeps this share of its limit after a call is replaced, so that the memory comes back.
SHARE_KEPT = 1 / 4

_is_confined = False


class ConfinedError(Exception):
    """The function raised; the text says what, and a note has its traceback."""


class LimitError(ConfinedError):
    """The process exceeded a limit of time or memory, or died."""


class Confined:
    """A function of one JSON value that runs in processes of its own.

    Args:
        module, function: where the process finds it
        seconds: of processor time for one call
        memory: bytes that a process may allocate
        wait: seconds for which a call is waited for; None: the processor time and SPARE
        workers: calls that may run at the same time; others wait for one of them
        variables: names of environment variables that the process gets besides `PASSED`
        ready: a function of the module, without arguments, that a process runs before its first call. What it imports
            counts for no call, where it could take most of the time that one has
    """

    def __init__(
        self,
        module: str,
        function: str,
        *,
        ready: str = "",
        seconds: int,
        memory: int,
        wait: float | None = None,
        workers: int = 1,
        variables: Sequence[str] = (),
    ):
        self.name = f"{module}.{function}"
        limits = {"module": module, "ready": ready, "seconds": seconds, "memory": memory, "long": LONG}
        self._processes = _Processes(
            limits, seconds + SPARE if wait is None else wait, workers, (*PASSED, *variables)
        )

    def beside(self, module: str, function: str) -> Confined:
        """Another function, in the same processes: what both import is there once."""
        other = copy(self)
        other.name = f"{module}.{function}"
        return other

    def __call__(self, argument: Any) -> Any:
        """Call the function.

        Raises:
            LimitError: it took too long or too much memory.
            ConfinedError: it raised.
        """
        answer = self._processes.ask(json.dumps([self.name, argument]).encode() + b"\n")
        if "error" in answer:
            raised = ConfinedError(answer["error"])
            raised.add_note(answer["trace"])
            raise raised
        return answer["result"]

    def warm_up(self) -> None:
        """Start a process now, so that the first call does not wait for its imports."""
        self._processes.warm_up()

    def close(self) -> None:
        """End the processes that are not at work."""
        self._processes.close()


class _Processes:
    """Processes with the same limits.

    Args:
        limits: the seconds of processor time and the bytes of memory for one call, the seconds that are long, and the
            module and its function to begin with
        wait: seconds for which a call is waited for
        workers: calls that may run at the same time
        variables: names of environment variables that the processes get
    """

    def __init__(self, limits: dict[str, Any], wait: float, workers: int, variables: Sequence[str]):
        self._limits = limits
        self._wait = wait
        self._workers = workers
        self._variables = variables
        self._begin()
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(after_in_child=self._begin)  # the processes answer to their parent alone

    def _begin(self) -> None:
        self._turns = threading.BoundedSemaphore(self._workers)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []

    def ask(self, question: bytes) -> dict[str, Any]:
        """What a process answers.

        Raises:
            LimitError: it took too long or too much memory.
        """
        with self._turns:
            process = self._take()
            try:
                answer = process.ask(question, self._wait)
            except BaseException as error:
                process.close()
                if isinstance(error, (OSError, EOFError)):
                    raise LimitError("it exceeded its limit of time or memory") from None
                raise
            if answer["stepped_back"] or answer["held"] > self._limits["memory"] * SHARE_KEPT:
                process.close()
            else:
                self._put(process)
        return answer

    def warm_up(self) -> None:
        self._put(self._take())

    def _take(self) -> _Process:
        """The process that was used last, whose caches are warm; else a new one."""
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.is_alive:
                    return process
                process.close()
        return _Process(json.dumps(self._limits), _chosen(self._variables))

    def _put(self, process: _Process) -> None:
        with self._lock:
            self._idle.append(process)

    def close(self) -> None:
        """End the processes that are not at work."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.close()


class _Process:
    """One process, and the pipes to it."""

    def __init__(self, limits: str, environment: Mapping[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", START, limits, json.dumps([str(ROOT), *sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            # A confined process that starts another takes it along when it is ended.
            start_new_session=not _is_confined,
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, question: bytes, seconds: float) -> dict[str, Any]:
        """Send a line, and read the line that answers it.

        Raises:
            OSError, EOFError: the process died, or did not answer in time.
        """
        assert self._process.stdin and self._process.stdout
        deadline = threading.Timer(seconds, self._kill)
        deadline.daemon = True
        deadline.start()
        try:
            self._process.stdin.write(question)
            self._process.stdin.flush()
            line = self._process.stdout.readline(MAX_ANSWER)
        finally:
            deadline.cancel()
        if not line.endswith(b"\n"):
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _kill(self) -> None:
        if _is_confined or not hasattr(os, "killpg"):
            self._process.kill()
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it, and what it started."""
        self._kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe:
                    pipe.close()
        self._process.wait()


def _chosen(names: Sequence[str]) -> dict[str, str]:
    """These variables of the environment, as far as they are set."""
    return {name: os.environ[name] for name in names if name in os.environ}


def serve() -> None:
    """Answer calls in the child process until its parent closes standard input."""
    global _is_confined
    _is_confined = True
    limits = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    end_first()
    usage, process = _Usage(limits["memory"]), psutil.Process()
    with suppress(Exception):  # reported by the first call
        module = importlib.import_module(limits["module"])
        if limits["ready"]:
            getattr(module, limits["ready"])()
    for count, line in enumerate(sys.stdin.buffer):
        usage.allow(limits["seconds"], limits["long"])
        try:
            name, argument = json.loads(line)
            module, _, function = name.rpartition(".")
            answer = {"result": getattr(importlib.import_module(module), function)(argument)}
            written = json.dumps(answer, check_circular=False)  # a third of the time
        except BaseException as error:  # a library in Rust that panics raises no Exception
            trace = "".join(traceback.format_exception(error))[-4000:]
            written = json.dumps({"error": f"{type(error).__name__}: {error}"[:500], "trace": trace})
        told = json.dumps({"held": process.memory_info().rss, "stepped_back": usage.stepped_back})
        answers.write(f"{written[:-1]}, {told[1:]}\n".encode())
        answers.flush()
        if count == 0:  # what the work has imported stays: do not look through it again and again
            gc.collect()
            gc.freeze()


def end_first() -> None:
    """Where memory is short, let the system end this process before the server."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


class _Usage:
    """What this process may use; without limits where the system has none.

    Args:
        memory: bytes

    Attributes:
        stepped_back: whether a call took long; the system does not let a process step forward again
    """

    def __init__(self, memory: int):
        self.stepped_back = False
        try:
            import resource
        except ImportError:  # on Windows, where the deadline remains
            self._resource: Any = None
            return
        self._resource = resource
        self._set(resource.RLIMIT_DATA, memory)
        self._set(resource.RLIMIT_CORE, 0)
        # A handler would run in the first thread, which may wait for others that work.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])
        threading.Thread(target=self._step_back, daemon=True).start()

    def _step_back(self) -> None:
        """Once a call takes long, let the system prefer others to this process, its threads, and what it started."""
        signal.sigwait([signal.SIGPROF])
        with suppress(OSError):
            os.setpriority(os.PRIO_PGRP, 0, NICENESS)
            self.stepped_back = True

    def allow(self, seconds: int, long: float) -> None:
        """Allow this many more seconds of processor time, the first `long` of them like any other process."""
        if self._resource:
            signal.setitimer(signal.ITIMER_PROF, long)
            spent = self._resource.getrusage(self._resource.RUSAGE_SELF)
            self._set(self._resource.RLIMIT_CPU, int(spent.ru_utime + spent.ru_stime) + seconds)

    def _set(self, kind: int, limit: int) -> None:
        """Set a limit; a process that this one starts may set a higher one."""
        with suppress(ValueError, OSError):  # macOS does not know all of them
            self._resource.setrlimit(kind, (limit, self._resource.getrlimit(kind)[1]))
