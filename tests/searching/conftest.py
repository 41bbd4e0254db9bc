"""Tiny models with a tokenizer: a base and two fine-tunes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.conftest import one_thread
from tests.tiny import save_tokenizer, tiny_llama

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `a` and `b`: bfloat16 Llamas of four layers with tied embeddings and a tokenizer."""
    folder = tmp_path_factory.mktemp("family")
    base = save_tokenizer(tiny_llama(folder / "base", 0, vocab_size=258))
    for seed, name in enumerate("ab", 1):
        save_tokenizer(tiny_llama(folder / name, seed, base, vocab_size=258))
    return folder
