"""How far a GGUF file's predictions are from those of the model that it was made of, in llama.cpp itself."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.problems import Cancelled, Problem
from evaluation.error import EvaluationError
from evaluation.jackknife import estimate_ratio
from evaluation.llama_model import gguf_process, has_llama_cpp
from evaluation.model import LanguageModel
from evaluation.perplexity import exponential

# Tokens that are read at once, and at most of all texts: their logits are held.
WINDOW, MOST_TOKENS = 256, 4096
# Of a text's last window there may be few tokens; fewer than these say little.
_FEWEST = 16


@dataclass(frozen=True)
class Divergence:
    """How a GGUF file's predictions differ from its original's, on the same tokens.

    Attributes:
        file: its name.
        other: the original, in transformers.
        tokens: after which predictions were compared.
        kl: mean Kullback-Leibler divergence of the file's predictions from the original's, in nats a token.
        interval: its 95 % interval over windows of text; None with too little text for one.
        same_top: share of tokens after which both hold the same token for the likeliest.
        perplexity: of the file.
        other_perplexity: of the original, on the same tokens.
    """

    file: str
    other: str
    tokens: int
    kl: float
    interval: tuple[float, float] | None
    same_top: float
    perplexity: float
    other_perplexity: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def divergence(
    file: Path,
    original: LanguageModel,
    texts: Sequence[str],
    *,
    most_tokens: int = MOST_TOKENS,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> Divergence:
    """Compare a GGUF file with the model that it was made of.

    Args:
        file: of llama.cpp
        original: the model, in float32 if its numbers are to count as they are
        texts: that both read, in windows of 256 tokens
        most_tokens: to read
        on_progress: called with windows done and windows
        cancel: set it from another thread to stop

    Raises:
        EvaluationError: llama.cpp is not installed or cannot run the file, the vocabularies differ in size, or there is
            no text.
        Cancelled: `cancel` was set.
    """
    if not has_llama_cpp():
        raise EvaluationError(Problem("no-llama-cpp", {"model": file.name}))
    windows = list(_windows(original, texts, most_tokens))
    if not windows:
        raise EvaluationError(Problem("no-common-text", {"model": file.name, "other": original.name}))
    rows = []
    with _decoder(file) as decoder:
        for done, tokens in enumerate(windows):
            if cancel and cancel.is_set():
                raise Cancelled
            if on_progress:
                on_progress(done, len(windows))
            rows.append(_compared(file, original, tokens, decoder(tokens)))
    return _summed(file, original, np.array(rows))


def markdown(found: Sequence[Divergence], source: str) -> str:
    """A section of a model card.

    Args:
        found: of the files, of one original
        source: what text was read
    """
    rows = [
        f"| `{one.file}` | {one.kl:.4f}{_interval(one)} | {one.same_top:.1%} | {one.perplexity:.2f} |"
        for one in found
    ]
    first = found[0]
    said = (
        f"llama.cpp beside transformers in float32 ({_name(first.other)}, perplexity {first.other_perplexity:.2f}), "
        f"after {first.tokens:,} tokens of {source}: mean Kullback-Leibler divergence in nats a token, and how often "
        "both hold the same token for the likeliest."
    )
    head = ["| file | divergence | same top token | perplexity |", "|---|--:|--:|--:|"]
    return "\n".join(["### Divergence from the original", "", said, "", *head, *rows, ""])


def _name(model: str) -> str:
    """What a card calls a model: a folder by its last name."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def _interval(one: Divergence) -> str:
    return f" ({one.interval[0]:.4f} to {one.interval[1]:.4f})" if one.interval else ""


def _windows(original: LanguageModel, texts: Sequence[str], most: int) -> Iterator[list[int]]:
    """Pieces of the texts, each a list of tokens; as many of each text as there is room for."""
    share = max(most // max(len(texts), 1), WINDOW)
    left = most
    for text in texts:
        tokens = original.tokens(text, begins=True)[: min(share, left)]
        for start in range(0, len(tokens), WINDOW):
            window = tokens[start : start + WINDOW]
            if len(window) >= _FEWEST:
                left -= len(window)
                yield window


def _compared(
    file: Path, original: LanguageModel, tokens: Sequence[int], theirs: NDArray[np.float32]
) -> tuple[float, ...]:
    """Sums over a window: divergence, equal top tokens, nats of the file and of the original; and how many of each."""
    with torch.inference_mode():
        given = torch.tensor([tokens], device=original.device)
        logits = original.network(input_ids=given, use_cache=False).logits[0].float().cpu()
        if logits.shape[-1] != theirs.shape[-1]:
            values = {
                "file": file.name,
                "model": original.name,
                "count": theirs.shape[-1],
                "other": logits.shape[-1],
            }
            raise EvaluationError(Problem("other-vocabulary", values))
        own, quantized = logits.log_softmax(-1), torch.from_numpy(theirs).log_softmax(-1)
        apart = (own.exp() * (own - quantized)).sum(-1)
        same = own.argmax(-1) == quantized.argmax(-1)
        following = given[0, 1:].cpu()[:, None]
        nats = [-one[:-1].gather(-1, following).sum() for one in (quantized, own)]
    return float(apart.sum()), float(same.sum()), *map(float, nats), len(tokens), len(tokens) - 1


def _summed(file: Path, original: LanguageModel, rows: NDArray[np.float64]) -> Divergence:
    kl = estimate_ratio(rows[:, 0], rows[:, 4])
    total = rows.sum(0)
    return Divergence(
        file.name,
        original.name,
        int(total[4]),
        kl.value,
        kl.interval,
        float(total[1] / total[4]),
        exponential(float(total[2] / total[5])),
        exponential(float(total[3] / total[5])),
    )


@contextmanager
def _decoder(file: Path) -> Iterator[Callable[[Sequence[int]], NDArray[np.float32]]]:
    """What computes the logits after each of some tokens, (n, vocabulary), in a process of its own.

    Raises:
        EvaluationError: llama.cpp cannot run the file, or ends.
    """
    with tempfile.TemporaryDirectory(prefix="alloy-llama-") as folder, file.open("rb") as opened:
        settings: Mapping[str, Any] = {"folder": folder, "context": WINDOW}
        process = gguf_process(
            "evaluation.llama_decoder", opened.fileno(), settings, stderr=subprocess.DEVNULL
        )
        try:
            assert process.stdin and process.stdout
            stdin, stdout = process.stdin, process.stdout
            line = stdout.readline()
            if not line.endswith(b"\n"):
                raise EvaluationError(Problem("llama-ended", {"model": file.name}))
            vocabulary = int(line)

            def logits(tokens: Sequence[int]) -> NDArray[np.float32]:
                found = b""
                try:
                    stdin.write(json.dumps(list(tokens)).encode() + b"\n")
                    stdin.flush()
                    found = stdout.read(4 * len(tokens) * vocabulary)
                except OSError:
                    pass
                if len(found) < 4 * len(tokens) * vocabulary:
                    raise EvaluationError(Problem("llama-ended", {"model": file.name}))
                return np.frombuffer(bytearray(found), np.float32).reshape(len(tokens), vocabulary)

            yield logits
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
