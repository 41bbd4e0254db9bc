"""Where a merge goes: a name under an account of the Hub, or a folder among the results of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from merging import MergeError, Problem
from ui.host import Host
from ui.languages.translate import t

HUB, FOLDER, DOWNLOAD = "hub", "folder", "download"
# What happens to a model that stands there already.
REFUSE, REVISION, PULL_REQUEST = "refuse", "revision", "pull request"
# The Hub's rule, without the doubled "--" and ".." that it also refuses (checked apart).
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")


def ways(existing: str) -> dict[str, bool]:
    """What the page's field says of a model that stands there, as `MergeService` takes it."""
    return {"overwrite": existing == REVISION, "pull_request": existing == PULL_REQUEST}


def place(host: Host, kind: str, owner: str, name: str, owners: Sequence[str]) -> str:
    """The destination that the page's fields say, as `run_plan` takes it; of a download the name alone.

    Raises:
        MergeError: there is no owner, or the name or the owner is wrong.
    """
    _check_name(name)
    if kind == DOWNLOAD:
        return name
    if kind == FOLDER and host.allow_folders:
        return str(host.results / name)
    if not owner:
        fix = t("destination.no_owner.fix.laptop" if host.allow_folders else "destination.no_owner.fix")
        raise MergeError(Problem("no-owner", t("destination.no_owner"), fix))
    if owner not in owners:
        fix = t("destination.bad_owner.fix", owners=", ".join(owners))
        raise MergeError(Problem("bad-owner", t("destination.bad_owner", owner=owner), fix))
    return f"hf://{owner}/{name}"


def place_of(host: Host, text: str) -> str:
    """The destination that an API caller wrote: `hf://owner/name`, or a bare name of a folder on a laptop.

    Raises:
        MergeError: it is neither.
    """
    owner, slash, name = text.removeprefix("hf://").partition("/")
    if text.startswith("hf://") and slash and _is_name(owner):
        _check_name(name)
        return text
    if host.allow_folders and _is_name(text):
        return str(host.results / text)
    fix = t("destination.bad_place.fix.laptop" if host.allow_folders else "destination.bad_place.fix")
    raise MergeError(Problem("bad-place", t("destination.bad_place", place=text), fix))


def suggested_name(models: Sequence[str], method: str) -> str:
    """A name for the merge of these models: `SmolLM2-135M-Pirate-slerp`."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(models[0].partition("@")[0]).name) if models else "merged"
    name = f"{stem[:70]}-{method.replace('_', '-')}".strip("-._")
    return re.sub(r"([-.])\1+", r"\1", name)


def numbered(name: str) -> Iterator[str]:
    """What to call the next merges of the same models: `name-2`, `name-3` and so on, up to twenty."""
    return (f"{name}-{number}" for number in range(2, 21))


def _is_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and "--" not in name and ".." not in name


def _check_name(name: str) -> None:
    if not _is_name(name):
        message = t("destination.bad_name", name=name[:120])
        raise MergeError(Problem("bad-name", message, t("destination.bad_name.fix")))
