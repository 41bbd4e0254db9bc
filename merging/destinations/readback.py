"""Reading a result back from the Hub, and comparing it with what was sent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from checkpoints import Checkpoint, Token, open_checkpoint
from checkpoints.view import View
from merging.destinations.receipt import Receipt
from merging.plan import Plan

# Paths in one request; the Hub takes a thousand or so.
PATHS = 200


@dataclass(frozen=True)
class Sent:
    """A file as it was sent: size in bytes and sha256; git's name of the content if it may be a regular file."""

    size: int
    sha256: str
    blob: str | None = None

    @classmethod
    def of(cls, data: bytes) -> Sent:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return cls(len(data), hashlib.sha256(data).hexdigest(), blob)

    @classmethod
    def of_receipt(cls, receipt: Receipt) -> Sent:
        assert receipt.sha256, f"the content of {receipt.filename} is not known"
        return cls(receipt.size, receipt.sha256)

    def is_like(self, file: RepoFile) -> bool:
        """Whether the Hub's entry has this content. Of a large file the Hub tells the sha256, of others the blob."""
        content = file.lfs.sha256 == self.sha256 if file.lfs else file.blob_id == self.blob
        return file.size == self.size and content


def files_that_differ(api: HfApi, repo: str, commit: str, sent: Mapping[str, Sent]) -> list[str]:
    """The files of a commit that are not there, or not with the size and hash they were sent with.

    Raises:
        HfHubHTTPError, httpx2.TransportError: the Hub does not tell.
    """
    names = sorted(sent)
    there: dict[str, RepoFile] = {}
    for start in range(0, len(names), PATHS):
        entries = api.get_paths_info(repo, names[start : start + PATHS], revision=commit)
        there |= {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    return [name for name in names if name not in there or not sent[name].is_like(there[name])]


def tensors_that_differ(repo: str, commit: str, token: Token, plan: Plan) -> list[str]:
    """The tensors that are not in the headers of a commit as they were planned, or only there.

    Raises:
        CheckpointError: the headers cannot be read.
    """
    bare = "config.json" not in plan.files
    model = open_checkpoint(repo, commit, token=token, allow_folders=False, is_bare=bare)
    try:
        stored: Checkpoint = model
        while isinstance(stored, View):
            stored = stored.own
        there = {(tensor.name, tensor.dtype, tensor.shape, tensor.file) for tensor in stored.tensors.values()}
    finally:
        model.close()
    planned = {
        (header.name, header.dtype, header.shape, header.file)
        for shard in plan.shards
        for tensor in shard.tensors
        for header in tensor.headers(shard.filename)
    }
    return sorted(name for name, *_ in planned ^ there)
