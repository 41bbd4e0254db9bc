"""Which program runs a model that is to answer: llama.cpp on a processor where it can, elsewhere transformers."""

from __future__ import annotations

import math
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import closing
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

import torch

from checkpoints import open_checkpoint
from checkpoints.problems import Cancelled, DestinationError, Problem, ProblemError
from evaluation.answering_model import AnsweringModel
from evaluation.error import EvaluationError
from evaluation.llama_model import LlamaModel, has_llama_cpp, load_gguf
from evaluation.model import LLAMA, FetchedModel, load_fetched, loaded_models
from evaluation.processor import bytes_per_second
from evaluation.tokenizer import check_tokenizer

Runtime = Literal["auto", "llama.cpp", "transformers"]
# Writes a model, named as `open_checkpoint` does, as a GGUF file of a type, such as "Q8_0", into a folder, and returns
# the file's path; raises a ProblemError where it cannot.
WriteGguf = Callable[[str, str, Path], Path]

# The types in which a model is run, the most exact first, with bits for each weight.
TYPES = {"BF16": 16.0, "Q8_0": 8.5, "Q4_K_M": 4.9}
# A person reads about five tokens in a second.
QUICK = 5.0


def load_to_answer(
    fetched: FetchedModel,
    device: str = "auto",
    *,
    runtime: Runtime = "auto",
    write_gguf: WriteGguf | None = None,
) -> AnsweringModel:
    """Load a model to answer, or take it from memory.

    On a processor llama.cpp runs it, from a temporary file of the most exact type that fits into memory and writes at
    least as quickly as a person reads; a model that is larger than all of these still runs in the smallest type.

    Args:
        fetched: from `fetch_model`.
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
        runtime: "transformers" or "llama.cpp"; "auto" for llama.cpp where it can run the model.
        write_gguf: makes the file; None leaves only transformers.

    Raises:
        EvaluationError: it cannot be read or run; the message says why, and what to do.
        Cancelled: `write_gguf` raised it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if runtime == "llama.cpp" and not has_llama_cpp():
        raise EvaluationError(Problem("no-llama-cpp", {"model": fetched.name}))
    is_asked = runtime == "llama.cpp"
    can_run = runtime != "transformers" and device == "cpu" and has_llama_cpp()
    if can_run and write_gguf and (is_asked or fetched.identity not in _REFUSED):
        try:
            return _in_llama_cpp(fetched, write_gguf)
        except Cancelled:
            raise
        except ProblemError as error:
            if is_asked or any(one.code == "tokenizer-limit" for one in error.problems):
                raise EvaluationError(error.problems) from error
            if not _may_pass(error):
                _REFUSED.append(fetched.identity)
    return load_fetched(fetched, device, to_answer=True)


# The latest models that llama.cpp could not run, so that they are not tried at each question.
_REFUSED: deque[Hashable] = deque(maxlen=256)
# Each model is written once; several may be written at the same time. A lock is kept as long as it is used.
_WRITING: WeakValueDictionary[Hashable, threading.Lock] = WeakValueDictionary()
_CHOOSING = threading.Lock()


def _writing(model: Hashable) -> threading.Lock:
    """The lock that is held while a model is written."""
    with _CHOOSING:
        return _WRITING.setdefault(model, threading.Lock())


def _may_pass(error: ProblemError) -> bool:
    """Whether the same may work later: there was no room, or a process ended."""
    passing = {"memory-in-use", "llama-ended"}
    return isinstance(error, DestinationError) or any(one.code in passing for one in error.problems)


def _in_llama_cpp(fetched: FetchedModel, write_gguf: WriteGguf) -> LlamaModel:
    loaded = loaded_models("cpu")
    with _writing(fetched.identity):
        found: LlamaModel | None = loaded.get(fetched.identity, LLAMA)
        if found:
            return found
        check_tokenizer(
            fetched.name, fetched.folder, fetched.folder
        )  # the converter would run it for minutes
        kind, size = _type_of(fetched, loaded.max_bytes)
        loaded.make_room(size)
        with loaded.hold(size), tempfile.TemporaryDirectory(prefix="alloy-gguf-") as folder:
            file = write_gguf(fetched.place, kind, Path(folder))
            model = load_gguf(file, name=fetched.name, commit=fetched.commit)
        loaded.put(fetched.identity, model, LLAMA)
    return model


def _type_of(fetched: FetchedModel, room: int) -> tuple[str, int]:
    """The type in which to run a model, and how many bytes its file has.

    Args:
        fetched: the model
        room: bytes that it may take
    """
    with closing(open_checkpoint(fetched.place)) as checkpoint:
        weights = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    sizes = {kind: int(weights * bits / 8) for kind, bits in TYPES.items()}
    most = min(room, bytes_per_second() / QUICK)
    fitting = (kind for kind, size in sizes.items() if size <= most)
    kind = next(fitting, min(sizes, key=sizes.__getitem__))
    return kind, sizes[kind]
