"""Where a model's files are: a folder or the Hub, or a place inside one of them."""

from __future__ import annotations

from pathlib import Path

from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories.folder import Folder
from checkpoints.repositories.repository import Repository, Token
from checkpoints.repositories.subfolder import Part


def open_repository(name: str, revision: str | None, token: Token, allow_folders: bool) -> Repository:
    """The files behind a name; see `open_checkpoint`."""
    path = Path(name).expanduser()
    if allow_folders and path.is_dir():
        return Folder(path)
    if allow_folders and path.is_file():
        return Folder(path.parent, path.name)
    # Imported here: the Hub's client takes most of a second, which a merge of folders need not wait for.
    from checkpoints.repositories.hub import HubRepository, hub_id

    words = name.split("/")
    owner, place = "/".join(words[:2]), "/".join(words[2:])
    if not hub_id(owner):
        kind = "neither a folder here nor a model's id" if allow_folders else "not a model's id"
        message = f"'{name}' is {kind}."
        raise CheckpointError(Problem("model-name", message, "Write `owner/name`.", name))
    repository = HubRepository(owner, revision, token)
    return Part(repository, place) if place else repository
