"""The files of a model that are in the cache of huggingface_hub on this machine. The cache is read, never written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name


def cached_files(name: str, commit: str, files: Iterable[str]) -> dict[str, Path]:
    """Those of a commit's files that are in the cache."""
    if not _folder(name).is_dir():
        return {}
    found = {file: try_to_load_from_cache(name, file, revision=commit) for file in files}
    return {file: Path(path) for file, path in found.items() if isinstance(path, str)}


def cached_commit(name: str, revision: str | None) -> str | None:
    """The commit that a revision stood for when it was last downloaded; None for one that was not."""
    revision = revision or constants.DEFAULT_REVISION
    reference = _folder(name) / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    return commit if snapshot_folder(name, commit).is_dir() else None


def files_of_snapshot(name: str, commit: str) -> dict[str, int]:
    """The files of a commit in the cache: sizes in bytes by path."""
    snapshot = snapshot_folder(name, commit)
    paths = (Path(folder, file) for folder, _, files in os.walk(snapshot) for file in files)
    return {path.relative_to(snapshot).as_posix(): path.stat().st_size for path in paths if path.is_file()}


def _folder(name: str) -> Path:
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"))


def snapshot_folder(name: str, commit: str) -> Path:
    """Where a commit's files are, or would be."""
    return _folder(name) / "snapshots" / commit
