"""What llama.cpp predicts after each token of a text, in the process that this module is the program of.

The library of `xllamacpp` exports llama.cpp's own functions; its Python interface has none for the logits of a prompt.
The process is held as that of `llama_server`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checkpoints.confined import end_first
from evaluation.llama_server import confine_to, limit

# What llama.cpp's default settings of a context begin with: tokens of a context, of a batch, and of a part of it.
_DEFAULTS = (512, 2048, 512)


class _Options(ctypes.Structure):
    """A struct of llama.cpp that is passed by value: numbers of 32 bits, then what is left alone. It has more room than
    llama.cpp's own takes."""

    _fields_ = (("numbers", ctypes.c_uint32 * 8), ("rest", ctypes.c_uint8 * 480))


class _Batch(ctypes.Structure):
    """llama.cpp's `llama_batch`."""

    _fields_ = (
        ("count", ctypes.c_int32),
        ("tokens", ctypes.POINTER(ctypes.c_int32)),
        ("embeddings", ctypes.c_void_p),
        ("positions", ctypes.POINTER(ctypes.c_int32)),
        ("sequence_counts", ctypes.POINTER(ctypes.c_int32)),
        ("sequences", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("is_wanted", ctypes.POINTER(ctypes.c_int8)),
    )


def serve() -> None:
    """Answer lines of tokens with logits until standard input ends; the first argument is JSON.

    Writes a line with the size of the vocabulary when the model is loaded; then for each JSON list of n tokens n x
    vocabulary numbers in float32, as they are in memory.
    """
    given = json.loads(sys.argv[1])
    end_first()
    limit(given["memory"])
    confine_to([*map(Path, given["readable"])], Path(given["file"]), Path(given["folder"]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what llama.cpp prints is no answer
    decoder = _Decoder(given["file"], given["context"], given["threads"])
    answers.write(b"%d\n" % decoder.vocabulary)
    answers.flush()
    for line in sys.stdin:
        answers.write(decoder.logits(json.loads(line)))
        answers.flush()


class _Decoder:
    """A model, loaded.

    Args:
        file: of the model
        context: the most tokens of a text
        threads: that compute

    Raises:
        RuntimeError: llama.cpp cannot load it.
    """

    def __init__(self, file: str, context: int, threads: int):
        llama = self._llama = _library()
        options = llama.llama_context_default_params()
        if tuple(options.numbers[:3]) != _DEFAULTS:
            raise RuntimeError("this release of llama.cpp has other settings")
        options.numbers[:3] = context, context, context
        model = llama.llama_model_load_from_file(file.encode(), llama.llama_model_default_params())
        if not model:
            raise RuntimeError("llama.cpp cannot load the file")
        self._context = llama.llama_init_from_model(model, options)
        if not self._context:
            raise RuntimeError("llama.cpp cannot run the model")
        llama.llama_set_n_threads(self._context, threads, threads)
        self._batch = llama.llama_batch_init(context, 0, 1)
        self.vocabulary: int = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    def logits(self, tokens: Sequence[int]) -> bytes:
        """Those after each token, (n, vocabulary) float32; see `serve`.

        Raises:
            RuntimeError: llama.cpp fails.
        """
        llama, batch = self._llama, self._batch
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
        batch.count = len(tokens)
        for place, token in enumerate(tokens):
            batch.tokens[place], batch.positions[place], batch.is_wanted[place] = token, place, 1
            batch.sequence_counts[place], batch.sequences[place][0] = 1, 0
        if status := llama.llama_decode(self._context, batch):
            raise RuntimeError(f"llama.cpp cannot read a text: {status}")
        size = len(tokens) * self.vocabulary * ctypes.sizeof(ctypes.c_float)
        return ctypes.string_at(llama.llama_get_logits(self._context), size)


def _library() -> Any:
    """llama.cpp, with the types of what is called."""
    found = importlib.util.find_spec("xllamacpp")
    assert found and found.origin
    [file] = Path(found.origin).parent.glob("xllamacpp*.so")
    llama: Any = ctypes.CDLL(str(file))
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    declared: dict[str, tuple[Any, list[Any]]] = {
        "llama_model_default_params": (_Options, []),
        "llama_context_default_params": (_Options, []),
        "llama_model_load_from_file": (pointer, [ctypes.c_char_p, _Options]),
        "llama_init_from_model": (pointer, [pointer, _Options]),
        "llama_set_n_threads": (None, [pointer, number, number]),
        "llama_model_get_vocab": (pointer, [pointer]),
        "llama_vocab_n_tokens": (number, [pointer]),
        "llama_get_memory": (pointer, [pointer]),
        "llama_memory_clear": (None, [pointer, ctypes.c_bool]),
        "llama_batch_init": (_Batch, [number, number, number]),
        "llama_decode": (number, [pointer, _Batch]),
        "llama_get_logits": (pointer, [pointer]),
    }
    for name, (result, arguments) in declared.items():
        function = getattr(llama, name)
        function.restype, function.argtypes = result, arguments
    llama.llama_backend_init()
    return llama
