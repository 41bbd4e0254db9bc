"""Unfinished work on a branch of a private repository, from where another machine continues it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from checkpoints import Token
from checkpoints.problems import DestinationError, Problem
from checkpoints.repositories.repository import HUB_SCHEME, current_token
from checkpoints.repositories.retry import retry


class PrivateBranch:
    """Files on a branch.

    Args:
        repo: "owner/name"
        name: of the branch
        token: whose access to use

    Attributes:
        is_there: whether the branch existed when it was opened
        created: whether the repository was made when it was opened
    """

    def __init__(self, repo: str, name: str, token: Token = None) -> None:
        self.repo = repo
        self.name = name
        self.is_there = False
        self.created = False
        self._token = token

    def open(self) -> None:
        """Make the repository and the branch, unless they exist.

        Raises:
            DestinationError: the Hub refuses, or the repository is public.
        """
        with self._failures():
            info = self._info()
            if info is None:
                retry(lambda: self._api.create_repo(self.repo, private=True))
                self.created = True
            elif not info.private:
                raise DestinationError(Problem("state-not-private", {"repository": self.repo}))
            branches = retry(lambda: self._api.list_repo_refs(self.repo)).branches
            self.is_there = any(branch.name == self.name for branch in branches)
            if not self.is_there:
                retry(lambda: self._api.create_branch(self.repo, branch=self.name))

    def download(self, file: str, folder: Path) -> Path | None:
        """A file of the branch, in a folder; None if the branch has no such file.

        Raises:
            DestinationError: the Hub refuses.
        """
        with self._failures():
            if not retry(lambda: self._api.file_exists(self.repo, file, revision=self.name)):
                return None
            found = retry(
                lambda: self._api.hf_hub_download(self.repo, file, revision=self.name, local_dir=folder)
            )
        return Path(found)

    def store(self, files: Mapping[str, str | bytes], message: str) -> None:
        """Commit files.

        Args:
            files: paths on this machine, or contents, by their name on the branch
            message: of the commit

        Raises:
            DestinationError: the Hub refuses.
        """
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        with self._failures():
            retry(
                lambda: self._api.create_commit(
                    self.repo, operations, commit_message=message, revision=self.name
                )
            )

    def publish(self) -> None:
        """Make the repository public.

        Raises:
            DestinationError: the Hub refuses.
        """
        with self._failures():
            retry(lambda: self._api.update_repo_settings(self.repo, private=False))

    def remove(self) -> None:
        """Remove the branch. A branch that the Hub does not remove is left."""
        with contextlib.suppress(HfHubHTTPError, httpx2.HTTPError):
            retry(lambda: self._api.delete_branch(self.repo, branch=self.name))

    def remove_repository(self) -> None:
        """Remove the whole repository, in the same way."""
        with contextlib.suppress(HfHubHTTPError, httpx2.HTTPError):
            retry(lambda: self._api.delete_repo(self.repo))

    @property
    def _api(self) -> HfApi:
        return HfApi(token=current_token(self._token))

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn errors of the Hub into a `DestinationError`."""
        try:
            yield
        except (HfHubHTTPError, httpx2.HTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            values = {"repository": self.repo, "error": str(status or type(error).__name__)}
            raise DestinationError(Problem("state-not-stored", values, HUB_SCHEME + self.repo)) from error

    def _info(self) -> Any:
        try:
            return retry(lambda: self._api.model_info(self.repo, timeout=30))
        except RepositoryNotFoundError:
            return None
