"""Where a merge goes: a folder, or a repository on the Hub."""

from __future__ import annotations

from pathlib import Path

from checkpoints.problems import DestinationError, Problem
from checkpoints.repositories.repository import Token
from merging.destinations.destination import Destination, Place, ShardWriter
from merging.destinations.folder import FolderDestination

__all__ = ["Destination", "Place", "ShardWriter", "open_destination"]


def open_destination(
    to: str,
    *,
    token: Token = None,
    private: bool = True,
    overwrite: bool = False,
    pull_request: bool = False,
    allow_folders: bool = True,
) -> Destination:
    """The destination that a text names: `hf://owner/name`, or a folder.

    Args:
        pull_request: what a repository holds is left, and a pull request opened; a folder has no such thing

    Raises:
        DestinationError: the text names none.
    """
    if to.startswith("hf://"):
        from merging.destinations.hub import PREFIX, HubDestination

        return HubDestination(
            to.removeprefix(PREFIX),
            token=token,
            private=private,
            overwrite=overwrite,
            pull_request=pull_request,
        )
    if not to.strip() or not allow_folders:
        message = f"'{to}' is not a destination."
        raise DestinationError(Problem("destination-name", message, "Write `hf://owner/name`.", to))
    return FolderDestination(Path(to), overwrite=overwrite)
