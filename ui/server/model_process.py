"""The process that holds loaded models: they answer and are scored there, and what ends it ends nothing else.

Strangers' models can exhaust memory, and the libraries that run them can hang or crash. So no model is loaded in the
process that serves the page and runs the merges. This one is started when it is first needed, and again when it has
ended; what it was working on then ends with a problem in words. Visitors' tokens reach it through its standard input.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from io import BytesIO
from typing import IO, Any

from checkpoints.confined import HUB_VARIABLES, PASSED, ROOT, end_first
from checkpoints.problems import Problem, ProblemError
from evaluation.error import EvaluationError
from ui.languages.translate import current_language, speaking
from ui.server.internal_error import log_unexpected

ModelWork = Callable[..., Iterator[Any]]

START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from ui.server.model_process import serve; serve()"
)
VARIABLES = (
    *PASSED, *HUB_VARIABLES, "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "MKL_NUM_THREADS",
    "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "ATEN_CPU_CAPABILITY",
)  # fmt: skip
# Seconds between two signs of life, and without one after which the process is ended. It gives none while one call into
# a library keeps all of its threads waiting; an honest one takes a few seconds, on a busy machine.
PULSE, MOST_SILENT = 2.0, 30.0
# Seconds in which it has to start: importing the libraries takes its time.
MOST_STARTING = 300.0
# What may be made of the bytes that it sends, besides records and errors of our own packages.
OURS = ("checkpoints", "evaluation", "healing", "merging", "searching", "ui")
PLAIN = {
    ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "complex"), ("builtins", "bytearray"),
    ("collections", "Counter"), ("collections", "OrderedDict"), ("markupsafe", "Markup"), ("numpy", "ndarray"),
    ("numpy", "dtype"), ("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"), ("pathlib", "PosixPath"), ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"), ("pathlib._local", "WindowsPath"),
}  # fmt: skip


class ModelProcess:
    """Runs generators where the models are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: _Running | None = None
        atexit.register(self.close)

    def stream(self, work: ModelWork, *arguments: Any) -> Generator[Any, None, None]:
        """Run a generator there; it goes no further than it is iterated here.

        Args:
            work: a function of a module, which yields plain data
            arguments: picklable

        Raises:
            EvaluationError: the work raised it, or the process ended.
            RuntimeError: a defect in the work, which the process has logged.
        """
        with self._running_process().call(work, arguments) as call:
            while (item := call.next()) is not _END:
                yield item

    @property
    def generation(self) -> int:
        """Identifies the process, and with it what it holds; 0 without one."""
        with self._lock:
            return self._running.pid if self._running and self._running.is_alive else 0

    @contextmanager
    def hold_memory(self, nbytes: int) -> Iterator[None]:
        """Reserve memory for other work on this machine: models leave it, and none is loaded into it.

        Raises:
            EvaluationError: this much is not free even without any model.
        """
        with closing(self.stream(held, nbytes)) as holding:
            next(holding)
            yield

    def _running_process(self) -> _Running:
        with self._lock:
            if self._running is None or not self._running.is_alive:
                self._running = _Running()
            return self._running

    def warm_up(self) -> None:
        """Start the process, so that the first visitor does not wait for its imports."""
        self._running_process()
        threading.Thread(target=self._get_ready, name="warm up", daemon=True).start()

    def _get_ready(self) -> None:
        with suppress(EvaluationError):  # it has ended, and is started again when it is needed
            list(self.stream(ready))

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            if self._running:
                self._running.kill()


_END = object()


class _Running:
    """One process, its pipes, and the calls that it answers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", START, json.dumps([str(ROOT), *sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in VARIABLES if name in os.environ},
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._sending = threading.Lock()
        self._calls: dict[int, _Call] = {}
        self._number = 0
        self._heard: float | None = None
        self._began = time.monotonic()
        threading.Thread(target=self._receive, name="models", daemon=True).start()
        threading.Thread(target=self._watch, name="pulse", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @contextmanager
    def call(self, work: ModelWork, arguments: tuple[Any, ...]) -> Iterator[_Call]:
        with self._sending:
            self._number += 1
            number = self._number
        call = self._calls[number] = _Call(self, number)
        try:
            self.send(("run", number, current_language(), work, arguments))
            yield call
        finally:
            self._calls.pop(number, None)
            self.send(("close", number))

    def send(self, message: tuple[Any, ...]) -> None:
        """Send a message; to a process that has ended it is lost, and `_receive` has reported that."""
        content = pickle.dumps(message)
        with self._sending, suppress(OSError, ValueError):
            assert self._process.stdin
            _write(self._process.stdin, content)

    def kill(self) -> None:
        self._process.kill()

    def _receive(self) -> None:
        """Hand what comes to the calls; when nothing more comes, tell them."""
        assert self._process.stdout
        try:
            while True:
                message = _Data(BytesIO(_read(self._process.stdout))).load()
                self._heard = time.monotonic()
                kind, number, *content = message
                if call := self._calls.get(number):
                    call.news.put((kind, *content))
        except (EOFError, OSError):
            pass
        except Exception as error:
            log_unexpected(error)
        self.kill()
        self._process.wait()
        for call in list(self._calls.values()):
            call.news.put(("error", EvaluationError(Problem("models-ended"))))

    def _watch(self) -> None:
        """End the process when it gives no sign of life."""
        while self.is_alive:
            self.send(("pulse", 0))
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PULSE)
            now = time.monotonic()
            silent = now - (self._heard or self._began)
            if silent > (MOST_SILENT if self._heard else MOST_STARTING):
                self.kill()


@dataclass
class _Call:
    """A generator that runs there."""

    running: _Running
    number: int
    news: queue.SimpleQueue[tuple[Any, ...]] = field(default_factory=queue.SimpleQueue)

    def next(self) -> Any:
        """Its next item, or `_END`.

        Raises:
            Exception: what it raised.
        """
        self.running.send(("next", self.number))
        if not self.running.is_alive:
            self.news.put(("error", EvaluationError(Problem("models-ended"))))
        kind, *content = self.news.get()
        if kind == "error":
            raise content[0]
        if kind == "defect":
            raise RuntimeError(content[0])
        return content[0] if kind == "item" else _END


class _Data(pickle.Unpickler):
    """Reads what the process sends: plain types, and records and errors of Alloy. It makes nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        found = None
        if module.partition(".")[0] in OURS or (module, name) in PLAIN:
            found = super().find_class(module, name)
        is_ours = isinstance(found, type) and (
            is_dataclass(found) or issubclass(found, Exception | Enum | tuple | str)
        )
        if found is None or not (is_ours or (module, name) in PLAIN):
            raise pickle.UnpicklingError(f"{module}.{name} is no data")
        return found


def _write(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(len(content).to_bytes(8, "little"))
    pipe.write(content)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    """A message.

    Raises:
        EOFError: there is none any more.
    """
    size = pipe.read(8)
    content = pipe.read(int.from_bytes(size, "little")) if len(size) == 8 else b""
    if not content:
        raise EOFError
    return content


# -- in the process -------------------------------------------------------------------------------------------


def held(nbytes: int) -> Iterator[None]:
    """Hold memory as long as this generator is open."""
    from evaluation.model import hold_memory

    with hold_memory(nbytes):
        yield


def ready() -> Iterator[None]:
    """Import and measure what loading the first model to answer takes."""
    import torch

    from checkpoints import chat_template
    from evaluation import tokenizer
    from evaluation.llama_model import has_llama_cpp
    from evaluation.processor import bytes_per_second
    from merging import gguf_conversion

    chat_template.warm_up()
    tokenizer.warm_up()
    if has_llama_cpp() and not torch.cuda.is_available():
        gguf_conversion.warm_up()
        bytes_per_second()
    yield


def serve() -> None:
    """Run calls until the process that asks ends."""
    from evaluation.model import is_overdue
    from evaluation.tokenizer import keep_apart

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    end_first()
    keep_apart()
    sending = threading.Lock()
    calls: dict[int, queue.SimpleQueue[str]] = {}

    def send(*message: Any) -> None:
        content = pickle.dumps(message)
        with sending, suppress(OSError):
            _write(answers, content)

    with suppress(EOFError):
        while True:
            kind, *content = pickle.loads(_read(sys.stdin.buffer))
            if is_overdue():
                break
            if kind == "pulse":
                send("pulse", 0)
            elif kind == "run":
                number, language, work, arguments = content
                asked: queue.SimpleQueue[str] = queue.SimpleQueue()
                calls[number] = asked
                run = _Run(number, language, work, arguments, asked, send)
                threading.Thread(target=run, daemon=True).start()
            elif content[0] in calls:
                calls[content[0]].put(kind)
                if kind == "close":
                    del calls[content[0]]
    os._exit(0)  # without waiting for what still runs


@dataclass(frozen=True)
class _Run:
    """One generator, in a thread of its own.

    Args:
        asked: "next" or "close", as they come
        send: sends a kind, the number, and what belongs to it
    """

    number: int
    language: str | None
    work: ModelWork
    arguments: tuple[Any, ...]
    asked: queue.SimpleQueue[str]
    send: Callable[..., None]

    def __call__(self) -> None:
        with speaking(self.language):
            items = None
            try:
                items = iter(self.work(*self.arguments))
                while self.asked.get() == "next":
                    item = next(items, _END)
                    if item is _END:
                        self.send("end", self.number)
                        return
                    self.send("item", self.number, item)
            except ProblemError as error:
                self.send("error", self.number, error)
            except BaseException as error:  # a library in Rust that panics raises no Exception
                self.send("defect", self.number, log_unexpected(error))
            finally:
                if isinstance(items, Generator):
                    items.close()


MODELS = ModelProcess()
