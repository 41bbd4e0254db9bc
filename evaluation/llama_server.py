"""llama.cpp's server over one GGUF file, in the process that this module is the program of.

It is native code that reads strangers' files. So the process can read its file, Python and the system alone, may not
connect to the network, has a limit of memory, and listens on a socket in a folder of its user only. It ends, and takes
that folder along, when its standard input does.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkpoints.confined import end_first
from evaluation.confine import LANDLOCK, NAMESPACE, PYTHON, confine


def serve() -> None:
    """Serve until standard input ends; the first argument is JSON with the keyword arguments of `_server`.

    Writes a line when the model is loaded.
    """
    given = json.loads(sys.argv[1])
    memory, readable, folder = given.pop("memory"), given.pop("readable"), Path(given["socket"]).parent
    end_first()
    limit(memory)
    confine_to([*map(Path, readable)], Path(given["file"]), folder)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what llama.cpp prints is no answer
    try:
        _running = _server(**given)
        answers.write(b"loaded\n")
        answers.flush()
        sys.stdin.buffer.read()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # without waiting for what still runs


def _server(file: str, socket: str, context: int, threads: int, idle: int) -> Any:
    """Load a file and listen on a socket.

    Args:
        file: of the model
        socket: its path
        context: the most tokens that a conversation may have
        threads: that compute
        idle: seconds without a question after which the model leaves memory, until the next question

    Raises:
        RuntimeError: llama.cpp cannot run it.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.hostnames = [socket]
    settings.n_ctx = context
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.n_gpu_layers = 0
    # One conversation at a time and nothing kept of the last one: what an answer says depends on neither.
    settings.n_parallel = 1
    settings.cache_prompt = settings.cache_idle_slots = False
    settings.cache_ram_mib = settings.n_ctx_checkpoints = 0
    settings.check_tensors = True  # refuses NaN
    settings.enable_chat_template = settings.use_jinja = False  # Alloy writes the prompts
    settings.fit_params = settings.warmup = settings.ui = False
    settings.sleep_idle_seconds = idle
    settings.verbosity = 1  # errors
    return xllamacpp.Server(settings)


def confine_to(readable: Sequence[Path], file: Path, folder: Path) -> None:
    """Let this process read its file, which is open, and what Python needs; where the system can."""
    root = folder / "root"
    root.mkdir()
    if confine([LANDLOCK], [*readable, file, folder], root) == PYTHON:
        confine([NAMESPACE], [*readable, folder], root)


def limit(memory: int) -> None:
    """Allow this many bytes of memory besides the file's own, where the system can."""
    try:
        import resource
    except ImportError:  # on Windows
        return
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
