"""Where a merge goes: a folder, a repository or a bucket on the Hub, or an object store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from checkpoints.names import BUCKET_SCHEME, STORE_SCHEMES
from checkpoints.problems import DestinationError, Problem
from checkpoints.repositories.repository import HUB_SCHEME, Token
from merging.destinations.destination import (
    Destination,
    DestinationOptions,
    LostShardError,
    ResultPlace,
    ShardWriter,
    Sink,
    Stored,
)
from merging.destinations.folder import FolderDestination, FolderSink
from merging.destinations.receipt import Receipt

__all__ = [
    "DESTINATIONS",
    "HUB_SCHEME",
    "Destination",
    "DestinationOptions",
    "LostShardError",
    "Receipt",
    "ResultPlace",
    "ShardWriter",
    "Sink",
    "Stored",
    "open_destination",
    "open_sink",
    "scheme_of",
]


def _hub(place: str, options: DestinationOptions) -> Destination:
    from merging.destinations.hub import HubDestination  # the Hub's client takes most of a second to import

    return HubDestination(place, options)


def _hub_sink(data: Mapping[str, object], token: Token, check: Callable[[], None]) -> Sink:
    from merging.destinations.hub_sink import HubSink

    return HubSink.from_data(data, token, check)


def _bucket(place: str, options: DestinationOptions) -> Destination:
    from merging.destinations.bucket import BucketDestination

    return BucketDestination(BUCKET_SCHEME + place, options)


def _bucket_sink(data: Mapping[str, object], token: Token, check: Callable[[], None]) -> Sink:
    from merging.destinations.bucket_sink import BucketSink

    return BucketSink.from_data(data, token, check)


def _store(scheme: str, place: str, options: DestinationOptions) -> Destination:
    from merging.destinations.store import StoreDestination

    return StoreDestination(scheme + place, options)


def _store_sink(data: Mapping[str, object], token: Token, check: Callable[[], None]) -> Sink:
    from merging.destinations.store_sink import StoreSink

    return StoreSink.from_data(data, check)


@dataclass(frozen=True)
class DestinationKind:
    """A kind of destination.

    Args:
        open: the destination at a place, which is what follows the scheme in its address
        open_sink: its worker's half from `Sink.to_data`, with a token and a function that raises to stop
        for_visitors: whether visitors of a server may write there: with their own tokens, and not to its disk
    """

    open: Callable[[str, DestinationOptions], Destination]
    open_sink: Callable[[Mapping[str, object], Token, Callable[[], None]], Sink]
    for_visitors: bool = False


# By the scheme of their addresses, of which the first that fits counts; a folder's has none.
DESTINATIONS = {
    BUCKET_SCHEME: DestinationKind(_bucket, _bucket_sink, for_visitors=True),
    HUB_SCHEME: DestinationKind(_hub, _hub_sink, for_visitors=True),
    **{scheme: DestinationKind(partial(_store, scheme), _store_sink) for scheme in STORE_SCHEMES},
    "": DestinationKind(
        lambda place, options: FolderDestination(Path(place), overwrite=options.overwrite),
        lambda data, token, check: FolderSink(Path(str(data["folder"]))),
    ),
}


def scheme_of(to: str) -> str:
    """What the address of a destination begins with; empty for a folder.

    >>> scheme_of("hf://owner/name"), scheme_of("merged")
    ('hf://', '')
    """
    return next(scheme for scheme in DESTINATIONS if to.startswith(scheme))


def open_destination(
    to: str,
    *,
    token: Token = None,
    private: bool = True,
    overwrite: bool = False,
    pull_request: bool = False,
    allow_folders: bool = True,
) -> Destination:
    """The destination that a text names: `hf://owner/name`, an address in a bucket or an object store, or a
    folder.

    Args:
        allow_folders: False on a server whose visitors must not write to its disk, nor to stores with its credentials
        pull_request: whether what a repository holds is left, and a pull request opened; a folder has no such thing

    Raises:
        DestinationError: the text names none.
    """
    scheme = scheme_of(to)
    if scheme and not (allow_folders or DESTINATIONS[scheme].for_visitors):
        raise DestinationError(Problem("store-refused", {"scheme": scheme}, scheme))
    if not scheme and not (to.strip() and allow_folders):
        raise DestinationError(Problem("destination-name", {"given": to}, to))
    options = DestinationOptions(token, private, overwrite, pull_request)
    return DESTINATIONS[scheme].open(to.removeprefix(scheme), options)


def open_sink(
    data: Mapping[str, object], *, token: Token = None, check: Callable[[], None] = lambda: None
) -> Sink:
    """The sink of a destination that another process has begun.

    Args:
        data: from `Sink.to_data`
        token: whose access to use
        check: raises when the work is to stop
    """
    return DESTINATIONS[str(data["scheme"])].open_sink(data, token, check)
