"""Licences of what is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from checkpoints import Token
from checkpoints.repositories.repository import current_token
from healing.data import PYTHON_TOPICS
from healing.settings import Dataset

# Said where a card states none, or cannot be read; and of files, of which only their owner knows.
UNKNOWN, OWN = "unknown", "your own files"


def licences_of(datasets: Sequence[Dataset], token: Token = None) -> Mapping[str, str]:
    """The licence of each data set, by its path: from its card on the Hub."""
    return {dataset.path: _licence(dataset.path, token) for dataset in datasets}


def _licence(path: str, token: Token) -> str:
    if path == PYTHON_TOPICS:
        return "psf-2.0"
    if path.count("/") != 1 or path.endswith((".txt", ".md", ".jsonl")):
        return OWN
    from huggingface_hub import HfApi

    try:
        card = HfApi(token=current_token(token)).dataset_info(path, timeout=10).card_data
    except Exception:  # whatever prevents it, the run needs no licence
        return UNKNOWN
    return str((card and card.get("license")) or UNKNOWN)
