"""Where a merge goes: a name under an account of the Hub or in a bucket, or a folder among this machine's results."""

from __future__ import annotations

import re
from dataclasses import dataclass

from checkpoints.names import bucket_place, is_address, is_in_bucket, is_in_store, is_store_address
from checkpoints.repositories.repository import HUB_SCHEME
from merging import MergeError, Problem
from ui.host import Host

HUB, FOLDER, DOWNLOAD, BUCKET = "hub", "folder", "download", "bucket"
# The problem that nobody is signed in: on a Space, and on a machine of one's own.
NO_OWNER = ("no-owner", "no-owner-here")
# What happens to an existing model.
REFUSE, REVISION, PULL_REQUEST = "refuse", "revision", "pull request"
# The Hub's rule for names; it also refuses "--" and "..", which `_is_name` checks.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")


@dataclass(frozen=True)
class DestinationChoice:
    """What the page's fields say of the destination.

    Args:
        kind: HUB, FOLDER, DOWNLOAD or BUCKET
        owner: under whose name on the Hub; empty for none
        name: of the new model; empty to suggest one
        existing: what happens to an existing model: REFUSE, REVISION or PULL_REQUEST
        private: whether a new repository is private
        owners: the names that the visitor may write under
        address: of a bucket, or on a laptop of a place in an object store; the model is a folder in it
    """

    kind: str = HUB
    owner: str = ""
    name: str = ""
    existing: str = REFUSE
    private: bool = True
    owners: tuple[str, ...] = ()
    address: str = ""

    @property
    def is_download(self) -> bool:
        return self.kind == DOWNLOAD

    @property
    def for_existing(self) -> dict[str, bool]:
        """What to do with an existing model, as keyword arguments of `MergeService`."""
        return {"overwrite": self.existing == REVISION, "pull_request": self.existing == PULL_REQUEST}

    def location(self, host: Host, name: str) -> str:
        """The destination as `run_plan` takes it; for a download the name alone.

        Args:
            name: of the new model, suggested or as it is in the field

        Raises:
            MergeError: there is no owner, or the name or the owner is wrong.
        """
        _check_name(name)
        if self.is_download:
            return name
        if self.kind == FOLDER and host.allow_folders:
            return str(host.results / name)
        if self.kind == BUCKET:
            return self._in_bucket(host, name)
        if not self.owner:
            raise MergeError(Problem("no-owner-here" if host.allow_folders else "no-owner"))
        self._check_owner(self.owner)
        return f"{HUB_SCHEME}{self.owner}/{name}"

    def _in_bucket(self, host: Host, name: str) -> str:
        """The address of a new folder in a bucket, or in an object store."""
        place = self.address.rstrip("/")
        if not is_address(place) or (is_in_bucket(place) and not bucket_place(place)):
            code = "no-address-here" if host.allow_folders else "no-address"
            raise MergeError(Problem(code, {"given": place[:120]}))
        to = destination_of(host, f"{place}/{name}")
        if found := bucket_place(to):
            if not self.owners:
                raise MergeError(Problem("no-owner-here" if host.allow_folders else "no-owner"))
            self._check_owner(found[0].partition("/")[0])
        return to

    def _check_owner(self, owner: str) -> None:
        if owner not in self.owners:
            raise MergeError(Problem("bad-owner", {"owner": owner, "owners": list(self.owners)}))


def destination_of(host: Host, text: str) -> str:
    """The destination that an API caller wrote: `hf://owner/name`, or an address in a bucket; on a laptop also a bare
    name of a folder, or an address in an object store.

    Raises:
        MergeError: it is none of them.
    """
    if is_in_store(text) and not (host.allow_folders and is_store_address(text)):
        scheme = text.partition("://")[0] + "://"
        code = "store-address" if host.allow_folders else "store-refused"
        raise MergeError(Problem(code, {"scheme": scheme}))
    if is_in_bucket(text):
        if bucket_place(text) is None:
            raise MergeError(Problem("bucket-address", {"given": text[:120]}))
        return text
    owner, slash, name = text.removeprefix(HUB_SCHEME).partition("/")
    if text.startswith(HUB_SCHEME) and slash and _is_name(owner):
        _check_name(name)
        return text
    if is_in_store(text):
        return text
    if host.allow_folders and _is_name(text):
        return str(host.results / text)
    raise MergeError(Problem("bad-place-here" if host.allow_folders else "bad-place", {"place": text}))


def _is_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and "--" not in name and ".." not in name


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise MergeError(Problem("bad-name", {"name": name[:120]}))
