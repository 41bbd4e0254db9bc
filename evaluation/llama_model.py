"""A model that llama.cpp runs on the processor, from a GGUF file, in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from checkpoints.confined import PASSED, ROOT
from checkpoints.problems import Problem
from evaluation.answering_model import GenerationSettings, Written
from evaluation.error import EvaluationError
from evaluation.gguf_metadata import gguf_metadata
from evaluation.sandbox import what_python_reads
from evaluation.tokenizer import check_length

# The most tokens of a conversation, and the most bytes of their keys and values, which are allocated when the model is
# loaded: 2 GiB are 4096 tokens of a model of 7 B whose heads share none.
MOST_CONTEXT, MOST_CACHE = 8192, 2 << 30
# Bytes that a process may allocate besides twice its file: llama.cpp rearranges some weights for the processor.
BESIDE_WEIGHTS = 4 << 30
# Seconds to load: to start, and bytes per second of the slowest disk.
SECONDS_TO_START, SLOWEST_DISK = 60.0, 20_000_000
# Seconds without a token after which a model is given up, to begin with and for each token that it has to read.
SECONDS_OF_SILENCE, SECONDS_PER_TOKEN = 60.0, 0.5
# Seconds after which a model that is not asked leaves memory; it is loaded again for the next question.
SECONDS_IDLE = 900
# Seconds between two looks at whether an answer that waits for its turn is still wanted.
SECONDS_TO_LOOK = 0.1
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from {module} import serve; serve()"
# llama.cpp calls Q4_K_M "Q4_K - Medium".
_SIZE = re.compile(r" - ([SML])\w+$")
# Threads that wait for each other yield the processor: on two cores with a load of 15, the demo's model then wrote 49
# tokens per second instead of 1.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
# How llama.cpp begins a complaint.
_TIME = re.compile(r"^[\d.]+ E ")
# llama.cpp draws a seed of its own for this one.
_NO_SEED = 2**32 - 1


def has_llama_cpp() -> bool:
    """Whether llama.cpp is installed, and can be reached on this system."""
    return os.name == "posix" and importlib.util.find_spec("xllamacpp") is not None


@dataclass(frozen=True, eq=False)
class LlamaModel:
    """A model in a GGUF file, ready to answer; see `AnsweringModel`. Shared between threads.

    Attributes:
        name: how people call it.
        commit: the Hub's commit of what it was made from, None for a folder or file.
        runs_as: the type of most weights, and the program.
        bytes: what the weights take in memory.
        context: how many tokens it reads.
        special_tokens: see `AnsweringModel`.
        server: runs it.
        template: its chat template, None if it has none.
        turn: is held by the answer that is being written.
    """

    name: str
    commit: str | None
    runs_as: str
    bytes: int
    context: int
    special_tokens: Mapping[str, str]
    server: LlamaServer
    template: str | None
    device: str = "cpu"
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def has_chat_template(self) -> bool:
        """See `AnsweringModel`."""
        return self.template is not None

    @property
    def chat_template(self) -> str:
        """See `AnsweringModel`."""
        return self.template or ""

    def tokens(self, text: str, *, begins: bool = False) -> list[int]:
        """See `AnsweringModel`."""
        check_length(text)
        asked = {"content": text, "add_special": begins, "parse_special": True}
        found: list[int] = self.server.ask("/tokenize", asked)["tokens"]
        return found

    def write(
        self,
        tokens: Sequence[int],
        settings: GenerationSettings,
        stops: Sequence[threading.Event],
        put: Callable[[Written], None],
    ) -> None:
        """See `AnsweringModel`. Answers of one model are written one after the other."""
        while not self.turn.acquire(timeout=SECONDS_TO_LOOK):
            if any(event.is_set() for event in stops):
                return
        try:
            self._write(tokens, settings, stops, put)
        finally:
            self.turn.release()

    def _write(
        self,
        tokens: Sequence[int],
        settings: GenerationSettings,
        stops: Sequence[threading.Event],
        put: Callable[[Written], None],
    ) -> None:
        written, held = 0, ""
        for step in self.server.stream("/completion", _request(tokens, settings), len(tokens)):
            if any(event.is_set() for event in stops):
                return
            is_end = step["stop"] and step["stop_type"] == "eos"
            # The last step counts the token that ended the answer, and has none of its own.
            count = step["tokens_predicted"] - written
            written += count
            # A character that was cut in the middle is held back, and left out at the end.
            text = (held + step["content"]).rstrip("\N{REPLACEMENT CHARACTER}")
            held = (held + step["content"])[len(text) :]
            put(Written(text, tokens=count, is_end=is_end))


def load_gguf(path: Path, *, name: str | None = None, commit: str | None = None) -> LlamaModel:
    """Load a GGUF file into a process of its own.

    Args:
        path: of the file; it is kept open, so that it may be deleted.
        name: what to call the model; None for the path.
        commit: of what it was made from.

    Raises:
        EvaluationError: it cannot be read or run, or llama.cpp is not installed.
    """
    name = name or str(path)
    if not has_llama_cpp():
        raise EvaluationError(Problem("no-llama-cpp", {"model": name}))
    try:
        metadata = gguf_metadata(path)
        context = _context(metadata)
        server = LlamaServer(name, path, context)
    except OSError as error:
        raise EvaluationError(Problem("no-gguf", {"file": str(path)})) from error
    found = server.ask("/props")
    special = {key: found[key] for key in ("bos_token", "eos_token") if found.get(key)}
    template = metadata.get("tokenizer.chat_template")
    return LlamaModel(
        name,
        commit,
        _SIZE.sub(r"_\1", found["model_ftype"]) + ", llama.cpp",
        path.stat().st_size,
        context,
        special,
        server,
        str(template) if template else None,
    )


def gguf_process(module: str, file: int, given: Mapping[str, Any], stderr: int) -> subprocess.Popen[bytes]:
    """A process over a GGUF file; what it may read and allocate is limited to what that takes.

    Args:
        module: whose function `serve` it runs, on JSON with `given`, the file's path, limits and threads
        file: a descriptor of the file
        given: what else it is to know
        stderr: as for `Popen`
    """
    size = os.fstat(file).st_size
    asked = {
        **given,
        "file": f"/dev/fd/{file}",
        "threads": threads(),
        "memory": 2 * size + BESIDE_WEIGHTS,
        "readable": [str(path) for path in what_python_reads() if path.exists()],
    }
    command = [sys.executable, "-I", "-c", _START.format(module=module), json.dumps(asked)]
    return subprocess.Popen(
        [*command, json.dumps([str(ROOT), *sys.path])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=_ENVIRONMENT | {name: os.environ[name] for name in PASSED if name in os.environ},
        pass_fds=[file],
        start_new_session=True,
    )


def _context(metadata: Mapping[str, object]) -> int:
    """How many tokens a conversation may have, by what the file says of the model."""

    def count(key: str) -> int:
        found = metadata.get(f"{metadata.get('general.architecture')}.{key}")
        return found if isinstance(found, int) else 0

    heads = count("attention.head_count")
    width = count("attention.key_length") or count("embedding_length") // max(heads, 1)
    # Keys and values, in float16.
    size = 2 * 2 * count("block_count") * (count("attention.head_count_kv") or heads) * width
    fitting = max(MOST_CACHE // size // 256, 1) * 256 if size else MOST_CONTEXT
    return min(count("context_length") or MOST_CONTEXT, MOST_CONTEXT, fitting)


class LlamaServer:
    """The process that runs a model. It is started at the first question, and again when it has ended.

    Args:
        name: of the model, for errors
        path: of its file
        context: the most tokens of a conversation
    """

    def __init__(self, name: str, path: Path, context: int) -> None:
        self._name = name
        self._file = path.open("rb")
        self._size = path.stat().st_size
        self._context = context
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._end: Callable[[], object] = lambda: None  # ends the process that runs, once

    def ask(self, path: str, content: Mapping[str, Any] | None = None) -> Any:
        """The answer to a question, as JSON.

        Raises:
            EvaluationError: the process cannot start, has ended, or refuses the question.
        """
        with self._response(path, content, SECONDS_OF_SILENCE) as response:
            return json.loads(response.read())

    def stream(self, path: str, content: Mapping[str, Any], tokens: int) -> Iterator[Any]:
        """The parts of an answer, each as JSON; leaving the iterator ends the work.

        Args:
            path: of the question
            content: its arguments
            tokens: that have to be read before the first part

        Raises:
            EvaluationError: as for `ask`.
        """
        silence = SECONDS_OF_SILENCE + tokens * SECONDS_PER_TOKEN
        with self._response(path, content, silence) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield self._checked(json.loads(line.removeprefix("data: ")))

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    @contextmanager
    def _response(
        self, path: str, content: Mapping[str, Any] | None, silence: float
    ) -> Iterator[httpx2.Response]:
        running = self._started()
        method = "GET" if content is None else "POST"
        try:
            with running.client.stream(method, path, json=content, timeout=silence) as response:
                if response.status_code != 200:
                    self._checked(json.loads(response.read()))
                yield response
        except httpx2.TimeoutException as error:
            running.close()
            raise EvaluationError(Problem("llama-ended", {"model": self._name})) from error
        except (httpx2.HTTPError, ValueError, LookupError) as error:
            raise EvaluationError(Problem("llama-ended", {"model": self._name})) from error

    def _checked(self, part: Any) -> Any:
        if "error" in part:
            words = str(part["error"].get("message", ""))[:300]
            raise EvaluationError(Problem("llama-refuses", {"model": self._name, "words": words}))
        return part

    def _started(self) -> _Running:
        with self._lock:
            if self._running is None or not self._running.is_alive:
                self._end()
                self._running = _Running(self._name, self._file.fileno(), self._size, self._context)
                self._end = weakref.finalize(self, self._running.close)
            return self._running


class _Running:
    """One process.

    Raises:
        EvaluationError: it cannot load the model; the text has llama.cpp's own words.
    """

    def __init__(self, name: str, file: int, size: int, context: int) -> None:
        self._folder = tempfile.mkdtemp(prefix="alloy-llama-")
        socket = f"{self._folder}/llama.sock"
        given = {"socket": socket, "context": context, "idle": SECONDS_IDLE}
        self._process = gguf_process("evaluation.llama_server", file, given, stderr=subprocess.PIPE)
        self._complaint = ""
        # Without connections that are kept: the server ends them after a few seconds.
        limits = httpx2.Limits(max_keepalive_connections=0)
        transport = httpx2.HTTPTransport(uds=socket, verify=False, limits=limits)
        self.client = httpx2.Client(transport=transport, base_url="http://llama", trust_env=False)
        self._listener = threading.Thread(target=self._listen, name="llama", daemon=True)
        self._listener.start()
        deadline = threading.Timer(SECONDS_TO_START + size / SLOWEST_DISK, self._process.kill)
        deadline.daemon = True
        deadline.start()
        assert self._process.stdout
        is_loaded = self._process.stdout.readline() == b"loaded\n"
        deadline.cancel()
        if not is_loaded:
            self.close()
            values = {"model": name, "words": self._words}
            raise EvaluationError(Problem("llama-refuses", values))

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End it; what it was asked fails."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _listen(self) -> None:
        """Keep the first complaint, from which later ones follow; read on, so that the process does not block."""
        assert self._process.stderr
        for line in self._process.stderr:
            self._complaint = self._complaint or _TIME.sub("", line.decode("utf-8", "replace").strip())[:300]

    @property
    def _words(self) -> str:
        """llama.cpp's first complaint, once the process has ended."""
        self._listener.join(SECONDS_TO_START)
        return self._complaint


def threads() -> int:
    """How many threads compute: one for each processor that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _request(tokens: Sequence[int], settings: GenerationSettings) -> dict[str, Any]:
    """A question to llama.cpp's `/completion`; nothing but these settings counts."""
    return {
        "prompt": list(tokens),
        "stream": True,
        "n_predict": settings.max_new_tokens,
        "samplers": ["temperature", "top_p"],
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": settings.seed % _NO_SEED,
        "ignore_eos": not settings.ends,
        "cache_prompt": False,
    }
