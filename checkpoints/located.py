"""An open model as data: enough to open it elsewhere without asking the Hub what was already asked."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from checkpoints.adapters.adapted import AdaptedCheckpoint
from checkpoints.adapters.adapter import Adapter
from checkpoints.checkpoint import Checkpoint
from checkpoints.formats.header import TensorHeader
from checkpoints.repositories import open_location
from checkpoints.repositories.repository import Location, Token
from checkpoints.stored import StoredCheckpoint
from checkpoints.view import View
from checkpoints.views import viewed

Headers = tuple[TensorHeader, ...]


@dataclass(frozen=True)
class LocatedAdapter:
    """Where an adapter is, and what was read of it; the fields are those of `Adapter`."""

    location: Location
    config: Mapping[str, Any]
    tensors: Headers
    revision: str | None
    scale: float


@dataclass(frozen=True)
class LocatedCheckpoint:
    """Where a model is, and what was read of it.

    Args:
        location: of the files that hold the tensors
        config: the content of config.json
        tensors: the headers of the tensors that can be read, of the model without adapters
        adapters: that are applied, in order
    """

    location: Location
    config: Mapping[str, Any]
    tensors: Headers
    adapters: tuple[LocatedAdapter, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> LocatedCheckpoint:
        return cls.from_data(json.loads(text))

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> LocatedCheckpoint:
        """From what `dataclasses.asdict` and JSON make of it."""
        adapters = (
            LocatedAdapter(
                Location(**part["location"]),
                part["config"],
                _headers(part["tensors"]),
                part["revision"],
                part["scale"],
            )
            for part in data["adapters"]
        )
        return cls(Location(**data["location"]), data["config"], _headers(data["tensors"]), tuple(adapters))


def locate(checkpoint: Checkpoint, tensors: Collection[str]) -> LocatedCheckpoint:
    """Describe a stored model, or one under adapters.

    >>> again = open_located(locate(model, ["lm_head.weight"]), token=None)  # doctest: +SKIP

    Args:
        checkpoint: as `open_checkpoint` and `open_adapter` return it
        tensors: that will be read; under adapters all are described, for an adapter is fitted to the whole model
    """
    adapters = []
    while isinstance(checkpoint, AdaptedCheckpoint):
        adapters.append(_located_adapter(checkpoint.adapter))
        checkpoint = checkpoint.base
    names: Collection[str] = checkpoint.tensors if adapters else tensors
    while isinstance(checkpoint, View):
        names = checkpoint.own_names(names)
        checkpoint = checkpoint.own
    assert isinstance(checkpoint, StoredCheckpoint), "only what is stored has a location"
    headers = tuple(checkpoint.tensors[name] for name in names)
    return LocatedCheckpoint(
        checkpoint.repository.location(_files(headers)), checkpoint.config, headers, tuple(reversed(adapters))
    )


def _located_adapter(adapter: Adapter) -> LocatedAdapter:
    headers = tuple(adapter.tensors.values())
    location = adapter.repository.location(_files(headers))
    return LocatedAdapter(location, adapter.config, headers, adapter.revision, adapter.scale)


def _files(headers: Headers) -> list[str]:
    return sorted({header.file for header in headers})


def _headers(data: Iterable[Mapping[str, Any]]) -> Headers:
    return tuple(TensorHeader(**{**entry, "shape": tuple(entry["shape"])}) for entry in data)


def open_located(located: LocatedCheckpoint, token: Token) -> Checkpoint:
    """Open a model again; of a model on the Hub nothing is read before its tensors are.

    >>> model = open_located(LocatedCheckpoint.from_json(text), token=None)  # doctest: +SKIP

    Raises:
        CheckpointError: a folder changed, or is not on this machine.
    """
    repository = open_location(located.location, token)
    tensors = {header.name: header for header in located.tensors}
    opened = viewed(StoredCheckpoint(repository, dict(located.config), tensors))
    try:
        for part in located.adapters:
            headers = {header.name: header for header in part.tensors}
            where = open_location(part.location, token)
            opened = AdaptedCheckpoint(
                opened, Adapter(where, part.config, headers, part.revision, part.scale)
            )
    except BaseException:
        opened.close()
        raise
    return opened
