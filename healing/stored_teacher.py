"""A teacher's likeliest predictions, stored once, so that it need not run beside its student."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from evaluation import Cancelled, LanguageModel
from evaluation.error import memory_named
from evaluation.perplexity import Logits
from healing.training import write_whole

# Tokens are stored in two bytes where all of a vocabulary fit into them.
_NARROW = 2**16


@dataclass(frozen=True)
class StoredTeacher:
    """For each position of some sequences the likeliest tokens and their log-probabilities.

    Args:
        path: of the file: `tokens` and `likely` of (n, length, k), and the number of each sequence
        rows: where each sequence is in it, by its number
    """

    path: Path
    rows: dict[int, int]

    def read(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(m, k) int64 tokens and (m, k) float32 log-probabilities of all positions of the chosen sequences."""
        with safe_open(self.path, "pt") as file:
            tokens, likely = (
                torch.cat([file.get_slice(name)[row : row + 1] for row in map(self.rows.__getitem__, chosen)])
                for name in ("tokens", "likely")
            )
        return tokens.flatten(0, 1).long(), likely.flatten(0, 1).float()


@torch.no_grad()
def store(
    teacher: LanguageModel,
    windows: Tensor,
    chosen: Sequence[int],
    k: int,
    temperature: float,
    path: Path,
    key: str,
    cancel: threading.Event | None = None,
) -> StoredTeacher:
    """Let a teacher read sequences, and store its k likeliest tokens at each position, unless they are stored.

    Args:
        teacher: that is asked.
        windows: (n, length) int64, all sequences.
        chosen: numbers of those that are wanted.
        k: tokens at each position.
        temperature: by which logits are divided.
        path: of the file, which is written whole and then renamed.
        key: of the run.
        cancel: when set, nothing is stored.

    Raises:
        EvaluationError: the disk or the memory is full.
        Cancelled: `cancel` was set.
    """
    rows = {number: row for row, number in enumerate(chosen)}
    if path.exists():
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return StoredTeacher(path, rows)
    found: list[tuple[Tensor, Tensor]] = []
    for number in chosen:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        with memory_named(teacher.name, "doing-training"):
            found.append(_likeliest(teacher, windows[number], k, temperature))
    tokens, likely = (torch.stack(parts) for parts in zip(*found, strict=True))
    write_whole(path, {"tokens": tokens, "likely": likely}, {"key": key})
    return StoredTeacher(path, rows)


def _likeliest(teacher: LanguageModel, ids: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """(length, k) tokens and float16 log-probabilities."""
    logits = teacher.network(input_ids=ids[None].to(teacher.device), use_cache=False).logits[0]
    parts = [
        functional.log_softmax(part.float() / temperature, dim=-1).topk(min(k, logits.shape[-1]))
        for part in torch.split(logits, Logits.of(teacher).at_once)
    ]
    narrow = torch.uint16 if logits.shape[-1] <= _NARROW else torch.int32
    tokens = torch.cat([part.indices for part in parts]).to(narrow)
    return tokens.cpu(), torch.cat([part.values for part in parts]).to(torch.float16).cpu()
