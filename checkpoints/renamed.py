"""A checkpoint under the names of another one of its class, whose files were written by another release.

transformers renames modules from release to release, and stores the experts of a layer one by one or as one tensor.
What differs is where in a file the elements are, so nothing is computed and nothing stored on the way.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from checkpoints.architecture import UNKNOWN, model_class
from checkpoints.checkpoint import Checkpoint
from checkpoints.dtypes import itemsize
from checkpoints.formats.header import TensorHeader
from checkpoints.loading import Loading, Part, Shape, load
from checkpoints.naming import Endings, assume_loading
from checkpoints.view import View

LAYER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class Assembled:
    """A tensor that is a concatenation of others' elements."""

    shape: Shape
    parts: tuple[Part, ...]


class RenamedCheckpoint(View):
    """A checkpoint whose tensors have other names, and are perhaps cut in another way.

    Args:
        own: the checkpoint itself
        assembled: by their new names, the tensors that change
    """

    def __init__(self, own: Checkpoint, assembled: Mapping[str, Assembled]):
        super().__init__(own)
        self.assembled = {
            name: tensor
            for name, tensor in assembled.items()
            if all(part.tensor in own.tensors for part in tensor.parts)
        }
        used = {part.tensor for tensor in assembled.values() for part in tensor.parts}
        self.tensors = {
            **{name: header for name, header in own.tensors.items() if name not in used},
            **{name: self._header(name, tensor) for name, tensor in self.assembled.items()},
        }

    def read_into(self, tensor: str, start: int, buffer: memoryview) -> None:
        assembled = self.assembled.get(tensor)
        if assembled is None:
            self.own.read_into(tensor, start, buffer)
            return
        width = itemsize(self.tensors[tensor].dtype)
        begin = 0  # of the part, in the tensor's bytes
        for part in assembled.parts:
            end = begin + part.count * width
            low, high = max(start, begin), min(start + len(buffer), end)
            if low < high:
                self.own.read_into(
                    part.tensor, part.first * width + low - begin, buffer[low - start : high - start]
                )
            begin = end

    def own_names(self, tensors: Collection[str]) -> list[str]:
        parts = (self.assembled[name].parts if name in self.assembled else () for name in tensors)
        kept = [name for name in tensors if name not in self.assembled]
        return list(dict.fromkeys([*kept, *(part.tensor for each in parts for part in each)]))

    def bytes_to_read(self, tensor: str) -> int:
        if tensor not in self.assembled:
            return self.own.bytes_to_read(tensor)
        return sum(
            self.own.bytes_to_read(part.tensor) * part.count // max(self.own.tensors[part.tensor].elements, 1)
            for part in self.assembled[tensor].parts
        )

    def _header(self, name: str, tensor: Assembled) -> TensorHeader:
        first = self.own.tensors[tensor.parts[0].tensor]
        if len(tensor.parts) == 1 and tensor.parts[0].count == first.elements:
            return replace(first, name=name, shape=tensor.shape)
        nbytes = math.prod(tensor.shape) * itemsize(first.dtype)
        return replace(first, name=name, shape=tensor.shape, file="", start=0, nbytes=nbytes)


def in_names_of(own: Checkpoint, other: Checkpoint) -> dict[str, Assembled]:
    """The tensors of a checkpoint that another one of its class has under other names or cut in another way.

    Returns:
        By the other one's names; empty where the names are the same, or where they do not mean the same.
    """
    kinds, others = ({LAYER.sub("*", name, count=1) for name in model.tensors} for model in (own, other))
    classes = {model_class(model.config) for model in (own, other)}
    if kinds <= others or others <= kinds or len(classes) > 1 or UNKNOWN in classes:
        return {}
    shapes, their_shapes = (
        {name: header.shape for name, header in model.tensors.items()} for model in (own, other)
    )
    ours = load(own.config, shapes)
    theirs = load(other.config, their_shapes) if ours else None
    if ours and theirs:
        return _Assembly(ours, theirs, own, other).tensors({})
    ours, theirs = assume_loading(shapes), assume_loading(their_shapes)
    return _Assembly(ours, theirs, own, other).tensors(_same_by_ending(ours, theirs))


def _same_by_ending(ours: Loading, theirs: Loading) -> dict[str, str]:
    """Kinds of parameters under names that only one has, and what the other calls them."""
    kinds, others = ({_kind(name) for name in loading.parameters} for loading in (ours, theirs))
    found: dict[str, str] = {}
    # First those that differ before the layer, then those that differ inside: a router, say, in `mlp` or `moe`.
    for least in (None, 2):
        left, right = Endings(kinds - others - found.keys()), Endings(others - kinds - {*found.values()})
        for kind in kinds - others - found.keys():
            other = right.nearest(kind, least)
            if other and left.nearest(other, least) == kind:
                found[kind] = other
    return found


def _kind(name: str) -> str:
    """A name without the number of its layer."""
    return LAYER.sub("*", name, count=1)


def _layer(name: str) -> str:
    match = LAYER.search(name)
    return match[0] if match else ""


class _Assembly:
    """Puts the elements of one model into the tensors of another."""

    def __init__(self, ours: Loading, theirs: Loading, own: Checkpoint, other: Checkpoint):
        self.ours = ours
        self.theirs = theirs
        self.own = own
        self.other = other
        # By kind of parameter: the name of one, and the parts that it is made of.
        self.forms = {
            _kind(name): parts
            for name, parts in reversed([*theirs.parameters.items()])
            if all(_layer(part.tensor) == _layer(name) for part in parts)
        }

    def tensors(self, called: Mapping[str, str]) -> dict[str, Assembled]:
        """The other one's tensors, as far as they differ.

        Args:
            called: what the other one calls a kind of parameter, where it has another name
        """
        found: dict[str, Assembled] = {}
        pieces: dict[tuple[str, str], list[tuple[int, Sequence[Part]]]] = defaultdict(list)
        for name, parts in self.ours.parameters.items():
            form = self.forms.get(called.get(_kind(name), _kind(name)), ())
            if self._is_whole(self.own, parts) and self._is_whole(self.other, form):
                target = LAYER.sub(_layer(name), form[0].tensor, count=1)
                if target != parts[0].tensor:
                    found[target] = Assembled(self.own.tensors[parts[0].tensor].shape, parts)
            elif sum(part.count for part in form) == sum(part.count for part in parts):
                at = 0
                for part in form:
                    target = LAYER.sub(_layer(name), part.tensor, count=1)
                    pieces[target, part.tensor].append((part.first, list(_cut(parts, at, part.count))))
                    at += part.count
        for (target, like), of_target in pieces.items():
            if assembled := self._joined(like, of_target):
                found[target] = assembled
        return {} if self._overlap(found) else found

    def _is_whole(self, model: Checkpoint, parts: Sequence[Part]) -> bool:
        return len(parts) == 1 and parts[0].count == model.tensors[parts[0].tensor].elements

    def _joined(self, like: str, pieces: Sequence[tuple[int, Sequence[Part]]]) -> Assembled | None:
        """A tensor of the shape of another one, from pieces that begin at these elements of it."""
        parts: list[Part] = []
        end = 0
        for first, some in sorted(pieces, key=lambda piece: piece[0]):
            if first != end:
                return None
            parts += some
            end += sum(part.count for part in some)
        header = self.other.tensors[like]
        dtypes = {self.own.tensors[part.tensor].dtype for part in parts}
        return Assembled(header.shape, tuple(parts)) if end == header.elements and len(dtypes) == 1 else None

    def _overlap(self, found: Mapping[str, Assembled]) -> bool:
        """Whether a tensor would take the name of one that stays."""
        used = {part.tensor for tensor in found.values() for part in tensor.parts}
        return any(name in self.own.tensors and name not in used for name in found)


def _cut(parts: Sequence[Part], first: int, count: int) -> Iterator[Part]:
    """Elements from a place on in parts that follow each other."""
    begin = 0
    for part in parts:
        low, high = max(first, begin), min(first + count, begin + part.count)
        if low < high:
            yield Part(part.tensor, part.first + low - begin, high - low)
        begin += part.count
