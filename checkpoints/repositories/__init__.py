"""Where a model's files are: a folder, the Hub, a bucket or an object store, or a place inside one of them."""

from __future__ import annotations

from pathlib import Path

from checkpoints.names import STORE_SCHEMES, hub_id, is_address, is_in_bucket, is_in_store
from checkpoints.problems import CheckpointError, Problem
from checkpoints.repositories.folder import Folder
from checkpoints.repositories.repository import Location, Repository, Token
from checkpoints.repositories.subfolder import Subfolder


def open_repository(name: str, revision: str | None, token: Token, allow_folders: bool) -> Repository:
    """The files behind a name; see `open_checkpoint`."""
    if is_in_store(name):
        return _open_store(name, revision, allow_folders)
    if is_in_bucket(name):
        return _open_bucket(name, revision, token)
    path = Path(name).expanduser()
    if allow_folders and path.is_dir():
        return Folder(path)
    if allow_folders and path.is_file():
        return Folder(path.parent, path.name)
    # Imported here: the Hub's client takes most of a second, which a merge of folders need not wait for.
    from checkpoints.repositories.hub import find_on_hub

    words = name.split("/")
    owner, place = "/".join(words[:2]), "/".join(words[2:])
    if not hub_id(owner):
        code = "no-folder-or-model-id" if allow_folders else "no-model-id"
        raise CheckpointError(Problem(code, {"given": name}, name))
    repository = find_on_hub(owner, revision, token)
    return Subfolder(repository, place) if place else repository


def _open_store(name: str, revision: str | None, allow_folders: bool) -> Repository:
    """A model in an object store. It is read with this machine's credentials, as folders are: not for strangers.

    Raises:
        CheckpointError: this is not allowed, or there is no such model.
    """
    from checkpoints.repositories.store import StoreRepository

    scheme = next(scheme for scheme in STORE_SCHEMES if name.startswith(scheme))
    if not allow_folders:
        raise CheckpointError(Problem("store-refused", {"scheme": scheme}, scheme))
    if revision is not None:
        raise CheckpointError(Problem("store-address", {"scheme": scheme}, scheme))
    return StoreRepository(name)


def _open_bucket(name: str, revision: str | None, token: Token) -> Repository:
    """A model in a bucket of the Hub, which strangers may name too: it is read with their own token.

    Raises:
        CheckpointError: the address is none, or there is no such model.
    """
    from checkpoints.repositories.bucket import BucketRepository

    if revision is not None:
        raise CheckpointError(Problem("bucket-address", {"given": f"{name}@{revision}"}, name))
    return BucketRepository(name, token)


def open_location(location: Location, token: Token) -> Repository:
    """Open what `Repository.location` described, without asking the Hub.

    Raises:
        CheckpointError: it is a folder or in an object store or a bucket and changed, or is not there.
    """
    if location.is_folder or is_address(location.name):
        repository = open_repository(location.name, None, token, allow_folders=True)
        if repository.version != location.version:
            repository.close()
            raise CheckpointError(has_changed(location.name))
        return repository
    from checkpoints.repositories.hub import HubRepository

    whole = HubRepository(location.name, location.version, location.files, token)
    return Subfolder(whole, location.place) if location.place else whole


def has_changed(name: str) -> Problem:
    return Problem("model-changed", {"model": name}, name)
