"""Language models in memory: loaded once, shared by everyone who may read them, bounded in bytes."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from checkpoints import Token, open_checkpoint
from checkpoints.built_model import without_kernels
from checkpoints.memory import free_memory, machine_memory
from checkpoints.problems import CheckpointError, Problem
from evaluation.adapter import put_on
from evaluation.answering_model import GenerationSettings, LoadedModel, Written
from evaluation.downloads import DOWNLOADS
from evaluation.error import EvaluationError, memory_named
from evaluation.generation import generate
from evaluation.model_files import ModelFiles, adapter_size, find_model, weight_files
from evaluation.processor import generates_quicker
from evaluation.tokenizer import read_tokenizer

# Share of a device's memory that loaded models may fill; the rest is for merging, answers and the system.
_SHARE_OF_MEMORY = 1 / 3
# Seconds that reading a model may take, and bytes of weights a second from the slowest disk beside that.
SECONDS_TO_READ, SLOWEST_DISK = 120.0, 20_000_000
# Assumed for a model that does not state how many tokens it reads.
_CONTEXT_IF_UNKNOWN = 2048
# An adapter that was trained with its own tokenizer has one of these files.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model with its tokenizer, ready to run. Shared between threads: never change it.

    Attributes:
        name: "owner/name" on the Hub, or the folder; with adapters "base+adapter".
        commit: the commit on the Hub (with adapters those of all parts, joined by "+"), None for a folder.
        network: the transformers model.
        tokenizer: its tokenizer; see `evaluation.tokenizer`.
        device: "cpu" or "cuda".
        stored_dtype: what the checkpoint holds, such as "bfloat16".
        bytes: what the weights take in memory.
        offloaded: whether some weights are on disk and are read at each use; then only one thread at a time may run
            the model.
    """

    name: str
    commit: str | None
    network: Any
    tokenizer: Any
    device: str
    stored_dtype: str
    bytes: int
    offloaded: bool = False

    @property
    def dtype(self) -> str:
        """What the model computes in, such as "float32"."""
        return str(self.network.dtype).removeprefix("torch.")

    @cached_property
    def parameters(self) -> int:
        """Number of weights; shared ones count once."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @cached_property
    def context(self) -> int:
        """How many tokens the model can read at once, according to its config."""
        config = self.network.config.get_text_config()
        stated = getattr(config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        return int(stated) if stated < 10**9 else _CONTEXT_IF_UNKNOWN

    @property
    def has_chat_template(self) -> bool:
        """Whether the model has its own chat template."""
        return self.tokenizer.chat_template is not None

    @cached_property
    def starts_with_bos(self) -> bool:
        """Whether the tokenizer by default puts its BOS token before a text."""
        bos = self.tokenizer.bos_token_id
        return bos is not None and list(self.tokenizer("a")["input_ids"][:1]) == [bos]

    @property
    def runs_as(self) -> str:
        """See `AnsweringModel`."""
        return self.dtype

    @property
    def chat_template(self) -> str:
        """See `AnsweringModel`."""
        return str(self.tokenizer.get_chat_template())

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """See `AnsweringModel`."""
        found: Mapping[str, str] = self.tokenizer.special_tokens_map
        return found

    def tokens(self, text: str, *, begins: bool = False) -> list[int]:
        """See `AnsweringModel`."""
        found = [int(token) for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]]
        if begins and self.starts_with_bos:
            found.insert(0, self.tokenizer.bos_token_id)
        self.check_tokens(found)
        return found

    def write(
        self,
        tokens: Sequence[int],
        settings: GenerationSettings,
        stops: Sequence[threading.Event],
        put: Callable[[Written], None],
    ) -> None:
        """See `AnsweringModel`."""
        generate(self, tokens, settings, stops, put)

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Check that the model has an embedding for every token.

        Raises:
            EvaluationError: tokenizer and weights do not match.
        """
        rows = self.network.get_input_embeddings().weight.shape[0]
        largest = max(tokens, default=0)
        if largest >= rows:
            token = repr(self.tokenizer.convert_ids_to_tokens(largest))
            values = {"model": self.name, "number": largest, "token": token, "rows": rows}
            raise EvaluationError(Problem("token-without-row", values))


def load_model(
    name: str | Path,
    *,
    revision: str | None = None,
    token: Token = None,
    device: str = "auto",
    allow_folders: bool = True,
    offload: Path | None = None,
) -> LanguageModel:
    """Load a causal language model, or take it from memory if it is loaded and unchanged.

    Only safetensors files are read, and no code of the repository runs. The weights keep the dtype of the
    checkpoint; on a CPU, bfloat16 and float16 are widened to float32 if that fits. Call this before every use: it
    costs a HEAD request for a model on the Hub (which also checks that this token may still read it) and a look at the
    files' times for a folder.

    >>> model = load_model("owner/name")  # doctest: +SKIP

    Args:
        name: a folder, or "owner/name" on the Hub, optionally with "hf://" in front and "@revision" at the end; or
            "base+adapter", each named in this way: PEFT then merges the adapter into the base in memory.
        revision: branch, tag or commit on the Hub.
        token: a token or a function that returns one; None for this machine's login, False for none.
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
        allow_folders: whether `name` may be a folder of this machine.
        offload: a folder for weights that do not fit into memory, which are read from there at each use (by
            accelerate; slow); None refuses such a model.

    Raises:
        EvaluationError: it cannot be found, read or run; the message says why, and what to do.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise EvaluationError(Problem("unknown-device", {"device": device}))
    if device == "cuda" and not torch.cuda.is_available():
        raise EvaluationError(Problem("no-gpu-for-device"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = find_model(name, revision=revision, token=token, allow_folders=allow_folders)
    loaded: LanguageModel | None = _LOADED[device].get(checkpoint.identity)
    return loaded or load_fetched(_fetched(checkpoint), device, offload)


@dataclass(frozen=True)
class FetchedModel:
    """A model whose files are on this machine, so that loading it needs no network. Can be pickled.

    Attributes:
        name, commit: see `LanguageModel`.
        identity: equal for two models only if their files are the same.
        folder: the folder with its files.
        adapters: name and folder of each adapter, applied in this order.
    """

    name: str
    commit: str | None
    identity: tuple[object, ...]
    folder: Path
    adapters: tuple[tuple[str, Path], ...] = ()

    @property
    def place(self) -> str:
        """What `checkpoints.open_checkpoint` opens it by."""
        return "+".join(map(str, [self.folder, *(path for _, path in self.adapters)]))

    @property
    def bytes(self) -> int:
        """Size of the weights as they are stored.

        Raises:
            EvaluationError: there are none that can be read here.
        """
        size = sum(weight_files(self.name, self.folder).values())
        return size + sum(adapter_size(*adapter) for adapter in self.adapters)


def fetch_model(name: str | Path, *, token: Token = None, allow_folders: bool = True) -> FetchedModel:
    """Download the files of a model unless they are on this machine. Arguments and errors as for `load_model`.

    >>> fetched = fetch_model("owner/name")  # doctest: +SKIP
    """
    return _fetched(find_model(name, token=token, allow_folders=allow_folders))


def _fetched(checkpoint: ModelFiles) -> FetchedModel:
    known = _FETCHED.get(checkpoint.identity)
    for commit in (checkpoint.commit or "").split("+"):
        DOWNLOADS.touch(commit)
    with suppress(EvaluationError, OSError):
        if known and known.bytes:  # the files may have been removed since
            DOWNLOADS.touch(known.folder.name)
            return known
    adapters = tuple((adapter.name, adapter.fetch()) for adapter in checkpoint.adapters)
    fetched = FetchedModel(
        checkpoint.name, checkpoint.commit, checkpoint.identity, checkpoint.fetch(), adapters
    )
    _FETCHED[checkpoint.identity] = fetched
    return fetched


def load_fetched(
    fetched: FetchedModel, device: str = "auto", offload: Path | None = None, *, to_answer: bool = False
) -> LanguageModel:
    """Load a model whose files are on this machine, or take it from memory.

    >>> model = load_fetched(fetch_model("owner/name"), "cpu")  # doctest: +SKIP

    Args:
        fetched: from `fetch_model`.
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
        offload: as for `load_model`.
        to_answer: whether it has to be quick rather than exact: on a processor that generates quicker in the 16-bit
            dtype of the checkpoint, that is kept.

    Raises:
        EvaluationError: it cannot be read or run; the message says why, and what to do.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = _LOADED[device]
    with _reading:
        found: LanguageModel | None = loaded.get(fetched.identity, ANSWERS if to_answer else SCORES)
        if found:
            return found
        size = fetched.bytes
        _reading.allow(size)
        _check_headers(fetched)
        config = _read_config(fetched.name, fetched.folder)
        widen = device == "cpu" and _is_half(config) and 2 * size <= loaded.max_bytes
        form = ANSWERS if to_answer and widen and generates_quicker(config.dtype) else SCORES
        found = loaded.get(fetched.identity, form)
        if found:
            return found
    tokenizer = _tokenizer(fetched)  # others do not wait for it
    with _reading:
        found = loaded.get(fetched.identity, form)
        if found:
            return found
        _reading.allow(size)
        widen = widen and form == SCORES
        needed = 2 * size if widen else size
        room = loaded.make_room(needed)
        if room >= needed:
            model = _read(fetched, config, tokenizer, device, widen=widen)
        elif offload is None or fetched.adapters:
            raise EvaluationError(_too_large(fetched, needed, room))
        else:
            # The disk has room for float32.
            model = _read(
                fetched,
                config,
                tokenizer,
                device,
                widen=device == "cpu" and _is_half(config),
                offload=(offload, room),
            )
        loaded.put(fetched.identity, model, form)
    return model


# A model may be in memory in several forms: for scores, which are computed in float32 where that fits; to answer in
# transformers, in another dtype than for scores; to answer in llama.cpp.
SCORES, ANSWERS, LLAMA = "scores", "answers", "llama.cpp"


class LoadedModels:
    """The models in a device's memory. The least recently used is evicted first; the newest always stays.

    Args:
        device: "cpu" or "cuda".
        max_bytes: what they may take together; None for a third of the device's memory.
    """

    def __init__(self, device: str, max_bytes: int | None = None) -> None:
        self._device = device
        self._max_bytes = max_bytes
        self._models: OrderedDict[tuple[Hashable, str], LoadedModel] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    @property
    def max_bytes(self) -> int:
        """What the models may take together."""
        if self._max_bytes is None:
            self._max_bytes = int(_memory(self._device)[0] * _SHARE_OF_MEMORY)
        return self._max_bytes

    def get(self, identity: Hashable, form: str = SCORES) -> Any:
        """The model with this identity in this form, None if it is not here."""
        with self._lock:
            if (identity, form) in self._models:
                self._models.move_to_end((identity, form))
            return self._models.get((identity, form))

    def put(self, identity: Hashable, model: LoadedModel, form: str = SCORES) -> None:
        """Keep a model, and evict what the same folder held before: it is gone from the disk too."""
        with self._lock:
            replaced = [
                key
                for key, other in self._models.items()
                if model.commit is None and other.name == model.name and key[0] != identity
            ]
            for key in replaced:
                del self._models[key]
            self._models[identity, form] = model
        if replaced:
            gc.collect()

    def release(self, model: LoadedModel) -> None:
        """Drop a model from the cache: its memory is freed once nothing else uses it."""
        with self._lock:
            for key in [key for key, other in self._models.items() if other is model]:
                del self._models[key]

    def renew_lock(self) -> None:
        """Replace the lock by a free one."""
        self._lock = threading.Lock()

    def make_room(self, size: int) -> int:
        """Evict models until another one fits, or none is left.

        Args:
            size: bytes of the new model's weights.

        Returns:
            Bytes that are free then.
        """
        with self._lock:
            over = size - self.max_bytes + sum(model.bytes for model in self._models.values())
            self._let_go(over)
            self._free_up(size)
        return self._free()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Reserve memory for other work: models are evicted from it, and none is loaded into it.

        Args:
            size: the most bytes that the work will take; all of it is reserved until the work ends.

        Raises:
            EvaluationError: this much is not free even without any model.
        """
        with self._lock:
            self._free_up(size)
            free = self._free()
            if free < size:
                values = {"needed": size / 1e9, "free": free / 1e9}
                raise EvaluationError(Problem("memory-in-use", values))
            self._held += size
        try:
            yield
        finally:
            with self._lock:
                self._held -= size

    def _free_up(self, size: int) -> None:
        """Evict models until this much memory is free, or none is left."""
        if size > self._free():
            gc.collect()  # garbage goes before any model does
        while self._models and (missing := size - self._free()) > 0:
            self._let_go(missing)

    def _let_go(self, size: int) -> None:
        """Evict models of this many bytes, the least recently used first, or all."""
        leaves = self._models and size > 0
        while self._models and size > 0:
            size -= self._models.popitem(last=False)[1].bytes
        if leaves:
            gc.collect()  # once for all of them: it takes a second if much is loaded

    def _free(self) -> int:
        return max(_memory(self._device)[1] - self._held, 0)


def _too_large(fetched: FetchedModel, needed: int, room: int) -> Problem:
    values = {"model": fetched.name, "needed": needed / 1e9, "free": room / 1e9}
    return Problem("model-with-adapter-too-large" if fetched.adapters else "model-too-large", values)


# What was fetched, so that the Hub is not asked for its list of files again.
_FETCHED: dict[Hashable, FetchedModel] = {}
_LOADED = {"cpu": LoadedModels("cpu"), "cuda": LoadedModels("cuda")}


def loaded_models(device: str) -> LoadedModels:
    """The models in the memory of "cpu" or "cuda"."""
    return _LOADED[device]


def hold_memory(size: int) -> AbstractContextManager[None]:
    """Reserve memory of this machine for other work, see `LoadedModels.hold`.

    >>> with hold_memory(1000):
    ...     pass
    """
    return _LOADED["cpu"].hold(size)


class _Reading:
    """Reads one model at a time, and knows until when that has to end.

    transformers sets torch's default dtype for the whole process while it reads, and two big models may each fit alone
    but not together.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: float | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        self._ends = time.monotonic() + SECONDS_TO_READ

    def __exit__(self, *_: object) -> None:
        self._ends = None
        self._lock.release()

    def allow(self, nbytes: int) -> None:
        """Allow the time that weights of this size may take."""
        self._ends = time.monotonic() + SECONDS_TO_READ + nbytes / SLOWEST_DISK

    @property
    def is_overdue(self) -> bool:
        ends = self._ends
        return ends is not None and time.monotonic() > ends


_reading = _Reading()


def is_overdue() -> bool:
    """Whether a model has been read for longer than any honest one takes: the others wait for it in vain."""
    return _reading.is_overdue


def _renew_locks() -> None:
    """Free the locks of a forked process: a held lock is copied without the thread that holds it."""
    global _reading
    _reading = _Reading()
    for loaded in _LOADED.values():
        loaded.renew_lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_locks)  # ZeroGPU runs GPU calls in forks


def _memory(device: str) -> tuple[int, int]:
    """The device's memory in bytes: all of it, and what is free."""
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return total, free
    return machine_memory(), free_memory()


def _check_headers(fetched: FetchedModel) -> None:
    """Check that a model's files are whole, and that its config fits its weights: else a library might build forever.

    Raises:
        EvaluationError: they are not.
    """
    try:
        open_checkpoint(str(fetched.folder)).close()
    except CheckpointError as error:
        if error.problems[0].code == "count-beyond-weights":
            raise EvaluationError(error.problems) from error
        values = {"model": fetched.name, "words": error.problems[0].message}
        raise EvaluationError(Problem("not-loadable", values)) from error


def _read_config(name: str, folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return without_kernels(config)
    except Exception as error:
        values = {"model": name, "words": _first_words(error)}
        raise EvaluationError(Problem("config-unusable", values)) from error


def _is_half(config: Any) -> bool:
    """Whether the weights are plain 16-bit numbers.

    Most CPUs are several times slower with these than with float32, which represents each of them exactly.
    """
    return config.dtype in (torch.bfloat16, torch.float16) and not hasattr(config, "quantization_config")


def _tokenizer(fetched: FetchedModel) -> Any:
    """A model's tokenizer, or that of its last adapter which has its own."""
    name, folder = fetched.name, fetched.folder
    tokenizer = read_tokenizer(name, folder, folder)
    for _, path in fetched.adapters:
        if any((path / file).is_file() for file in _VOCABULARIES):
            own = read_tokenizer(name, path, folder)
            own.chat_template = own.chat_template or tokenizer.chat_template
            tokenizer = own
    return tokenizer


def _read(
    fetched: FetchedModel,
    config: Any,
    tokenizer: Any,
    device: str,
    *,
    widen: bool,
    offload: tuple[Path, int] | None = None,
) -> LanguageModel:
    """Read a model; `offload` is a folder for what does not fit into the bytes given beside it."""
    name, folder = fetched.name, fetched.folder
    stored = str(config.dtype or torch.float32).removeprefix("torch.")
    try:
        with memory_named(name, "doing-loading"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32 if widen else "auto",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **(_spread(device, *offload) if offload else {}),
            )
            network, info = loaded
            network = network if offload else network.to(device)
    except EvaluationError:
        raise
    except Exception as error:
        # Any error while reading somebody else's files is about those files.
        values = {"model": name, "words": _first_words(error)}
        raise EvaluationError(Problem("not-loadable", values)) from error
    if info["missing_keys"]:
        # transformers would fill these with random numbers.
        lacking = sorted(info["missing_keys"])
        kind, count = type(network).__name__, len(lacking)
        raise EvaluationError(
            Problem("lacking-tensors", {"model": name, "count": count, "kind": kind, "first": lacking[0]})
        )
    for adapter, path in fetched.adapters:
        network = put_on(network, adapter, path)
    return language_model(
        name,
        network,
        tokenizer,
        device=device,
        stored_dtype=stored,
        commit=fetched.commit,
        offloaded=offload is not None,
    )


def language_model(
    name: str,
    network: Any,
    tokenizer: Any,
    *,
    device: str,
    stored_dtype: str,
    commit: str | None = None,
    offloaded: bool = False,
) -> LanguageModel:
    """A transformers model that is in memory, in evaluation mode, with only the tokens that end an answer from its
    generation config. Arguments as the attributes of `LanguageModel`.

    Raises:
        EvaluationError: it does not run, its answers are NaN, or it sees later tokens.
    """
    network = network.eval().requires_grad_(False)
    _check_runs(name, network, device)
    network.generation_config = _ends_only(network.generation_config, tokenizer)
    here = [parameter for parameter in network.parameters() if parameter.device.type != "meta"]
    size = sum(parameter.numel() * parameter.element_size() for parameter in here)
    return LanguageModel(name, commit, network, tokenizer, device, stored_dtype, size, offloaded)


def _spread(device: str, folder: Path, room: int) -> dict[str, Any]:
    """Arguments with which transformers lets accelerate keep on disk what does not fit into memory."""
    folder.mkdir(parents=True, exist_ok=True)
    # What does not fit on a GPU goes to the machine's memory first.
    memory = {0: room, "cpu": free_memory()} if device == "cuda" else {"cpu": room}
    return {"device_map": "auto", "max_memory": memory, "offload_folder": str(folder)}


@torch.inference_mode()
def _check_runs(name: str, network: Any, device: str) -> None:
    """Run two texts that differ in the last token: the logits before it must be numbers, and the same."""
    tokens = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 0]], device=device)
    try:
        with memory_named(name, "doing-trying"):
            logits = network(input_ids=tokens, use_cache=False).logits[:, :3].float()
    except EvaluationError:
        raise
    except Exception as error:
        values = {"model": name, "words": _first_words(error)}
        raise EvaluationError(Problem("does-not-run", values)) from error
    if logits.isnan().any():
        values = {"model": name, "dtype": str(network.dtype).removeprefix("torch.")}
        raise EvaluationError(Problem("nan-answers", values))
    first, second = logits
    rounding = 1e-4 if network.dtype == torch.float32 else 0.05
    if (first - second).abs().max() > rounding * first.std().clamp(min=1e-6):
        raise EvaluationError(Problem("both-directions", {"model": name, "kind": type(network).__name__}))


def _ends_only(stated: GenerationConfig, tokenizer: Any) -> GenerationConfig:
    """Keep only the tokens that end an answer from a model's generation config.

    Its temperature, penalties and bans would apply unseen on top of the chosen settings, and differ between a merge
    and its parents.
    """
    ends = stated.eos_token_id if isinstance(stated.eos_token_id, list) else [stated.eos_token_id]
    known = [end for end in dict.fromkeys([*ends, tokenizer.eos_token_id]) if end is not None]
    ends_only: GenerationConfig = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=known or None, pad_token_id=known[0] if known else 0
    )
    return ends_only


def _first_words(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else words[:300] + "…"
