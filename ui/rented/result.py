"""The result of a rented machine, as the Hub holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import HfApi, constants

from checkpoints.names import bucket_place
from checkpoints.repositories.bucket import bucket_entries
from checkpoints.repositories.repository import HUB_SCHEME
from merging import Result
from merging.destinations import ResultPlace
from ui.rented.job import failures


def verified_result(api: HfApi, to: str, found: Mapping[str, Any], weights: int, seconds: float) -> Result:
    """The result as a job reports it, if the Hub holds it.

    Args:
        to: where it is to be
        found: what the job says
        weights: bytes of weights that are to be there; 0 where that is not known
        seconds: that were spent

    Raises:
        MergeError: it is not there.
    """
    location = str(found.get("location", to))
    if location.partition("@")[0] != to:
        location = to
    name, _, revision = location.removeprefix(HUB_SCHEME).partition("@")
    told = str(found.get("commit") or "") or None
    commit, sizes = _there(api, to, told or revision or None)
    size = sum(nbytes for file, nbytes in sizes.items() if file.endswith(".safetensors"))
    gguf = found.get("gguf")
    return Result(
        location,
        str(found.get("url") or f"{constants.ENDPOINT}/{name}"),
        told or commit,
        int(found.get("bytes_out") or size),
        float(found.get("seconds") or seconds),
        verified=size == (weights or int(found.get("bytes_out") or 0)) > 0,
        read_by=tuple(map(str, found.get("read_by", ()))),
        written_by=tuple(map(str, found.get("written_by", ()))),
        gguf=_place(gguf) if isinstance(gguf, dict) else None,
    )


def _there(api: HfApi, to: str, revision: str | None = None) -> tuple[str | None, dict[str, int]]:
    """The commit and the files of a result on the Hub, with their sizes in bytes; a bucket has no commits.

    Raises:
        MergeError: there is none, or the Hub does not say.
    """
    with failures():
        if place := bucket_place(to):
            entries = bucket_entries(*place, api.token)
            return None, {path: entry.size for path, entry in entries.items()}
        info = api.model_info(to.removeprefix(HUB_SCHEME), revision=revision, files_metadata=True)
    return info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _place(data: Mapping[str, Any]) -> ResultPlace | None:
    """Where GGUF files are, as far as it is a place on the Hub."""
    location, url, commit = (str(data.get(name) or "") for name in ("location", "url", "commit"))
    if not location.startswith(HUB_SCHEME):
        return None
    return ResultPlace(location, url or None, commit or None, data.get("verified") is True)
