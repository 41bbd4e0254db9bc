"""The program that a rented machine runs: this very one, as an archive that pip installs."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from huggingface_hub import HfApi

import merging

ROOT = Path(merging.__file__).parents[1]
# What the command line needs; `README.md` and `LICENSE` are named in `pyproject.toml`.
PACKAGES = ("alloy", "checkpoints", "evaluation", "healing", "merging", "searching")
FILES = ("pyproject.toml", "README.md", "LICENSE")
SUFFIXES = (".py", ".jinja", ".json", ".txt", ".yaml", ".typed")
# The repository of a visitor that the archive is put into.
REPOSITORY = "alloy-code"
# The same files give the same archive.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Code:
    """Where the archive is: a file at a commit of a private repository."""

    repository: str
    file: str
    commit: str


@lru_cache(maxsize=1)
def archive() -> bytes:
    """The running program as a zip file that pip installs; empty where it was itself installed from a package, which
    then is what a rented machine installs."""
    if not all((ROOT / name).is_file() for name in FILES):
        return b""
    paths = [ROOT / name for name in FILES]
    for package in PACKAGES:
        found = (ROOT / package).rglob("*")
        paths += [path for path in found if path.suffix in SUFFIXES and path.is_file()]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(paths):
            name = zipfile.ZipInfo(path.relative_to(ROOT).as_posix(), _EPOCH)
            file.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def upload(api: HfApi, owner: str) -> Code | None:
    """Put the archive into a private repository of its user, unless it is there; None where there is no archive.

    Raises:
        HfHubHTTPError, httpx2.HTTPError: the Hub does not take it.
    """
    content = archive()
    if not content:
        return None
    repository, file = f"{owner}/{REPOSITORY}", f"alloy-{hashlib.sha256(content).hexdigest()[:16]}.zip"
    api.create_repo(repository, private=True, exist_ok=True)
    if api.file_exists(repository, file):
        return Code(repository, file, str(api.model_info(repository).sha))
    made = api.upload_file(
        path_or_fileobj=content, path_in_repo=file, repo_id=repository, commit_message="Add Alloy"
    )
    return Code(repository, file, str(made.oid))
