"""A base and an adapter, as one checkpoint: what the adapter changes is computed in float32 when it is read.

Nothing is stored on the way, and no model is built. A tensor that the adapter leaves alone is the base's, byte for
byte. The result is what `PeftModel.merge_and_unload` makes of a float32 base.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from checkpoints.adapters.adapter import WHOLE, Adapter, read_adapter
from checkpoints.adapters.fitting import fit
from checkpoints.architecture import model_class, untie
from checkpoints.checkpoint import Checkpoint, read_json
from checkpoints.dtypes import FLOATS
from checkpoints.formats.header import TensorHeader
from checkpoints.json_value import parse_json
from checkpoints.lru_cache import LruCache
from checkpoints.problems import Problem
from checkpoints.quantized.original import is_original
from checkpoints.repositories import open_repository
from checkpoints.repositories.repository import Token, read_small
from checkpoints.tokenizer_files import has_vocabulary, is_template, tokenizer_files
from checkpoints.wording import few

if TYPE_CHECKING:
    from checkpoints.adapters.changed_tensor import ChangedTensor

# Bytes of adapters' tensors that are kept in float32, so that they are not fetched again for each part of a tensor.
HELD = 128 * 1024 * 1024
TOKENIZER_CONFIG = "tokenizer_config.json"
# How the names of classes with a head for a task end, by PEFT's name of the task.
TASKS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}


def held(sizes: Sequence[int], remote: Sequence[int], *, elements: int, readers: int, copies: int) -> int:
    """Bytes that a model under adapters holds while it is read.

    Args:
        sizes: of the adapters' tensors, in float32
        remote: sizes of those that are on the Hub, whose files are fetched whole if they are small
        elements: that are read at once, for which rows of the base are computed
        readers: that read at a time
        copies: processes that hold factors of their own
    """
    factors = copies * sum(min(size, HELD) for size in sizes)
    return factors + readers * elements * 4 * len(sizes) + sum(min(size, WHOLE) for size in remote)


class AdaptedCheckpoint:
    """A checkpoint with an adapter applied.

    Raises:
        CheckpointError: the adapter does not fit the base; with everything that does not.
    """

    def __init__(self, base: Checkpoint, adapter: Adapter):
        self.base = base
        self.adapter = adapter
        self.name = f"{base.name}+{adapter.name}"
        self.version = base.version
        self.is_folder = base.is_folder
        self.is_cached = base.is_cached
        self.adapters = (*base.adapters, adapter)
        self._fit = fit(base, adapter)
        self.changes = self._fit.changes
        self.tensors: Mapping[str, TensorHeader] = self._with_changes()
        self.config = self._changed_config()
        self.warnings: tuple[Problem, ...] = (*base.warnings, *self._warnings())
        self._kept = LruCache["ChangedTensor"](HELD, lambda tensor: tensor.nbytes)

    @property
    def is_remote(self) -> bool:
        return self.base.is_remote or self.adapter.is_remote

    @property
    def read_by(self) -> Set[str]:
        return self.base.read_by | self.adapter.repository.read_by

    @cached_property
    def files(self) -> Mapping[str, int]:
        own = self._own_files()
        replaced: set[str] = set()
        if has_vocabulary(own):
            replaced = set(tokenizer_files(self.base.files))
            if not self._brings_template(own):
                replaced = {file for file in replaced if not is_template(file)}
        return {k: v for k, v in self.base.files.items() if k not in replaced} | own

    def _own_files(self) -> dict[str, int]:
        files = self.adapter.repository.files
        return {file: files[file] for file in tokenizer_files(files)}

    def _brings_template(self, own: Mapping[str, int]) -> bool:
        return any(map(is_template, own)) or "chat_template" in self._own_tokenizer_config()

    def _own_tokenizer_config(self) -> dict[str, Any]:
        if TOKENIZER_CONFIG not in self.adapter.repository.files:
            return {}
        try:
            found = parse_json(read_small(self.adapter.repository, TOKENIZER_CONFIG))
        except ValueError:
            return {}  # reported when the file itself is read
        return found if isinstance(found, dict) else {}

    def read_file(self, file: str) -> bytes:
        own = self._own_files()
        if file not in own:
            return self.base.read_file(file)
        if file == TOKENIZER_CONFIG and file in self.base.files and not self._brings_template(own):
            # The base may keep its template in this file, which takes the place of the base's.
            template = read_json(self.base, file).get("chat_template")
            if template and (config := self._own_tokenizer_config()):
                return json.dumps({**config, "chat_template": template}).encode()
        return read_small(self.adapter.repository, file)

    def read_range(self, file: str, start: int, buffer: memoryview) -> None:
        if file in self._own_files():
            buffer[:] = memoryview(self.read_file(file))[start : start + len(buffer)]
        else:
            self.base.read_range(file, start, buffer)

    def read_into(self, tensor: str, start: int, buffer: memoryview) -> None:
        if tensor not in self.changes:
            self.base.read_into(tensor, start, buffer)
            return
        import torch

        out = torch.frombuffer(buffer, dtype=torch.float32)
        self.changed(tensor).fill(start // out.itemsize, out)

    def changed(self, name: str) -> ChangedTensor:
        """The parts of the adapter that change a tensor, from memory if they were used lately."""
        return self._kept.get(name, lambda: self._changed(name))

    def _changed(self, name: str) -> ChangedTensor:
        from checkpoints.adapters.changed_tensor import ChangedTensor

        change, read = self.changes[name], self.base.read_into
        base = change.base
        dtype = self.base.tensors[base].dtype if base else "F32"
        changed = ChangedTensor(change, self.adapter, dtype, lambda at, part: read(str(base), at, part))
        changed.measure()
        return changed

    def bytes_to_read(self, tensor: str) -> int:
        change = self.changes.get(tensor)
        if change is None:
            return self.base.bytes_to_read(tensor)
        parts = sum(self.adapter.tensors[name].nbytes for name in change.held)
        if change.saved:
            parts += self.adapter.tensors[change.saved].nbytes
        needs_base = change.base and (not change.saved or self.adapter.scale != 1)
        passes = 1 + change.by_column
        return parts + (passes * self.base.bytes_to_read(change.base) if needs_base and change.base else 0)

    def interrupt(self) -> None:
        self.base.interrupt()
        self.adapter.repository.interrupt()

    def close(self) -> None:
        self.base.close()
        self.adapter.repository.close()

    def _with_changes(self) -> dict[str, TensorHeader]:
        """The base's tensors, with the headers of those that are computed."""
        tensors = dict(self.base.tensors)
        for name, change in self.changes.items():
            like = tensors.get(change.base or name) or tensors.get(self._fit.embedding)
            like = like or next(header for header in self.base.tensors.values() if header.dtype in FLOATS)
            header = TensorHeader(name, "F32", change.shape, "", 0, 4 * math.prod(change.shape))
            tensors[name] = replace(header, rounds_to=like.stored_dtype)
        return tensors

    def _changed_config(self) -> dict[str, Any]:
        config: dict[str, Any] = copy.deepcopy(self.base.config)
        embedding = self._fit.embedding
        if embedding in self.changes:
            rows, before = self.changes[embedding].shape[0], self.base.tensors[embedding].shape[0]
            if rows != before:
                for part in (config, *(value for value in config.values() if isinstance(value, dict))):
                    if "vocab_size" in part and part["vocab_size"] == self._vocabulary(before):
                        part["vocab_size"] = rows
        if self._fit.unties:
            untie(config)
        if self._fit.brought:
            self._name_task(config)
        return config

    def _name_task(self, config: dict[str, Any]) -> None:
        """Let a config name the class whose head the adapter brings, and its labels, in place."""
        task = TASKS.get(str(self.adapter.option("task_type")))
        if task is None:
            return
        config["architectures"] = [re.sub(r"(For[A-Z]\w*|(LMHead)?Model)$", "", model_class(config)) + task]
        labels = self.changes[self._fit.brought[-1]].shape[0]
        if len(config.get("id2label") or (0, 1)) != labels and task != TASKS["QUESTION_ANS"]:
            config["id2label"] = {str(number): f"LABEL_{number}" for number in range(labels)}
            config["label2id"] = {f"LABEL_{number}": number for number in range(labels)}

    def _vocabulary(self, rows: int) -> int:
        """What the config calls the size of the vocabulary: the rows of the embedding, or those of them in use."""
        parts = (self.base.config, *(v for v in self.base.config.values() if isinstance(v, dict)))
        sizes = [part["vocab_size"] for part in parts if isinstance(part.get("vocab_size"), int)]
        return rows if rows in sizes or not sizes else int(sizes[0])

    def _warnings(self) -> Iterator[Problem]:
        trained_on, first = self.adapter.option("base_model_name_or_path"), without_adapters(self.base)
        is_id = isinstance(trained_on, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", trained_on)
        same = str(trained_on).lower() == first.name.lower() or is_original(first.name, str(trained_on))
        if is_id and not first.is_folder and not same:
            values = {"adapter": self.adapter.name, "trained_on": trained_on, "base": first.name}
            yield Problem("other-base", values)
        if self._grows(self._fit.embedding) and not has_vocabulary(self._own_files()):
            yield Problem("adapter-without-tokenizer", {"adapter": self.adapter.name})
        if brought := self._fit.brought:
            values = {"adapter": self.adapter.name, "base": first.name, "tensors": few(brought)}
            yield Problem("adapter-brings-head", {**values, "kind": model_class(self.config)})

    def _grows(self, name: str) -> bool:
        return name in self.changes and self.changes[name].shape[0] > self.base.tensors[name].shape[0]


def without_adapters(checkpoint: Checkpoint) -> Checkpoint:
    """The model under all adapters.

    >>> base = without_adapters(model)  # doctest: +SKIP
    """
    while isinstance(checkpoint, AdaptedCheckpoint):
        checkpoint = checkpoint.base
    return checkpoint


def open_adapter(
    base: Checkpoint,
    name: str,
    revision: str | None = None,
    scale: float = 1.0,
    *,
    token: Token = None,
    allow_folders: bool = True,
) -> AdaptedCheckpoint:
    """Open an adapter, a folder or a Hub id, and apply it to a checkpoint; closing the result closes both.

    >>> model = open_adapter(open_checkpoint("owner/base"), "owner/adapter", scale=0.5)  # doctest: +SKIP

    Args:
        scale: how much of its change counts: 0 gives the base back, 1 is all of it

    Raises:
        CheckpointError: it cannot be read or does not fit; with every problem.
    """
    repository = open_repository(name, revision, token, allow_folders)
    try:
        return AdaptedCheckpoint(base, read_adapter(repository, revision, scale))
    except BaseException:
        repository.close()
        raise
