"""Weights looked at without running the model: read in blocks, by ranges from the Hub, sampled or whole."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

from evaluation.checkpoint import (
    CONFIG,
    INDEX,
    Token,
    find_checkpoint,
    hub_errors_named,
    weight_names,
)
from evaluation.error import Cancelled, EvaluationError
from evaluation.structure import Structure, Tensor, parse_header, read_structure

# Elements of one tensor that are in memory together, of each model.
_BLOCK = 4 << 20
# A tensor's sample is taken from so many places, evenly spaced.
PLACES = 16
# Leading singular directions whose energy and overlap count.
DIRECTIONS = 64
# Singular values of a larger matrix are estimated (randomised SVD), the others are exact.
_EXACT_SIDE = 1024
_SPECTRAL_ELEMENTS = 16 << 20
_FIRST_BYTES = 1 << 17
# torch's generator is one for all threads.
_DRAWING = threading.Lock()
_LAYER = re.compile(r"\.(\d+)\.")
_TORCH = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Weights:
    """A checkpoint's tensors, to be read a range at a time.

    Attributes:
        structure: what there is.
        read: gives bytes of a file, from an offset up to another.
    """

    structure: Structure
    read: Callable[[str, int, int], bytes]

    def rows(self, tensor: Tensor, begin: int, end: int) -> torch.Tensor:
        """Rows of a tensor, as float32 (rows, everything else)."""
        wide = math.prod(tensor.shape[1:]) if len(tensor.shape) > 1 else 1
        size = (tensor.end - tensor.begin) // max(tensor.parameters, 1) * wide
        held = bytearray(self.read(tensor.file, tensor.begin + begin * size, tensor.begin + end * size))
        return torch.frombuffer(held, dtype=_TORCH[tensor.dtype]).float().reshape(end - begin, wide)


def open_weights(name: str | Path, *, token: Token = None, allow_folders: bool = True) -> Weights:
    """Open a checkpoint for reading parts of it; nothing is downloaded but headers and what is asked for.

    Args:
        name: a folder, or "owner/name" on the Hub.
        token: a token or what gives one; None for the machine's own login, False for none at all.
        allow_folders: whether `name` may be a folder of this machine.

    Raises:
        EvaluationError: there is no such model, or it is not in safetensors files.
    """
    checkpoint = find_checkpoint(name, token=token, allow_folders=allow_folders)
    if checkpoint.adapters:
        raise EvaluationError(f"{name} has no weights of its own to look at. Merge it, and name the result.")
    if checkpoint.commit is not None:
        return _on_hub(checkpoint.name, checkpoint.commit, token() if callable(token) else token)
    folder = checkpoint.fetch()

    def read(file: str, begin: int, end: int) -> bytes:
        with (folder / file).open("rb") as opened:
            opened.seek(begin)
            return opened.read(end - begin)

    return Weights(read_structure(checkpoint.name, folder), read)


def _on_hub(repo: str, commit: str, token: Any) -> Weights:
    def read(file: str, begin: int, end: int) -> bytes:
        if begin == end:
            return b""
        with hub_errors_named(repo, commit, token):
            answer = get_session().get(
                hf_hub_url(repo, file, revision=commit),
                headers={**build_hf_headers(token=token), "Range": f"bytes={begin}-{end - 1}"},
                follow_redirects=True,
            )
            answer.raise_for_status()
        content: bytes = answer.content
        # A server that knows no ranges sends all of it.
        return content[begin:end] if answer.status_code == 200 else content

    with hub_errors_named(repo, commit, token):
        entries = HfApi(token=token).list_repo_tree(repo, revision=commit)
        sizes = {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}
    index = read(INDEX, 0, sizes[INDEX]).decode() if INDEX in sizes else None
    tensors: dict[str, Tensor] = {}
    files = weight_names(repo, sizes, index)
    for file in files:
        start = read(file, 0, min(_FIRST_BYTES, sizes[file]))
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 + length <= sizes[file]:
            start += read(file, len(start), 8 + length)
        tensors |= parse_header(repo, file, start)
    config = json.loads(read(CONFIG, 0, sizes[CONFIG]))
    return Weights(Structure(repo, tensors, config, sum(sizes[file] for file in files)), read)


@dataclass(frozen=True)
class Against:
    """A tensor held against the same one of a parent.

    Attributes:
        change: norm of the difference divided by the parent's norm.
        distance: norm of the difference divided by the mean of both norms.
        cosine: of the angle between the two.
        effective_rank: of the difference: exp of the entropy of its singular values, each divided by their
            sum (Roy and Vetterli 2007). None for vectors, and where it was not computed exactly.
        energy: share of the squared singular values of the difference in the 64 leading directions. None for
            vectors.
        energy_missed: what a randomised SVD left out of account, as a share; 0 for an exact one.
    """

    change: float
    distance: float
    cosine: float
    effective_rank: float | None = None
    energy: float | None = None
    energy_missed: float = 0.0


@dataclass(frozen=True)
class Between:
    """A tensor of two parents.

    Attributes:
        cosine: between their weights.
        task_cosine: between their changes to the base.
        sign_conflict: share of entries whose changes differ in sign, zero against another included.
        overlap: of the leading right singular directions of their changes, from 0 to 1 (same space).
    """

    cosine: float
    task_cosine: float | None = None
    sign_conflict: float | None = None
    overlap: float | None = None


@dataclass(frozen=True)
class TensorLook:
    """What was found in one tensor of the model.

    Attributes:
        name: of the tensor.
        layer: its layer's number, None outside of layers.
        kind: its name with `*` for the layer.
        shape: its dimensions.
        share: of its entries that were read.
        norm: of what was read.
        nan: entries that are no number.
        inf: entries that are infinite.
        dead_rows: rows of zeros, in a matrix.
        digest: of what was read; equal for equal tensors.
        against: by parent.
        between: by pair of parents, "a | b".
    """

    name: str
    layer: int | None
    kind: str
    shape: tuple[int, ...]
    share: float
    norm: float
    nan: int
    inf: int
    dead_rows: int
    digest: str
    against: Mapping[str, Against] = field(default_factory=dict)
    between: Mapping[str, Between] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightsLook:
    """All tensors of a model, looked at.

    Attributes:
        model: its name.
        config: its config.json.
        tensors: in the order of the files.
        lacking: by parent, tensors that are not comparable there: missing, or of another shape.
    """

    model: str
    config: Mapping[str, Any]
    tensors: tuple[TensorLook, ...]
    lacking: Mapping[str, tuple[str, ...]]

    @property
    def duplicates(self) -> list[tuple[str, ...]]:
        """Names of tensors that hold the same numbers, vectors and constants left out."""
        groups = defaultdict(list)
        for tensor in self.tensors:
            if len(tensor.shape) > 1 and tensor.norm:
                groups[tensor.shape, tensor.digest].append(tensor.name)
        return [tuple(names) for names in groups.values() if len(names) > 1]

    def heat_map(self, value: Callable[[TensorLook], float | None]) -> dict[str, list[float | None]]:
        """A value by kind of tensor, with a place for each layer; kinds outside of layers have one place."""
        layers = 1 + max((tensor.layer for tensor in self.tensors if tensor.layer is not None), default=0)
        found: dict[str, list[float | None]] = {}
        for tensor in self.tensors:
            row = found.setdefault(tensor.kind, [None] * (1 if tensor.layer is None else layers))
            row[tensor.layer or 0] = value(tensor)
        return found

    @property
    def sound(self) -> bool:
        """Whether nothing wrong was found."""
        return not self._findings()

    def doctor(self) -> list[str]:
        """What is wrong, a sentence each with its figures; one sentence that says so if nothing is."""
        return self._findings() or [
            f"Nothing wrong was found in {len(self.tensors)} tensors: no NaN or Inf, no row of zeros, layers,"
            " vocabulary and head as config.json says."
        ]

    def _findings(self) -> list[str]:
        found = []
        spoilt = [tensor for tensor in self.tensors if tensor.nan or tensor.inf]
        if spoilt:
            found.append(
                f"{len(spoilt)} tensor(s) hold NaN or Inf, such as {spoilt[0].name} ({spoilt[0].nan} NaN,"
                f" {spoilt[0].inf} Inf): the model cannot answer."
            )
        by_name = {tensor.name: tensor for tensor in self.tensors}
        config = self.config.get("text_config") or self.config
        head = by_name.get("lm_head.weight")
        embedding = next((one for name, one in by_name.items() if name.endswith("embed_tokens.weight")), None)
        if head and embedding and self.config.get("tie_word_embeddings") and head.digest != embedding.digest:
            found.append(
                "lm_head is untied in the weights but tied in config.json: loaders drop the head that is"
                ' stored. Set "tie_word_embeddings" to false.'
            )
        if embedding and config.get("vocab_size", embedding.shape[0]) != embedding.shape[0]:
            found.append(
                f"config.json says vocab_size {config['vocab_size']}, and the embedding has"
                f" {embedding.shape[0]} rows."
            )
        layers = {tensor.layer for tensor in self.tensors if tensor.layer is not None}
        stated = config.get("num_hidden_layers")
        if layers and stated is not None and layers != set(range(stated)):
            found.append(f"config.json says {stated} layers, and the weights have {len(layers)}.")
        dead = sum(tensor.dead_rows for tensor in self.tensors)
        if dead:
            worst = max(self.tensors, key=lambda tensor: tensor.dead_rows)
            found.append(f"{dead} row(s) are all zero, {worst.dead_rows} of them in {worst.name}.")
        for parent in {parent for tensor in self.tensors for parent in tensor.against}:
            changes = [tensor.against[parent].change for tensor in self.tensors if parent in tensor.against]
            if not any(changes) and not self.lacking.get(parent):
                found.append(f"Every tensor equals that of {parent}: nothing was merged.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "model": self.model,
            "doctor": self.doctor(),
            "duplicates": self.duplicates,
            "lacking": dict(self.lacking),
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }


def look(
    model: Weights,
    parents: Sequence[Weights] = (),
    *,
    base: Weights | None = None,
    sample: int | None = 1 << 20,
    places: int = PLACES,
    readers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: threading.Event | None = None,
) -> WeightsLook:
    """Look at every tensor of a model, beside its parents'.

    Args:
        model: the model.
        parents: what it is held against.
        base: what the parents were fine-tuned from; with it their changes are compared too.
        sample: entries of a tensor that are read; None for all.
        places: that they are read from, evenly spaced; each is a request to the Hub.
        readers: tensors that are looked at together, so that the Hub's answers are waited for together.
        on_progress: called with the tensors done and the tensors in all.
        cancel: when set, the work ends after the tensor at hand.

    Raises:
        EvaluationError: a dtype that is not known.
        Cancelled: `cancel` was set.
    """
    lacking: dict[str, list[str]] = {parent.structure.name: [] for parent in parents}
    names = list(model.structure.tensors)

    def look_at(name: str) -> TensorLook:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        shape = model.structure.tensors[name].shape
        alike = {
            one.structure.name: one
            for one in parents
            if name in one.structure.tensors and one.structure.tensors[name].shape == shape
        }
        held = base.structure.tensors.get(name) if base else None
        known_base = base if held and held.shape == shape else None
        return _look_at(name, model, alike, known_base, sample, places)

    looks = []
    # Readers with several threads each would wait for one another.
    threads = torch.get_num_threads()
    each = max(1, threads // readers)
    with ThreadPoolExecutor(readers, initializer=torch.set_num_threads, initargs=(each,)) as pool:
        try:
            for look_of_one in pool.map(look_at, names):
                looks.append(look_of_one)
                for parent in parents:
                    if parent.structure.name not in look_of_one.against:
                        lacking[parent.structure.name].append(look_of_one.name)
                if on_progress is not None:
                    on_progress(len(looks), len(names))
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # what later threads begin with
    return WeightsLook(
        model.structure.name,
        model.structure.config,
        tuple(looks),
        {parent: tuple(missing) for parent, missing in lacking.items()},
    )


def _look_at(
    name: str,
    model: Weights,
    parents: Mapping[str, Weights],
    base: Weights | None,
    sample: int | None,
    places: int,
) -> TensorLook:
    sources = [model, *parents.values(), *([base] if base else [])]
    tensor = model.structure.tensors[name]
    for source in sources:
        dtype = source.structure.tensors[name].dtype
        if dtype not in _TORCH:
            raise EvaluationError(
                f"{source.structure.name}: {name} is stored as {dtype}. Expected one of {', '.join(_TORCH)}."
            )
    count = len(sources)
    dots = np.zeros((count, count))  # of all pairs, in float64
    apart = np.zeros(count)  # squared norms of the model minus each
    tasks = list(range(1, count - 1)) if base else []
    task_dots, conflicts = np.zeros((count, count)), np.zeros((count, count))
    digest = hashlib.blake2b(digest_size=16)
    read = nan = inf = dead = 0
    kept: list[list[torch.Tensor]] = []
    room = _SPECTRAL_ELEMENTS
    for begin, end in _pieces(tensor, sample, places):
        # One that takes part twice, such as the base that is looked at, is read once.
        rows = {
            key: one.rows(one.structure.tensors[name], begin, end)
            for key, one in {id(source): source for source in sources}.items()
        }
        parts = [rows[id(source)] for source in sources]
        first = parts[0]
        digest.update(first.numpy().tobytes())
        read += first.numel()
        nan += int(first.isnan().sum())
        inf += int(first.isinf().sum())
        if len(tensor.shape) > 1:
            dead += int((first == 0).all(1).sum())
        flat = [part.flatten().double() for part in parts]
        for i, j in itertools.combinations_with_replacement(range(count), 2):
            dots[i, j] += float(flat[i] @ flat[j])
        for i in range(1, count):
            apart[i] += float((flat[0] - flat[i]).square().sum())
        changes = {i: flat[i] - flat[-1] for i in tasks}
        for i, j in itertools.combinations_with_replacement(tasks, 2):
            task_dots[i, j] += float(changes[i] @ changes[j])
            conflicts[i, j] += int((changes[i].sign() != changes[j].sign()).sum())
        if len(tensor.shape) > 1 and room >= first.numel():
            kept.append(parts)
            room -= first.numel()
    whole = [torch.cat([parts[i] for parts in kept]) for i in range(count)] if kept else []
    spoilt = nan or inf or not np.isfinite(dots).all()
    against, between = {}, {}
    for i, parent in enumerate(parents, 1):
        spectrum = _spectrum(whole[0] - whole[i]) if whole and not spoilt else (None, None, 0.0)
        norm, other = math.sqrt(dots[0, 0]), math.sqrt(dots[i, i])
        moved = math.sqrt(apart[i])
        against[parent] = Against(
            _divided(moved, other),
            _divided(2 * moved, norm + other),
            _cosine(dots, 0, i),
            *spectrum,
        )
    for (i, one), (j, two) in itertools.combinations(enumerate(parents, 1), 2):
        if not base:
            between[f"{one} | {two}"] = Between(_cosine(dots, i, j))
            continue
        between[f"{one} | {two}"] = Between(
            _cosine(dots, i, j),
            _cosine(task_dots, i, j),
            float(conflicts[i, j] / read) if read else 0.0,
            _overlap(whole[i] - whole[-1], whole[j] - whole[-1]) if whole and not spoilt else None,
        )
    layer = _LAYER.search(name)
    return TensorLook(
        name,
        int(layer[1]) if layer else None,
        _LAYER.sub(".*.", name, count=1),
        tensor.shape,
        read / tensor.parameters if tensor.parameters else 1.0,
        math.sqrt(dots[0, 0]),
        nan,
        inf,
        dead,
        digest.hexdigest(),
        against,
        between,
    )


def _pieces(tensor: Tensor, sample: int | None, places: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows: all of them in blocks, or a sample from places evenly spaced."""
    rows = tensor.shape[0] if tensor.shape else 1
    wide = max(tensor.parameters // max(rows, 1), 1)
    at_once = max(1, _BLOCK // wide)
    if sample is None or tensor.parameters <= sample:
        for begin in range(0, rows, at_once):
            yield begin, min(begin + at_once, rows)
        return
    wanted = max(sample // wide, min(places, rows))
    for place in range(places):
        begin = rows * place // places
        length = wanted * (place + 1) // places - wanted * place // places
        if length:
            yield begin, min(begin + min(length, at_once), rows)


def _spectrum(matrix: torch.Tensor) -> tuple[float | None, float | None, float]:
    """Effective rank, share of energy in the leading directions, and the share that was missed."""
    total = float(matrix.double().square().sum())
    if not total:
        return 0.0, 0.0, 0.0
    if min(matrix.shape) <= _EXACT_SIDE:
        values = torch.linalg.svdvals(matrix).double()
        kept = values[values > torch.finfo(torch.float32).eps * max(matrix.shape) * values[0]]
        shares = kept / kept.sum()
        rank = float(torch.exp(-(shares * shares.log()).sum()))
        return rank, float(values[:DIRECTIONS].square().sum() / values.square().sum()), 0.0
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        values = torch.svd_lowrank(matrix, q=DIRECTIONS + 16, niter=4)[1].double()
    leading = float(values[:DIRECTIONS].square().sum()) / total
    return None, leading, max(0.0, 1 - float(values.square().sum()) / total)


def _overlap(one: torch.Tensor, two: torch.Tensor) -> float | None:
    """How much of the leading right singular directions two changes share; None where they fill the space."""
    if min(one.shape) > _EXACT_SIDE:
        with _DRAWING, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            spaces = [torch.svd_lowrank(matrix, q=DIRECTIONS, niter=4)[2].T for matrix in (one, two)]
    else:
        spaces = []
        for matrix in (one, two):
            _, values, directions = torch.linalg.svd(matrix, full_matrices=False)
            floor = torch.finfo(torch.float32).eps * max(matrix.shape) * values[0]
            spaces.append(directions[: min(DIRECTIONS, int((values > floor).sum()))])
    rank = min(len(space) for space in spaces)
    if not rank or rank >= one.shape[1]:
        return None
    return min(1.0, float(torch.linalg.norm(spaces[0][:rank] @ spaces[1][:rank].T)) / math.sqrt(rank))


def _cosine(dots: np.ndarray[Any, np.dtype[np.float64]], i: int, j: int) -> float:
    if not dots[i, i] and not dots[j, j]:
        return 1.0
    return _divided(float(dots[i, j]), math.sqrt(dots[i, i] * dots[j, j]))


def _divided(one: float, two: float) -> float:
    return one / two if two else (0.0 if not one else math.inf)
