"""A tiny model with a tokenizer, and a chain that cuts and heals it."""

from __future__ import annotations

from pathlib import Path

import pytest

from merging import cut_recipe
from tests.evaluation.conftest import make_network, make_tokenizer, one_thread

__all__ = ["one_thread"]

ARGUMENTS = (
    "{max_steps: 6, learning_rate: 0.003, per_device_train_batch_size: 2, max_length: 32, lora_r: 4, lora_alpha: 8, "
    "warmup_steps: 1, save_steps: 1}"
)


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of five layers with a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "parent"
    make_network(num_hidden_layers=5, max_position_embeddings=128).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def chain(parent: Path, tmp_path: Path) -> str:
    """A cut of two layers, and its training on a text that is beside it."""
    text = "".join(
        f"Sentence {number} tells of {number % 7} ships and {number % 5} harbours.\n" for number in range(200)
    )
    (tmp_path / "text.txt").write_text(text)
    training = f"train: distillation\ndatasets: [{{path: text.txt}}]\narguments: {ARGUMENTS}\n"
    return cut_recipe(str(parent), [2, 3]) + "---\n" + training + "evaluate: {texts: english}\n"
