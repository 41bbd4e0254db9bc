"""Perplexity: how surprised a model is by a text, per token, per byte and per character."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from checkpoints.problems import Cancelled, Problem
from evaluation.error import EvaluationError, OtherSliceError, memory_named
from evaluation.model import LanguageModel

# Longer windows cost more per token (attention grows with them) and seldom change which model is better.
_LONGEST_CONTEXT = 2048
# Tokens that go through the model at once. A CPU is busy with one window; a GPU wants several. On a CPU, tensors larger
# than these come from the system each time, and its page faults took a tenth of the CPU time.
_BATCH_TOKENS = {"cpu": 512, "cuda": 32768}
# Text of a token, in bytes; of most tokenizers and languages it is longer.
_BYTES_OF_A_TOKEN = 3
# Bytes of float32 logits that exist at once.
_LOGIT_BYTES = {"cpu": 32 << 20, "cuda": 512 << 20}
# Four bytes of UTF-8, or twice as many where a tokenizer decomposes it.
_MOST_TOKENS_OF_A_CHARACTER = 8


@dataclass(frozen=True)
class DocumentScore:
    """One document's part of a perplexity, for paired comparisons of models on the same texts.

    Attributes:
        nats: summed negative log-likelihood of the scored tokens.
        tokens: number of scored tokens.
        bytes: UTF-8 bytes of the text that exactly these tokens make up.
        characters: its Unicode code points.
        start: where the scored text begins in the document, in characters; above 0 without BOS.
        token_nats: (tokens,) float32, nats of each token.
        token_ends: (tokens,) int32, where the text of each token ends, in characters; tokens that share a character
            end together behind it. All are the document's end for a tokenizer without offsets.
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
        nll_nats: summed negative log-likelihood of the scored tokens, natural logarithm.
        tokens: number of scored tokens. Without BOS the first token of a document has nothing before it and is given,
            with the tokens that complete its last character, if it ends within one.
        bytes: UTF-8 bytes of the text that exactly these tokens make up.
        characters: its Unicode code points.
        bits_per_byte: nll_nats / ln 2 / bytes.
        bits_per_character: nll_nats / ln 2 / characters.
        context: tokens in a full window.
        stride: tokens from one window to the next; a window scores its last `stride` tokens, the first window all.
        bos: whether a BOS token precedes each document.
        dtype: what the model computes in.
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
    """A perplexity that is computed in several slices, such as the GPU calls of a Space. Can be pickled.

    Attributes:
        key: digest of model, settings and texts; only a slice of the same key continues.
        nats: (tokens,) float32 for each distinct document; undefined where not scored yet.
        batches: batches done.
        tokens: tokens scored.
        tokens_in_all: tokens to score.
        seconds: time spent so far.
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

    Each document is read on its own. Its first window scores up to `context` tokens; each following window scores the
    next `stride` tokens, with as many tokens before them as fill the context.

    With `bos=True` and `stride=context`, a document's log-likelihood equals that of lm-eval's `loglikelihood_rolling`
    (lm-eval 0.4.13) for every tokenizer that does not add BOS itself. For tokenizers that do (Llama, Mistral, Gemma),
    lm-eval by default scores a second BOS between its own and the text; with `add_bos_token=False` the two are equal.

    Memory is bounded by a batch; 12 bytes per token remain.

    >>> perplexity(model, ["Some text.", "More of it."]).perplexity  # doctest: +SKIP

    Args:
        model: the model.
        texts: one document or several. The same document given twice is scored once, and counts twice.
        context: tokens in a window; None for what the model can read, up to 2048.
        stride: tokens from one window to the next, 1 to `context`; None for half of it. A smaller stride is slower and
            gives each token more context.
        bos: whether each document starts with the model's BOS token (EOS for a model without one); None for the
            tokenizer's own rule.
        batch_tokens: tokens that go through the model at once; halved when a GPU's memory cannot hold them. None for
            the device's default. No result depends on it.
        on_progress: called with the tokens scored so far and the tokens to score.
        cancel: when set, the work ends after the current batch.

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
    """Score texts for some time and continue later, in another process too; the result has the bits of `perplexity`.

        found = perplexity_slice(model, texts, seconds=20)
        while isinstance(found, Unfinished):
            found = perplexity_slice(model, texts, seconds=20, unfinished=found)

    >>> unfinished = perplexity_slice(model, texts, seconds=50)  # doctest: +SKIP

    Args:
        model: as for `perplexity`; the same in each slice, like the texts and all other settings.
        texts: as for `perplexity`.
        seconds: after this time no further batch begins; at least one is scored. None for no limit.
        unfinished: what the previous slice returned; None for the first.
        context: as for `perplexity`.
        stride: as for `perplexity`.
        bos: as for `perplexity`.
        batch_tokens: as for `perplexity`.
        on_progress: as for `perplexity`.
        cancel: as for `perplexity`.

    Raises:
        EvaluationError: as for `perplexity`.
        OtherSliceError: `unfinished` is of another model, text or setting, or was computed in another dtype.
        Cancelled: `cancel` was set.
    """
    started = time.perf_counter()
    work = ScoringPlan.planned(model, texts, context, stride, bos, batch_tokens, cancel)
    state = work.begin() if unfinished is None else work.resume(unfinished)
    nats = [torch.from_numpy(part) for part in state.nats]
    finished, done = state.batches, state.tokens
    score = _scorer(model)
    for batch in work.batches[state.batches :]:
        if finished > state.batches and seconds is not None and time.perf_counter() - started >= seconds:
            break
        if cancel is not None and cancel.is_set():
            raise Cancelled
        with memory_named(model.name, "doing-scoring"):
            scored = _scored(batch, work.documents, score)
        for window, part in zip(batch, torch.split(scored, [window.scored for window in batch]), strict=True):
            end = window.end - work.documents[window.document].given
            nats[window.document][end - window.scored : end] = part
        finished += 1
        done += len(scored)
        if on_progress is not None:
            on_progress(done, work.tokens)
    spent = state.seconds + time.perf_counter() - started
    state = replace(state, batches=finished, tokens=done, seconds=spent)
    return state if finished < len(work.batches) else work.finish(state)


@dataclass(frozen=True)
class ScoringPlan:
    """All that is to be scored, and how.

    Attributes:
        documents: the distinct ones.
        order: for each text that was given, which of them it is.
        batches: windows that go through the model together; see `tokens_of`.
        key: digest of all this and of the model.
    """

    model: LanguageModel
    documents: tuple[_Document, ...]
    order: tuple[int, ...]
    batches: tuple[Sequence[_Window], ...]
    context: int
    stride: int
    bos: bool
    key: str

    @classmethod
    def planned(
        cls,
        model: LanguageModel,
        texts: str | Iterable[str],
        context: int | None,
        stride: int | None,
        bos: bool | None,
        batch_tokens: int | None,
        cancel: threading.Event | None,
    ) -> ScoringPlan:
        """Read the texts, and cut them into windows. Arguments and errors as for `perplexity`."""
        context, stride = _context_and_stride(model, context, stride)
        prefix = _prefix(model, bos)
        documents, order = _read(model, texts, prefix, cancel)
        batch_tokens = batch_tokens or _BATCH_TOKENS[model.device]
        windows = [
            window
            for number, document in enumerate(documents)
            for window in _windows(number, document, context, stride)
        ]
        key = _key(model, documents, order, context, stride, batch_tokens)
        batches = tuple(_batches(windows, batch_tokens))
        return cls(model, documents, order, batches, context, stride, prefix is not None, key)

    @property
    def tokens(self) -> int:
        """Tokens to score."""
        return sum(document.tokens for document in self.documents)

    def tokens_of(self, window: _Window) -> torch.Tensor:
        """(n + 1,) int32: each token of a window but the last predicts the next; the last `scored` of these count."""
        return self.documents[window.document].ids[window.start : window.end + 1]

    def begin(self) -> Unfinished:
        """The state in which nothing is scored."""
        nats = tuple(np.empty(document.tokens, np.float32) for document in self.documents)
        return Unfinished(self.key, nats, 0, 0, self.tokens, 0.0)

    def resume(self, unfinished: Unfinished) -> Unfinished:
        """A copy of what the previous slice returned, which stays as it is.

        Raises:
            OtherSliceError: it is not of this work.
        """
        if unfinished.key != self.key:
            raise OtherSliceError(Problem("other-slice", {"model": self.model.name}))
        return replace(unfinished, nats=tuple(part.copy() for part in unfinished.nats))

    def finish(self, state: Unfinished) -> Perplexity:
        """What was found, once every batch is scored.

        Raises:
            EvaluationError: the model answers with NaN.
        """
        each = [document.score(nats) for document, nats in zip(self.documents, state.nats, strict=True)]
        scores = tuple(each[number] for number in self.order)
        nats = math.fsum(score.nats for score in scores)
        if math.isnan(nats):
            problem = Problem("nan-answers", {"model": self.model.name, "dtype": self.model.dtype})
            raise EvaluationError(problem)
        tokens = sum(score.tokens for score in scores)
        size = sum(score.bytes for score in scores)
        characters = sum(score.characters for score in scores)
        return Perplexity(
            model=self.model.name,
            commit=self.model.commit,
            perplexity=exponential(nats / tokens),
            nll_nats=nats,
            tokens=tokens,
            bytes=size,
            characters=characters,
            bits_per_byte=nats / math.log(2) / size,
            bits_per_character=nats / math.log(2) / characters,
            context=self.context,
            stride=self.stride,
            bos=self.bos,
            dtype=self.model.dtype,
            seconds=state.seconds,
            documents=scores,
        )


def _context_and_stride(model: LanguageModel, context: int | None, stride: int | None) -> tuple[int, int]:
    longest = model.context
    context = min(longest, _LONGEST_CONTEXT) if context is None else context
    if not 1 <= context <= longest:
        values = {"context": context, "most": longest, "model": model.name}
        raise EvaluationError(Problem("context-range", values))
    stride = max(context // 2, 1) if stride is None else stride
    if not 1 <= stride <= context:
        raise EvaluationError(Problem("stride-range", {"stride": stride, "context": context}))
    return context, stride


def _read(
    model: LanguageModel, texts: str | Iterable[str], prefix: int | None, cancel: threading.Event | None
) -> tuple[tuple[_Document, ...], tuple[int, ...]]:
    """The distinct documents, and for each text which of them it is."""
    documents: list[_Document] = []
    numbers: dict[bytes, int] = {}
    order = []
    for text in [texts] if isinstance(texts, str) else texts:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        _check_unicode(text)
        digest = hashlib.sha256(text.encode()).digest()
        if digest not in numbers:
            numbers[digest] = len(documents)
            documents.append(_Document.read(model, text, prefix))
        order.append(numbers[digest])
    if not any(document.bytes for document in documents):
        characters = sum(document.start + document.characters for document in documents)
        values = {"texts": len(order), "characters": characters}
        raise EvaluationError(Problem("nothing-to-score", values))
    return tuple(documents), tuple(order)


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EvaluationError(Problem("broken-character", {"position": error.start})) from error


def _key(model: LanguageModel, documents: Sequence[_Document], order: Sequence[int], *settings: int) -> str:
    digest = hashlib.sha256(repr((model.name, model.commit, model.dtype, order, *settings)).encode())
    for document in documents:
        digest.update(len(document.ids).to_bytes(8, "little") + document.ids.numpy().tobytes())
    return digest.hexdigest()


def exponential(nats: float) -> float:
    """e to this power, infinite where no float holds it."""
    return math.exp(nats) if nats < 709 else math.inf


@dataclass(frozen=True)
class _Document:
    """One document's tokens.

    Attributes:
        ids: (targets + 1,) int32; each token but the first is a target, with all tokens before it as context.
        given: targets that are context only: they complete the first token's last character.
        start: where the scored text begins, in characters.
        ends: (targets - given,) int32, see `DocumentScore.token_ends`.
        bytes: of the scored text, as UTF-8.
        characters: of the scored text.
    """

    ids: torch.Tensor
    given: int
    start: int
    ends: NDArray[np.int32]
    bytes: int
    characters: int

    @property
    def targets(self) -> int:
        return max(len(self.ids) - 1, 0)

    @property
    def tokens(self) -> int:
        """Tokens to score."""
        return self.targets - self.given

    @classmethod
    def read(cls, model: LanguageModel, text: str, prefix: int | None) -> _Document:
        """Tokenize a text, behind the token `prefix` if there is one.

        Raises:
            EvaluationError: the model has no embedding for a token.
        """
        fast = model.tokenizer.is_fast
        encoding = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
        ids = list(encoding["input_ids"])
        model.check_tokens(ids)
        ends = (
            _ends(encoding["offset_mapping"]) if fast else _ends_without_offsets(model.tokenizer, ids, text)
        )
        start = given = 0
        if prefix is not None:
            ids = [prefix, *ids]
        elif ids:
            # The first token is given. So is what completes its last character: its bytes are not all scored.
            start = int(ends[0])
            given = int(np.searchsorted(ends, start, side="right")) - 1
            ends = ends[given + 1 :]
        scored = text[start : int(ends[-1])] if len(ends) else ""
        tokens = torch.tensor(ids, dtype=torch.int32)
        return cls(tokens, given, start, ends, len(scored.encode()), len(scored))

    def score(self, nats: NDArray[np.float32]) -> DocumentScore:
        """Its part of the result.

        Args:
            nats: (tokens,) float32.
        """
        total = float(nats.sum(dtype=np.float64))
        return DocumentScore(total, self.tokens, self.bytes, self.characters, self.start, nats, self.ends)


def _ends(offsets: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    """Where the text of each token ends, in characters, see `DocumentScore.token_ends`.

    Bytes of one character may be tokens in any order, and a token may hold the last bytes of one character and the
    first of another. Text ends where no later token begins before the end of an earlier one.
    """
    if not len(offsets):
        return np.empty(0, np.int32)
    begins, ends = np.asarray(offsets, np.int32).T
    reached = np.maximum.accumulate(ends)
    begins = np.where(begins < ends, begins, reached[-1])  # tokens without text cut nothing
    later = np.append(np.minimum.accumulate(begins[::-1])[::-1][1:], reached[-1])
    whole = np.where(reached <= later, reached, reached[-1])
    together: NDArray[np.int32] = np.minimum.accumulate(whole[::-1])[::-1].astype(np.int32)
    return together


def _ends_without_offsets(tokenizer: Any, ids: Sequence[int], text: str) -> NDArray[np.int32]:
    """The first token's end as far as decoding shows it, and the document's end for all others."""
    ends = np.full(len(ids), len(text), np.int32)
    indent = len(text) - len(text.lstrip())
    for count in range(1, min(len(ids), _MOST_TOKENS_OF_A_CHARACTER + 1)):
        first = tokenizer.decode(ids[:count]).strip()
        if first and text[indent:].startswith(first):
            ends[:count] = indent + len(first)
            break
    return ends


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
        scored = end - max(done, document.given)
        if scored > 0:
            yield _Window(number, max(end - context, 0), end, scored)
        done = end


def _batches(windows: Sequence[_Window], batch_tokens: int) -> Iterator[list[_Window]]:
    """Group windows of similar length, the longest first, so that the most memory is needed at once."""
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
        raise EvaluationError(Problem("no-bos", {"model": model.name}))
    return prefix


_Scorer = Callable[[Sequence[torch.Tensor], Sequence[int]], torch.Tensor]


def _scored(batch: Sequence[_Window], documents: Sequence[_Document], score: _Scorer) -> torch.Tensor:
    """Nats of a batch's scored tokens, one window after the other; in halves where a GPU's memory is too small."""
    try:
        ids = [documents[window.document].ids[window.start : window.end + 1] for window in batch]
        return score(ids, [window.scored for window in batch])
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # Out of the `except`, whose traceback holds the tensors.
    half = len(batch) // 2
    halves = (batch[:half], batch[half:])
    return torch.cat([_scored(part, documents, score) for part in halves])


def _scorer(model: LanguageModel) -> _Scorer:
    """Make the function that runs a batch through the model.

    Logits take the most memory: context x vocabulary numbers per window. So the head is applied to a few positions at
    a time, if the model's logits are nothing but its head on its hidden states. Some architectures scale or cap them
    behind the head; then logits are made by the model itself, a window at a time.
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
        """Nats of the last `scored` tokens of each text, (sum of scored,) float32 on the CPU."""
        width = max(len(text) for text in texts) - 1
        tokens = torch.zeros((len(texts), width), dtype=torch.int64)
        for row, text in enumerate(texts):
            tokens[row, : len(text) - 1] = text[:-1]
        # Padding is to the right, where a causal model cannot look, so it needs no mask.
        rows = (hidden_states if plain_head else logits)(tokens.to(model.device))
        wanted = list(zip(rows, texts, scored, strict=True))
        states = torch.cat([row[len(text) - 1 - n : len(text) - 1] for row, text, n in wanted])
        targets = torch.cat([text[len(text) - n :] for _, text, n in wanted]).long().to(model.device)
        nats = [
            functional.cross_entropy((head(part) if plain_head else part).float(), target, reduction="none")
            for part, target in zip(torch.split(states, at_once), torch.split(targets, at_once), strict=True)
        ]
        return torch.cat(nats).cpu()

    plain_head, at_once = Logits.of(model)
    return score


def largest_batch(documents: Iterable[str], device: str) -> int:
    """How many tokens go through a model together at most when documents are scored, about; no tokenizer is asked."""
    sizes = [len(document.encode(errors="replace")) // _BYTES_OF_A_TOKEN for document in documents]
    longest = min(max(sizes, default=0), _LONGEST_CONTEXT)
    return max(longest, min(sum(sizes), _BATCH_TOKENS[device]))


def held_by_logits(tokens: int, vocabulary: int, device: str) -> int:
    """Bytes of the float32 logits that exist at once, of a batch."""
    return min(4 * tokens * vocabulary, max(_LOGIT_BYTES[device], 4 * vocabulary))


class Logits(NamedTuple):
    """How a model's logits can be made in little memory.

    Attributes:
        plain_head: whether they are its head on its hidden states, with nothing behind it.
        at_once: for how many tokens to make them at a time.
    """

    plain_head: bool
    at_once: int

    @classmethod
    @torch.inference_mode()
    def of(cls, model: LanguageModel) -> Logits:
        """Find out, by a short trial."""
        network = model.network
        trial = torch.tensor([[0, 1, 2, 3]], device=model.device)
        whole = network(input_ids=trial, use_cache=False).logits
        try:
            hidden = network.base_model(input_ids=trial, use_cache=False).last_hidden_state
            plain_head = torch.equal(network.get_output_embeddings()(hidden), whole)
        except (AttributeError, TypeError, RuntimeError):  # no such head, or a body of another kind
            plain_head = False
        return cls(plain_head, max(1, _LOGIT_BYTES[model.device] // (whole.shape[-1] * 4)))
