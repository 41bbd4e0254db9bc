"""llama.cpp itself, by ctypes: what GGUF files are compared with.

The libraries are those of the npm package `@node-llama-cpp/linux-x64`, which `make dev` installs where npm is at hand.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import ROOT

LIBRARIES = ROOT / ".venv" / "llama" / "node_modules" / "@node-llama-cpp" / "linux-x64" / "bins" / "linux-x64"
needs_llama_cpp = pytest.mark.skipif(
    not LIBRARIES.is_dir(), reason="llama.cpp was not compared with: `make dev` found no npm to install it by"
)


class _Options(ctypes.Structure):
    """A struct of llama.cpp that is passed by value. Its first fields are numbers of 32 bits; the rest is left alone,
    and there is more room than it takes."""

    _fields_ = (("numbers", ctypes.c_uint32 * 8), ("rest", ctypes.c_uint8 * 480))


_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


@cache
def _library() -> ctypes.CDLL:
    """libllama, with a backend for this processor."""
    base = ctypes.CDLL(str(LIBRARIES / "libggml-base.so"), ctypes.RTLD_GLOBAL)
    base.ggml_log_set(_QUIET, None)
    ggml = ctypes.CDLL(str(next(LIBRARIES.glob("libggml.*so"))), ctypes.RTLD_GLOBAL)
    ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load_all_from_path(str(LIBRARIES).encode())
    llama = ctypes.CDLL(str(next(LIBRARIES.glob("libllama.*so"))), ctypes.RTLD_GLOBAL)
    llama.llama_log_set(_QUIET, None)
    for name in ("llama_model_quantize_default_params", "llama_model_default_params"):
        getattr(llama, name).restype = _Options
    llama.llama_context_default_params.restype = llama.llama_batch_get_one.restype = _Options
    for name in (
        "llama_model_load_from_file",
        "llama_init_from_model",
        "llama_model_get_vocab",
        "llama_get_memory",
    ):
        getattr(llama, name).restype = ctypes.c_void_p
    llama.llama_model_load_from_file.argtypes = [ctypes.c_char_p, _Options]
    llama.llama_init_from_model.argtypes = [ctypes.c_void_p, _Options]
    llama.llama_get_logits_ith.restype = ctypes.POINTER(ctypes.c_float)
    llama.llama_get_logits_ith.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    llama.llama_decode.argtypes = [ctypes.c_void_p, _Options]
    llama.llama_batch_get_one.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    llama.llama_tokenize.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool, ctypes.c_bool,
    ]  # fmt: skip
    llama.llama_backend_init()
    return llama


def quantize(source: Path, target: Path, file_type: int) -> None:
    """Quantize a GGUF file, by llama.cpp's own quantizer.

    Args:
        file_type: llama.cpp's number
    """
    llama = _library()
    options = llama.llama_model_quantize_default_params()
    options.numbers[0], options.numbers[1] = 2, file_type  # threads, type
    done = llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options))
    assert done == 0


class Model:
    """A model that runs in llama.cpp."""

    def __init__(self, handle: int, llama: ctypes.CDLL):
        self._handle, self._llama = handle, llama
        self._vocabulary = llama.llama_model_get_vocab(ctypes.c_void_p(handle))

    def tokens(self, text: str, special: bool = False) -> list[int]:
        """The tokens of a text.

        Args:
            special: whether those that a text begins with are added, and those in the text are recognized
        """
        room = (ctypes.c_int32 * (len(text.encode()) + 8))()
        raw = text.encode()
        count = self._llama.llama_tokenize(self._vocabulary, raw, len(raw), room, len(room), special, True)
        assert count >= 0
        return list(room[:count])

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """The logits after each token: (tokens, vocabulary)."""
        llama = self._llama
        size = llama.llama_vocab_n_tokens(ctypes.c_void_p(self._vocabulary))
        context = llama.llama_init_from_model(self._handle, llama.llama_context_default_params())
        assert context
        try:
            llama.llama_set_n_threads(ctypes.c_void_p(context), 2, 2)
            found = []
            for token in tokens:
                one = (ctypes.c_int32 * 1)(token)
                assert llama.llama_decode(context, llama.llama_batch_get_one(one, 1)) == 0
                found.append(np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (size,)).copy())
            return np.stack(found)
        finally:
            llama.llama_free(ctypes.c_void_p(context))


@contextmanager
def loaded(file: Path) -> Iterator[Model]:
    """A GGUF file, loaded by llama.cpp."""
    llama = _library()
    handle = llama.llama_model_load_from_file(str(file).encode(), llama.llama_model_default_params())
    assert handle, f"llama.cpp cannot load {file.name}"
    try:
        yield Model(handle, llama)
    finally:
        llama.llama_model_free(ctypes.c_void_p(handle))
