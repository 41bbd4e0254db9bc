"""Opening a model by its name."""

from __future__ import annotations

from checkpoints.checkpoint import Checkpoint
from checkpoints.formats import format_of
from checkpoints.repositories import open_repository
from checkpoints.repositories.repository import Token
from checkpoints.stored import read_headers
from checkpoints.views import viewed


def open_checkpoint(
    name: str,
    revision: str | None = None,
    *,
    token: Token = None,
    allow_folders: bool = True,
    is_bare: bool = False,
    is_tokenizer: bool = False,
) -> Checkpoint:
    """Open a model: a folder or a file if there is one of this name (and these are allowed), else one on the Hub.

    A quantized model is seen as plain numbers where its form is known.

    >>> open_checkpoint("owner/name", "v1.0").tensors["lm_head.weight"].shape  # doctest: +SKIP

    Args:
        name: a folder, `owner/name`, an address in an object store, or a place in one of them: `owner/name/folder`, a
            file of weights
        revision: of a Hub model: branch, tag or commit; None for its main branch
        token: whose access to use
        allow_folders: False on a server whose visitors must not read its disk, nor object stores with its credentials
        is_bare: whether it may be weights without a config; a file of weights may
        is_tokenizer: whether it may be a tokenizer alone; it then has no tensors

    Raises:
        CheckpointError: with one problem that says why.
    """
    repository = open_repository(name, revision, token, allow_folders)
    try:
        return viewed(read_headers(repository, is_bare or format_of(name) is not None, is_tokenizer))
    except BaseException:
        repository.close()
        raise
