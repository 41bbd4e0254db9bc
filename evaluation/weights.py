"""The weights of a model beside its parents': read in blocks, sampled or whole, without running the model."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from checkpoints import Checkpoint, TensorHeader, Token, open_checkpoint
from checkpoints.architecture import DERIVED, EMBEDDING, OUTPUT_HEAD
from checkpoints.dtypes import FLOATS, is_known, torch_name
from checkpoints.problems import Cancelled, Problem
from evaluation.doctor import diagnosis, findings
from evaluation.error import EvaluationError
from evaluation.model_files import as_evaluation_error, find_model
from evaluation.remark import Remark
from evaluation.spectra import Spectrum, empty_matrix, overlap, spectrum
from evaluation.structure import Structure, structure_of
from evaluation.tensor_stats import ParentPair, TensorStats, VersusParent

# Elements of one tensor that are in memory together, of each model.
_BLOCK = 4 << 20
# Evenly spaced places that a tensor's sample is taken from.
PLACES = 16
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Weights:
    """A checkpoint's tensors, to be read a range at a time.

    Attributes:
        structure: what there is.
        checkpoint: what it is read from.
    """

    structure: Structure
    checkpoint: Checkpoint

    def rows(self, name: str, begin: int, end: int) -> torch.Tensor:
        """Rows of a tensor (rows, everything else), floats as float32 and the rest as float64.

        Raises:
            EvaluationError: they cannot be read.
        """
        header = self.structure.tensors[name]
        wide = _width(header)
        size = header.nbytes // max(header.elements, 1) * wide
        buffer = bytearray((end - begin) * size)
        with as_evaluation_error():
            self.checkpoint.read_into(name, begin * size, memoryview(buffer))
        values = torch.frombuffer(buffer, dtype=getattr(torch, torch_name(header.dtype)))
        wider = torch.float32 if values.is_floating_point() and header.dtype != "F64" else torch.float64
        return values.to(wider).reshape(end - begin, wide)


def open_weights(name: str | Path, *, token: Token = None, allow_folders: bool = True) -> Weights:
    """Open a checkpoint for reading parts of it; only headers are read until more is asked for.

    Args:
        name: a folder, or "owner/name" on the Hub, with or without "@revision"; or a GGUF file in one of them.
        token: a token or what gives one; None for the machine's own login, False for none at all.
        allow_folders: whether `name` may be a folder of this machine.

    Raises:
        EvaluationError: there is no such model, or it cannot be read.
    """
    found = find_model(name, token=token, allow_folders=allow_folders)
    if found.adapters:
        raise EvaluationError(Problem("no-own-weights", {"model": str(name)}))
    with as_evaluation_error():
        opened = open_checkpoint(found.place, found.commit, token=token, allow_folders=allow_folders)
    return Weights(structure_of(opened, found.name), opened)


@dataclass(frozen=True)
class WeightsReport:
    """Figures of all tensors of a model.

    Attributes:
        model: its name.
        config: its config.json.
        tensors: in the order of the files.
        lacking: by parent, tensors that are not comparable there: missing, or of another shape.
    """

    model: str
    config: Mapping[str, Any]
    tensors: tuple[TensorStats, ...]
    lacking: Mapping[str, tuple[str, ...]]

    @property
    def duplicates(self) -> list[tuple[str, ...]]:
        """Names of tensors that hold the same numbers, vectors and constants left out."""
        groups = defaultdict(list)
        for tensor in self.tensors:
            if len(tensor.shape) > 1 and tensor.norm:
                groups[tensor.shape, tensor.digest].append(tensor.name)
        return [tuple(names) for names in groups.values() if len(names) > 1]

    def heat_map(self, value: Callable[[TensorStats], float | None]) -> dict[str, list[float | None]]:
        """A value by kind of tensor, with a place for each layer; kinds outside of layers have one place."""
        layers = 1 + max((tensor.layer for tensor in self.tensors if tensor.layer is not None), default=0)
        found: dict[str, list[float | None]] = {}
        for tensor in self.tensors:
            row = found.setdefault(tensor.kind, [None] * (1 if tensor.layer is None else layers))
            row[tensor.layer or 0] = value(tensor)
        return found

    @property
    def share_read(self) -> float:
        """The share of all weights that was read."""
        total = sum(math.prod(tensor.shape) for tensor in self.tensors)
        return (
            sum(tensor.share * math.prod(tensor.shape) for tensor in self.tensors) / total if total else 1.0
        )

    @property
    def findings(self) -> tuple[Remark, ...]:
        """What is wrong; empty if nothing was found."""
        return tuple(findings(self.tensors, self.config, self.lacking))

    @property
    def sound(self) -> bool:
        """Whether nothing wrong was found."""
        return not self.findings

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """What is wrong, or that nothing is, and how much of the weights was read."""
        return tuple(diagnosis(self.findings, self.tensors, self.share_read))

    def doctor(self) -> list[str]:
        """The same in English, a sentence each."""
        return list(map(str, self.remarks))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "model": self.model,
            "doctor": self.doctor(),
            "duplicates": self.duplicates,
            "lacking": dict(self.lacking),
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }


def inspect_weights(
    model: Weights,
    parents: Sequence[Weights] = (),
    *,
    base: Weights | None = None,
    sample: int | None = 1 << 20,
    places: int = PLACES,
    readers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> WeightsReport:
    """Read every tensor of a model, beside its parents'.

    Args:
        model: the model.
        parents: what it is compared with.
        base: what the parents were fine-tuned from; with it their changes are compared too.
        sample: entries of a tensor that are read; None for all.
        places: that they are read from, evenly spaced; each is a request to the Hub.
        readers: tensors that are read at the same time, which hides the delay of the Hub's answers.
        on_progress: called with the tensors done and the tensors in all.
        cancel: when set, the work ends after the current tensor.

    Raises:
        EvaluationError: a tensor cannot be read.
        Cancelled: `cancel` was set.
    """
    lacking: dict[str, list[str]] = {parent.structure.name: [] for parent in parents}
    names = list(model.structure.tensors)

    def inspect(name: str) -> TensorStats:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        comparable = {one.structure.name: one for one in parents if _is_comparable(model, one, name)}
        known_base = base if base and _is_comparable(model, base, name) else None
        return _inspect(name, model, comparable, known_base, sample, places)

    tensors = []
    # Readers with several threads each would wait for one another.
    threads = torch.get_num_threads()
    each = max(1, threads // readers)
    with ThreadPoolExecutor(readers, initializer=torch.set_num_threads, initargs=(each,)) as pool:
        try:
            for tensor in pool.map(inspect, names):
                tensors.append(tensor)
                for parent in parents:
                    if parent.structure.name not in tensor.against:
                        lacking[parent.structure.name].append(tensor.name)
                if on_progress is not None:
                    on_progress(len(tensors), len(names))
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # what later threads begin with
    return WeightsReport(
        model.structure.name,
        model.structure.config,
        tuple(tensors),
        {parent: tuple(missing) for parent, missing in lacking.items()},
    )


def _can_be_read(header: TensorHeader) -> bool:
    return is_known(header.dtype) and hasattr(torch, torch_name(header.dtype))


def _is_comparable(model: Weights, other: Weights, name: str) -> bool:
    """Whether another model has a tensor of the same shape that can be read."""
    header = other.structure.tensors.get(name)
    return header is not None and header.shape == model.structure.tensors[name].shape and _can_be_read(header)


def _inspect(
    name: str,
    model: Weights,
    parents: Mapping[str, Weights],
    base: Weights | None,
    sample: int | None,
    places: int,
) -> TensorStats:
    header = model.structure.tensors[name]
    layer = _LAYER.search(name)
    number, kind = int(layer[1]) if layer else None, _LAYER.sub(".*.", name, count=1)
    unread = TensorStats(name, number, kind, header.shape, header.dtype, share=0.0)
    if not _can_be_read(header):
        return unread
    models = [model, *parents.values(), *([base] if base else [])]
    own = _OwnFigures(header, _padding_row(model.structure.config) if _is_by_token(name) else None)
    products = _Products(len(models), has_base=base is not None)
    is_whole = sample is None or header.elements <= sample
    differences = _Differences(header, len(parents) if is_whole else 0, has_base=base is not None)
    for begin, end in _pieces(header, sample, places):
        blocks = _read(models, name, begin, end)
        for figures in (own, products, differences):
            figures.add(begin, blocks)
    spectra = differences if products.are_finite else None
    return replace(
        unread,
        **own.fields(),
        norm=products.norm(0),
        against={
            parent: products.versus(i, spectra.spectrum(i) if spectra else None)
            for i, parent in enumerate(parents, 1)
        },
        between={
            f"{one} | {two}": products.pair(i, j, spectra.overlap(i, j) if spectra else None)
            for (i, one), (j, two) in itertools.combinations(enumerate(parents, 1), 2)
        },
    )


def _read(models: Sequence[Weights], name: str, begin: int, end: int) -> list[torch.Tensor]:
    """The same rows of every model; one that takes part twice, such as a base that is inspected, is read once."""
    rows = {key: one.rows(name, begin, end) for key, one in {id(model): model for model in models}.items()}
    return [rows[id(model)] for model in models]


class _OwnFigures:
    """What one tensor shows by itself.

    Args:
        header: the tensor's
        padding: None for any but a table with a row for each token; there the row that pads texts, -1 for none.
    """

    def __init__(self, header: TensorHeader, padding: int | None) -> None:
        self._read = self._nan = self._inf = 0
        self._elements = header.elements
        self._digest = hashlib.blake2b(digest_size=16)
        self._counts_rows = (
            len(header.shape) > 1 and header.dtype in FLOATS and not DERIVED.search(header.name)
        )
        self._padding = padding
        self._is_packed = len(header.shape) == 3 and "expert" in header.name
        self._row = header.shape[-1] if header.shape else 1
        self._dead: list[int] = []
        self._last_alive = -1

    def add(self, begin: int, blocks: Sequence[torch.Tensor]) -> None:
        """Add the same rows (rows, everything else) of every version, from row `begin` on."""
        block = blocks[0]
        self._digest.update(block.numpy().tobytes())
        self._read += block.numel()
        self._nan += int(block.isnan().sum())
        self._inf += int(block.isinf().sum())
        if self._counts_rows:
            is_dead = (block == 0).all(1)
            if self._is_packed:  # a row of the first axis is a whole expert
                is_dead = (block.reshape(-1, self._row) == 0).all(1)
                begin *= len(is_dead) // max(len(block), 1)
            self._dead += (begin + is_dead.nonzero().flatten()).tolist()
            alive = (~is_dead).nonzero().flatten()
            self._last_alive = begin + int(alive[-1]) if len(alive) else self._last_alive

    def fields(self) -> dict[str, Any]:
        """Fields of `TensorStats`."""
        return {
            "share": self._read / self._elements if self._elements else 1.0,
            "nan": self._nan,
            "inf": self._inf,
            "dead_rows": self._dead_rows(),
            "digest": self._digest.hexdigest(),
        }

    def _dead_rows(self) -> int:
        """Rows of zeros. In a table of tokens those behind the last other row only pad it, and one pads texts."""
        if self._padding is None:
            return len(self._dead)
        return sum(row < self._last_alive and row != self._padding for row in self._dead)


class _Products:
    """Dot products and norms of a tensor's versions, summed over blocks in float64.

    The versions are the model's own (0), its parents' (from 1), and last the base's, if there is one.
    """

    def __init__(self, count: int, *, has_base: bool) -> None:
        self._dots = np.zeros((count, count))
        self._apart = np.zeros(count)  # squared norms of the model minus each
        self._tasks = range(1, count - 1) if has_base else range(0)
        self._task_dots, self._conflicts = np.zeros((count, count)), np.zeros((count, count))
        self._read = 0

    def add(self, begin: int, blocks: Sequence[torch.Tensor]) -> None:
        """See `_OwnFigures.add`."""
        flat = [block.flatten().double() for block in blocks]
        self._read += flat[0].numel()
        for i, j in itertools.combinations_with_replacement(range(len(flat)), 2):
            self._dots[i, j] += float(flat[i] @ flat[j])
        for i in range(1, len(flat)):
            self._apart[i] += float((flat[0] - flat[i]).square().sum())
        changes = {i: flat[i] - flat[-1] for i in self._tasks}
        for i, j in itertools.combinations_with_replacement(self._tasks, 2):
            self._task_dots[i, j] += float(changes[i] @ changes[j])
            self._conflicts[i, j] += int((changes[i].sign() != changes[j].sign()).sum())

    @property
    def are_finite(self) -> bool:
        return bool(np.isfinite(self._dots).all())

    def norm(self, version: int) -> float:
        return math.sqrt(self._dots[version, version])

    def versus(self, parent: int, found: Spectrum | None) -> VersusParent:
        """The model beside a parent."""
        moved, norm = math.sqrt(self._apart[parent]), self.norm(parent)
        figures = (
            _divided(moved, norm),
            _divided(2 * moved, self.norm(0) + norm),
            _cosine(self._dots, 0, parent),
        )
        if found is None:
            return VersusParent(*figures)
        return VersusParent(*figures, **asdict(found))

    def pair(self, one: int, two: int, shared: float | None) -> ParentPair:
        """Two parents beside each other."""
        if not self._tasks:
            return ParentPair(_cosine(self._dots, one, two))
        conflicts = float(self._conflicts[one, two] / self._read) if self._read else 0.0
        return ParentPair(
            _cosine(self._dots, one, two), _cosine(self._task_dots, one, two), conflicts, shared
        )


class _Differences:
    """A matrix's differences: of the model to each parent, and of each of several parents to the base."""

    def __init__(self, header: TensorHeader, parents: int, *, has_base: bool) -> None:
        size = header.shape[0] if header.shape else 1, _width(header)
        is_matrix = len(header.shape) > 1 and header.elements > 0
        of_parents = range(1, parents + 1) if is_matrix else range(0)
        self._to_parent = {parent: empty_matrix(*size) for parent in of_parents}
        self._to_base = {parent: empty_matrix(*size) for parent in of_parents if has_base and parents > 1}

    def add(self, begin: int, blocks: Sequence[torch.Tensor]) -> None:
        """See `_OwnFigures.add`."""
        end = begin + len(blocks[0])
        for parent, matrix in self._to_parent.items():
            matrix[begin:end] = blocks[0] - blocks[parent]
        for parent, matrix in self._to_base.items():
            matrix[begin:end] = blocks[parent] - blocks[-1]

    def spectrum(self, parent: int) -> Spectrum | None:
        """Of the model's difference to a parent; None for vectors."""
        return spectrum(self._to_parent[parent]) if parent in self._to_parent else None

    def overlap(self, one: int, two: int) -> float | None:
        """Of the changes of two parents; None for vectors and without a base."""
        return overlap(self._to_base[one], self._to_base[two]) if one in self._to_base else None


def _is_by_token(name: str) -> bool:
    """Whether a tensor has a row for each token (or position), of which some may be zero by design."""
    return EMBEDDING.search(name) is not None or OUTPUT_HEAD.search(name) is not None


def _padding_row(config: Mapping[str, Any]) -> int:
    """The row of the token that pads texts; -1 if there is none."""
    inner = next((part for key, part in config.items() if "text" in key and isinstance(part, dict)), {})
    row = config.get("pad_token_id", inner.get("pad_token_id"))
    return row if isinstance(row, int) else -1


def _width(header: TensorHeader) -> int:
    """Entries of a row, everything behind the first axis taken together."""
    return math.prod(header.shape[1:])


def _pieces(header: TensorHeader, sample: int | None, places: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows: all of them in blocks, or a sample from places evenly spaced."""
    rows = header.shape[0] if header.shape else 1
    wide = max(_width(header), 1)
    at_once = max(1, _BLOCK // wide)
    if sample is None or header.elements <= sample:
        for begin in range(0, rows, at_once):
            yield begin, min(begin + at_once, rows)
        return
    wanted = max(sample // wide, min(places, rows))
    for place in range(places):
        begin = rows * place // places
        length = wanted * (place + 1) // places - wanted * place // places
        if length:
            yield begin, min(begin + min(length, at_once), rows)


def _cosine(dots: np.ndarray[Any, np.dtype[np.float64]], i: int, j: int) -> float:
    if not dots[i, i] and not dots[j, j]:
        return 1.0
    return _divided(float(dots[i, j]), math.sqrt(dots[i, i] * dots[j, j]))


def _divided(one: float, two: float) -> float:
    return one / two if two else (0.0 if not one else math.inf)
