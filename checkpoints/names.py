"""What a model is called: a folder or `owner/name`, and behind each `+` an adapter that is applied to it."""

from __future__ import annotations

import os
import re

MAX_ADAPTERS = 16
# What addresses in object stores begin with: those of S3, Google Cloud Storage and Azure.
STORE_SCHEMES = ("s3://", "gs://", "az://")
# A bucket and a path, and nothing that could be a credential: no user, no query.
_STORE_ADDRESS = re.compile(r"(?:s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(?:/(?!\.)[\w.=~!()*'-]+)+")
_LONGEST_ADDRESS = 500
# What addresses in the Hub's buckets begin with.
BUCKET_SCHEME = "hf://buckets/"
_BUCKET_FOLDER = re.compile(r"(?:/(?!\.)[\w.=~!()*'-]+)*")


def hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id: `owner/name`, or `name` alone for a few old models."""
    part = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
    return (
        len(name) <= 96 + 1 + 96 and re.fullmatch(f"{part}(/{part})?", name) is not None and ".." not in name
    )


def is_in_store(name: str) -> bool:
    """Whether a name is meant as an address in an object store."""
    return name.startswith(STORE_SCHEMES)


def is_store_address(name: str) -> bool:
    """Whether a name has the form of an address in an object store: `s3://bucket/path`."""
    return len(name) <= _LONGEST_ADDRESS and _STORE_ADDRESS.fullmatch(name) is not None


def is_in_bucket(name: str) -> bool:
    """Whether a name is meant as an address in a bucket of the Hub."""
    return name.startswith(BUCKET_SCHEME)


def bucket_place(name: str) -> tuple[str, str] | None:
    """The bucket's id and the folder in it, empty for all of it; None if a name is not an address in a bucket.

    >>> bucket_place("hf://buckets/owner/name/models/a")
    ('owner/name', 'models/a')
    """
    owner, _, rest = name.removeprefix(BUCKET_SCHEME).partition("/")
    bucket, slash, folder = rest.partition("/")
    is_one = is_in_bucket(name) and bool(bucket) and hub_id(f"{owner}/{bucket}")
    if not is_one or len(name) > _LONGEST_ADDRESS or not _BUCKET_FOLDER.fullmatch(slash + folder):
        return None
    return f"{owner}/{bucket}", folder


def is_address(name: str) -> bool:
    """Whether a name is meant as an address in an object store or a bucket, whose files have no commits."""
    return is_in_store(name) or is_in_bucket(name)


def model_name(location: str) -> str:
    """What a result is called where models are named: without `hf://` where it is a repository on the Hub.

    >>> model_name("hf://owner/name"), model_name("hf://buckets/owner/name")
    ('owner/name', 'hf://buckets/owner/name')
    """
    return location if is_in_bucket(location) else location.removeprefix("hf://")


def is_folder(text: str) -> bool:
    """Whether a name is that of a folder on this machine."""
    if "\0" in text:  # which no path has
        return False
    return os.path.isdir(os.path.expanduser(text))  # noqa: PTH111, PTH112 (no name is too long or odd for them)


def split_adapters(text: str, *, allow_folders: bool = True) -> list[str]:
    """Base and adapters of `BASE+ADAPTER+...`; a folder may have a `+` in its name.

    >>> split_adapters("owner/base+owner/adapter")
    ['owner/base', 'owner/adapter']

    Args:
        allow_folders: whether a part may be a folder of this machine
    """
    words = text.split("+", MAX_ADAPTERS)
    parts = []
    while words:
        count = 1
        if allow_folders:
            count = next((n for n in range(len(words), 1, -1) if is_folder("+".join(words[:n]))), 1)
        parts.append("+".join(words[:count]))
        words = words[count:]
    return parts
