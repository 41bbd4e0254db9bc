"""Perplexity: how surprised a model is by a text, per token, per byte and per character."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from evaluation.error import Cancelled, EvaluationError, OtherSliceError, memory_named
from evaluation.model import LanguageModel

_Result = TypeVar("_Result")
# Longer windows cost more for each token (attention grows with them) and seldom change which model is better.
_LONGEST_CONTEXT = 2048
# Tokens that go through the model at once. A CPU is busy with one window; a GPU wants several. On a CPU, larger
# tensors than these come from the system anew each time, and its page faults took a tenth of the CPU time.
_BATCH_TOKENS = {"cpu": 512, "cuda": 32768}
# float32 logits that exist at once in a worker, in bytes.
_LOGIT_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}
# Batches that a CPU works on at the same time, each with its part of the threads: threads inside one operator wait for
# each other at its end, on a busy machine most of their time. Each batch needs memory of its own.
_WORKERS = 4
# What the threads inside one operator get done, against the same threads with a batch each.
_WITHIN = 0.85


@dataclass(frozen=True)
class DocumentScore:
    """One document's part of a perplexity, for paired comparisons of models on the same texts.

    Attributes:
        nats: summed negative log-likelihood.
        tokens: tokens scored.
        bytes: UTF-8 bytes of the text that these tokens make up.
        characters: its Unicode code points.
        start: where in the document the scored text begins, in characters; above 0 without BOS.
        token_nats: (tokens,) float32, the same for each token.
        token_ends: (tokens,) int32, where in the document each token ends, in characters; tokens that share a
            character end there together. Empty for a tokenizer that does not know.
    """

    nats: float
    tokens: int
    bytes: int
    characters: int
    start: int = 0
    token_nats: NDArray[np.float32] = field(
        default_factory=lambda: np.empty(0, np.float32), repr=False, compare=False
    )
    token_ends: NDArray[np.int32] = field(
        default_factory=lambda: np.empty(0, np.int32), repr=False, compare=False
    )


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts some texts, and exactly how that was measured.

    Perplexities compare models that share a tokenizer; across tokenizers compare bits per byte.

    Attributes:
        model: the model's name.
        commit: its commit on the Hub, None for a folder.
        perplexity: exp(nll_nats / tokens), weighted by tokens over all documents.
        nll_nats: summed negative log-likelihood, natural logarithm.
        tokens: tokens scored. Without BOS the first token of each document has nothing before it and is not
            scored.
        bytes: UTF-8 bytes of the text that these tokens make up.
        characters: its Unicode code points.
        bits_per_byte: nll_nats / ln 2 / bytes.
        bits_per_character: nll_nats / ln 2 / characters.
        context: tokens in a full window.
        stride: tokens from a window to the next; each scores the last `stride` of its tokens, the first all.
        bos: whether a BOS token stood before each document.
        dtype: what the model computed in.
        seconds: how long it took.
        documents: the same per document, in the order given.
    """

    model: str
    commit: str | None
    perplexity: float
    nll_nats: float
    tokens: int
    bytes: int
    characters: int
    bits_per_byte: float
    bits_per_character: float
    context: int
    stride: int
    bos: bool
    dtype: str
    seconds: float
    documents: tuple[DocumentScore, ...]

    @property
    def tokens_per_second(self) -> float:
        """Tokens scored per second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All but the documents, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "documents"}


@dataclass(frozen=True)
class Unfinished:
    """A perplexity that is computed in several slices, such as the GPU calls that a Space may make; pickles.

    Attributes:
        key: of model, settings and texts; a slice goes on with no others.
        nats: (tokens,) float32 for each document; what is not scored yet is undefined.
        batches: that are done.
        tokens: that are scored.
        tokens_in_all: that will be.
        seconds: spent so far.
    """

    key: str
    nats: tuple[NDArray[np.float32], ...] = field(repr=False)
    batches: int
    tokens: int
    tokens_in_all: int
    seconds: float


def perplexity(
    model: LanguageModel,
    texts: str | Iterable[str],
    *,
    context: int | None = None,
    stride: int | None = None,
    bos: bool | None = None,
    batch_tokens: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> Perplexity:
    """Score texts with a sliding window.

        perplexity(model, ["First document.", "Second document."]).perplexity

    Each document is read on its own. Its first window scores up to `context` tokens; each next one scores the
    following `stride` tokens with as many tokens before them as fill the context. With `stride=context` and
    a BOS this is the rolling log-likelihood of lm-eval.

    Memory is bounded by a batch; what stays of a text is 12 bytes a token.

    Args:
        model: the model.
        texts: one document or several, read one after the other.
        context: tokens in a window; None for what the model can read, at most 2048.
        stride: tokens from a window to the next, from 1 to `context`; None for half of it. Smaller is slower
            and gives every token more to go by.
        bos: whether each document starts with the model's BOS token (EOS for a model without one); None for
            the tokenizer's own rule.
        batch_tokens: tokens that go through the model at once, as long as a GPU's memory holds them; None for what
            suits the device. No result depends on it.
        on_progress: called with the tokens scored so far and the tokens in all.
        cancel: when set, the work ends after the batch at hand.

    Raises:
        EvaluationError: there is nothing to score, a setting is out of range, or the model fails.
        Cancelled: `cancel` was set.
    """
    found = perplexity_slice(
        model,
        texts,
        seconds=None,
        context=context,
        stride=stride,
        bos=bos,
        batch_tokens=batch_tokens,
        on_progress=on_progress,
        cancel=cancel,
    )
    assert isinstance(found, Perplexity)
    return found


def perplexity_slice(
    model: LanguageModel,
    texts: str | Iterable[str],
    *,
    seconds: float | None,
    unfinished: Unfinished | None = None,
    context: int | None = None,
    stride: int | None = None,
    bos: bool | None = None,
    batch_tokens: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> Perplexity | Unfinished:
    """Score texts for a while, and go on later, in another process too; the sum has the bits of `perplexity`.

        found = perplexity_slice(model, texts, seconds=20)
        while isinstance(found, Unfinished):
            found = perplexity_slice(model, texts, seconds=20, unfinished=found)

    Args:
        model: as for `perplexity`; the same in each slice, like the texts and the other settings.
        texts: as for `perplexity`.
        seconds: after which no further batch is begun; at least one is scored. None for no end.
        unfinished: what the slice before returned; None for the first.
        context: as for `perplexity`.
        stride: as for `perplexity`.
        bos: as for `perplexity`.
        batch_tokens: as for `perplexity`.
        on_progress: as for `perplexity`.
        cancel: as for `perplexity`.

    Raises:
        EvaluationError: as for `perplexity`.
        OtherSliceError: `unfinished` is of another model, text or setting, or of one that computed in another dtype.
        Cancelled: `cancel` was set.
    """
    started = time.perf_counter()
    longest = model.context
    context = min(longest, _LONGEST_CONTEXT) if context is None else context
    if not 1 <= context <= longest:
        raise EvaluationError(
            f"context={context}: expected 1 to {longest}, which is what {model.name} can read."
        )
    stride = max(context // 2, 1) if stride is None else stride
    if not 1 <= stride <= context:
        raise EvaluationError(f"stride={stride}: expected 1 to the context, {context}.")
    prefix = _prefix(model, bos)
    documents = []
    for text in [texts] if isinstance(texts, str) else texts:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        documents.append(_Document.read(model, text, prefix))
    total = sum(document.targets for document in documents)
    if not any(document.bytes for document in documents):
        raise EvaluationError(
            f"There is nothing to score: {len(documents)} text(s) with"
            f" {sum(document.start + document.characters for document in documents)} character(s). Expected a"
            " text of at least two tokens; a few hundred words tell more."
        )
    batch_tokens = batch_tokens or _BATCH_TOKENS[model.device]
    key = _key(model, documents, context, stride, batch_tokens)
    if unfinished is not None and unfinished.key != key:
        raise OtherSliceError(
            f"{model.name}: the slice to go on with is of another model, text or setting. Begin anew."
        )
    nats = (
        [torch.empty(document.targets) for document in documents]
        if unfinished is None
        else [torch.from_numpy(part.copy()) for part in unfinished.nats]
    )
    windows = [
        window
        for number, document in enumerate(documents)
        for window in _windows(number, document, context, stride)
    ]
    done, before, skipped = (
        (unfinished.tokens, unfinished.seconds, unfinished.batches) if unfinished else (0, 0.0, 0)
    )
    score = _scorer(model)
    batches = list(_batches(windows, batch_tokens))

    def scored_windows(batch: Sequence[_Window]) -> torch.Tensor:
        tokens = [documents[window.document].tokens[window.start : window.end + 1] for window in batch]
        try:
            return score(tokens, [window.scored for window in batch])
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        # Out of the `except`, whose traceback holds the tensors.
        half = len(batch) // 2
        return torch.cat([scored_windows(batch[:half]), scored_windows(batch[half:])])

    def scored_batch(batch: Sequence[_Window]) -> tuple[Sequence[_Window], torch.Tensor]:
        with memory_named(model.name, "scoring"):
            return batch, scored_windows(batch)

    def begun() -> Iterator[Sequence[_Window]]:
        for number, batch in enumerate(batches[skipped:]):
            if number and seconds is not None and time.perf_counter() - started >= seconds:
                return
            if cancel is not None and cancel.is_set():
                raise Cancelled
            yield batch

    # Of all batches, not of those that are left: the threads of an operator decide the last bits of its result.
    shares = model.device == "cpu" and not model.offloaded
    workers = min(_WORKERS, torch.get_num_threads(), len(batches)) if shares else 1
    together = _together([sum(window.end - window.start for window in batch) for batch in batches], workers)
    finished = skipped
    with closing(_in_order(scored_batch, begun(), workers, max(together - skipped, 0))) as results:
        for batch, scored in results:
            parts = torch.split(scored, [window.scored for window in batch])
            for window, part in zip(batch, parts, strict=True):
                nats[window.document][window.end - window.scored : window.end] = part
            finished += 1
            done += len(scored)
            if on_progress is not None:
                on_progress(done, total)
    spent = before + time.perf_counter() - started
    if finished < len(batches):
        return Unfinished(key, tuple(part.numpy() for part in nats), finished, done, total, spent)
    scores = tuple(
        DocumentScore(
            float(part.double().sum()),
            document.targets,
            document.bytes,
            document.characters,
            document.start,
            part.numpy(),
            document.ends,
        )
        for document, part in zip(documents, nats, strict=True)
    )
    return _sum(model, scores, context, stride, prefix is not None, spent)


def _together(costs: Sequence[float], workers: int) -> int:
    """How many of the batches are best worked on as many at a time as there are workers, each taken by the first that
    is free; all others come after them, one at a time with all threads. Three equal batches for two workers: two.

    Args:
        costs: of the batches, in their order
    """
    busy_until = [0.0] * workers
    alone = sum(costs) / (workers * _WITHIN)
    best = (alone, 0)
    for number, cost in enumerate(costs, 1):
        heapq.heapreplace(busy_until, busy_until[0] + cost)
        alone -= cost / (workers * _WITHIN)
        best = min(best, (max(busy_until) + alone, number))
    return best[1]


def _in_order(
    work: Callable[[Sequence[_Window]], _Result],
    batches: Iterator[Sequence[_Window]],
    workers: int,
    together: int,
) -> Generator[_Result, None, None]:
    """The work's results in the order of the batches, of the first of which as many as there are workers are under
    way, see `_together`."""
    if workers > 1 and together:
        threads = torch.get_num_threads()
        each = (threads // workers,)
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=each) as pool:
            first = itertools.islice(batches, together)
            under_way = deque(pool.submit(work, batch) for batch in itertools.islice(first, workers))
            try:
                while under_way:
                    result = under_way.popleft().result()
                    under_way.extend(pool.submit(work, batch) for batch in itertools.islice(first, 1))
                    # A worker's own number is also what threads elsewhere in this process would begin with.
                    torch.set_num_threads(threads)
                    yield result
            finally:
                pool.shutdown(cancel_futures=True)
                torch.set_num_threads(threads)
    yield from map(work, batches)


def _key(model: LanguageModel, documents: Sequence[_Document], *settings: int) -> str:
    digest = hashlib.sha256(repr((model.name, model.commit, model.dtype, *settings)).encode())
    for document in documents:
        digest.update(len(document.tokens).to_bytes(8, "little") + document.tokens.numpy().tobytes())
    return digest.hexdigest()


def _sum(
    model: LanguageModel,
    scores: tuple[DocumentScore, ...],
    context: int,
    stride: int,
    bos: bool,
    seconds: float,
) -> Perplexity:
    nats = math.fsum(score.nats for score in scores)
    if math.isnan(nats):
        raise EvaluationError(
            f"{model.name} answers with NaN on this text: its weights hold NaN or Inf, or are too large for"
            f" {model.dtype}. Merge it again with other parameters or in another dtype."
        )
    tokens = sum(score.tokens for score in scores)
    size = sum(score.bytes for score in scores)
    characters = sum(score.characters for score in scores)
    mean = nats / tokens
    return Perplexity(
        model=model.name,
        commit=model.commit,
        perplexity=exponential(mean),
        nll_nats=nats,
        tokens=tokens,
        bytes=size,
        characters=characters,
        bits_per_byte=nats / math.log(2) / size,
        bits_per_character=nats / math.log(2) / characters,
        context=context,
        stride=stride,
        bos=bos,
        dtype=model.dtype,
        seconds=seconds,
        documents=scores,
    )


def exponential(nats: float) -> float:
    """e to this power, infinite where no float holds it."""
    return math.exp(nats) if nats < 709 else math.inf


@dataclass(frozen=True)
class _Document:
    # (targets + 1,) int32: each token but the first is a target, all before it are its context
    tokens: torch.Tensor
    bytes: int
    characters: int
    start: int
    ends: NDArray[np.int32]

    @property
    def targets(self) -> int:
        return max(len(self.tokens) - 1, 0)

    @classmethod
    def read(cls, model: LanguageModel, text: str, prefix: int | None) -> _Document:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EvaluationError(
                f"The text has a broken character at position {error.start}. Expected valid Unicode (UTF-8)."
            ) from error
        fast = model.tokenizer.is_fast
        encoding = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
        ids = list(encoding["input_ids"])
        model.check_tokens(ids)
        # Tokens of one character may come in any order of their bytes; an end never lies before another.
        ends = np.asarray([end for _, end in encoding["offset_mapping"]] if fast else [], np.int32)
        ends = np.maximum.accumulate(ends) if len(ends) else ends
        start = 0
        if prefix is not None:
            ids = [prefix, *ids]
        elif ids:
            # The first token is not scored, so what it stands for must not count as predicted text.
            start = int(ends[0]) if fast else len(model.tokenizer.decode(ids[:1]))
            ends = ends[1:]
        scored = text[start:] if ids else ""
        return cls(torch.tensor(ids, dtype=torch.int32), len(scored.encode()), len(scored), start, ends)


@dataclass(frozen=True)
class _Window:
    """Tokens `start` up to `end` go in, and each predicts the next one; the last `scored` of these count."""

    document: int
    start: int
    end: int
    scored: int


def _windows(number: int, document: _Document, context: int, stride: int) -> Iterator[_Window]:
    done = 0
    while done < document.targets:
        end = min(done + (stride if done else context), document.targets)
        yield _Window(number, max(end - context, 0), end, end - done)
        done = end


def _batches(windows: Sequence[_Window], batch_tokens: int) -> Iterator[list[_Window]]:
    """Group windows of like length, the longest first: what needs most memory is tried at once."""
    batch: list[_Window] = []
    for window in sorted(windows, key=lambda window: window.start - window.end):
        if batch and (len(batch) + 1) * (batch[0].end - batch[0].start) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _prefix(model: LanguageModel, bos: bool | None) -> int | None:
    if not (model.starts_with_bos if bos is None else bos):
        return None
    tokenizer = model.tokenizer
    prefix: int | None = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if prefix is None:
        raise EvaluationError(f"bos=True: {model.name} has neither a BOS nor an EOS token. Leave it out.")
    return prefix


_Scorer = Callable[[Sequence[torch.Tensor], Sequence[int]], torch.Tensor]


def _scorer(model: LanguageModel) -> _Scorer:
    """Make the function that runs a batch through the model.

    Logits are what takes memory: context x vocabulary numbers a window. So the head is applied to a few
    positions at a time, if the model's logits are no more than its head on its hidden states; some
    architectures scale or cap them behind the head, which a short trial shows, and then they are made as the
    model makes them, a window at a time.
    """
    network = model.network
    head = network.get_output_embeddings()
    body = network.base_model

    @torch.inference_mode()
    def hidden_states(tokens: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = body(input_ids=tokens, use_cache=False).last_hidden_state
        return hidden

    @torch.inference_mode()
    def logits(tokens: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = network(input_ids=tokens, use_cache=False).logits
        return made

    @torch.inference_mode()
    def score(texts: Sequence[torch.Tensor], scored: Sequence[int]) -> torch.Tensor:
        """Nats of the last `scored` tokens of each text, one after the other, on the CPU in float32."""
        width = max(len(text) for text in texts) - 1
        tokens = torch.zeros((len(texts), width), dtype=torch.int64)
        for row, text in enumerate(texts):
            tokens[row, : len(text) - 1] = text[:-1]
        # Padding stands to the right, where a causal model cannot look; it needs no mask.
        rows = (hidden_states if plain_head else logits)(tokens.to(model.device))
        wanted = list(zip(rows, texts, scored, strict=True))
        states = torch.cat([row[len(text) - 1 - n : len(text) - 1] for row, text, n in wanted])
        targets = torch.cat([text[len(text) - n :] for _, text, n in wanted]).long().to(model.device)
        nats = [
            functional.cross_entropy((head(part) if plain_head else part).float(), target, reduction="none")
            for part, target in zip(torch.split(states, at_once), torch.split(targets, at_once), strict=True)
        ]
        return torch.cat(nats).cpu()

    trial = torch.tensor([[0, 1, 2, 3]], device=model.device)
    with torch.inference_mode():
        whole = logits(trial)
        try:
            plain_head = torch.equal(head(hidden_states(trial)), whole)
        except (AttributeError, TypeError, RuntimeError):  # no such head, or a body of another kind
            plain_head = False
    at_once = max(1, _LOGIT_BYTES[model.device] // (whole.shape[-1] * 4))
    return score
