"""The state of a training run on a branch of the private repository that its result goes to.

The branch is removed when the result is there, and `main` is not touched before. A run on another machine continues
from the branch.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from checkpoints import Token
from checkpoints.problems import Problem
from checkpoints.repositories.repository import HUB_SCHEME, current_token
from checkpoints.repositories.retry import retry
from evaluation import EvaluationError
from healing.training import State, room_named

# On the branch beside the state: the run's key, and whether the run made the repository.
_ABOUT = "heal.json"


class Branch(State):
    """A state that is also on the Hub.

    Args:
        path: of the state in the work folder
        repo: "owner/name"
        key: of the run
        token: whose access to use
    """

    def __init__(self, path: Path, repo: str, key: str, token: Token = None) -> None:
        super().__init__(path)
        self.repo = repo
        self.key = key
        self.name = f"heal-{key[:16]}"
        self._token = token
        self._created = False
        self._is_there = False

    def open(self) -> None:
        """Make the repository and the branch, unless they are there.

        Raises:
            EvaluationError: the Hub refuses, or the repository is public.
        """
        with self._failures():
            info = self._info()
            if info is None:
                retry(lambda: self._api().create_repo(self.repo, private=True))
                self._created = True
            elif not info.private:
                raise EvaluationError(Problem("state-not-private", {"repository": self.repo}))
            branches = retry(lambda: self._api().list_repo_refs(self.repo)).branches
            self._is_there = any(branch.name == self.name for branch in branches)
            if not self._is_there:
                retry(lambda: self._api().create_branch(self.repo, branch=self.name))
            elif about := self._download(_ABOUT):
                self._created = bool(self._read(about).get("created"))

    def fetched(self) -> Path | None:
        found = super().fetched()
        return found if found or not self._is_there else self._download(self.path.name)

    def stored(self) -> None:
        about = json.dumps({"key": self.key, "created": self._created}).encode()
        operations = [CommitOperationAdd(self.path.name, str(self.path)), CommitOperationAdd(_ABOUT, about)]
        with self._failures():
            retry(
                lambda: self._api().create_commit(
                    self.repo,
                    operations,
                    commit_message="Store the state of a training run",
                    revision=self.name,
                )
            )

    def close(self, *, cancelled: bool = False) -> None:
        """Remove the branch; after a cancelled run also the repository, if a run of this key made it."""
        with contextlib.suppress(HfHubHTTPError, httpx2.HTTPError):
            if cancelled and self._created:
                retry(lambda: self._api().delete_repo(self.repo))
            else:
                retry(lambda: self._api().delete_branch(self.repo, branch=self.name))

    def publish(self) -> None:
        """Make the repository public, if a run of this key made it."""
        if self._created:
            with self._failures():
                retry(lambda: self._api().update_repo_settings(self.repo, private=False))

    def _download(self, name: str) -> Path | None:
        """A file of the branch, in the work folder; None if the branch has no such file."""
        with self._failures():
            if not retry(lambda: self._api().file_exists(self.repo, name, revision=self.name)):
                return None
            with room_named(self.path.parent):
                found = retry(
                    lambda: self._api().hf_hub_download(
                        self.repo, name, revision=self.name, local_dir=self.path.parent
                    )
                )
        return Path(found)

    def _info(self) -> Any:
        try:
            return retry(lambda: self._api().model_info(self.repo, timeout=30))
        except RepositoryNotFoundError:
            return None

    def _api(self) -> HfApi:
        return HfApi(token=current_token(self._token))

    @contextlib.contextmanager
    def _failures(self) -> Any:
        """Turn errors of the Hub into an `EvaluationError`."""
        try:
            yield
        except (HfHubHTTPError, httpx2.HTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            values = {"repository": self.repo, "error": str(status or type(error).__name__)}
            raise EvaluationError(Problem("state-not-stored", values, HUB_SCHEME + self.repo)) from error

    @staticmethod
    def _read(path: Path) -> Mapping[str, Any]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
