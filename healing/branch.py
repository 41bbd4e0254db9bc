"""The state of a training run on a branch of the private repository that its result goes to.

The branch is removed when the result is there, and `main` is not touched before. A run on another machine continues
from the branch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoints import Token
from healing.training import State, room_named
from merging.destinations.private_branch import PrivateBranch

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
        self.key = key
        self._branch = PrivateBranch(repo, f"heal-{key[:16]}", token)
        self._created = False

    def open(self) -> None:
        """Make the repository and the branch, unless they are there.

        Raises:
            DestinationError: the Hub refuses, or the repository is public.
        """
        self._branch.open()
        self._created = self._branch.created
        if self._branch.is_there and (about := self._download(_ABOUT)):
            self._created = bool(self._read(about).get("created"))

    def fetched(self) -> Path | None:
        found = super().fetched()
        return found if found or not self._branch.is_there else self._download(self.path.name)

    def stored(self) -> None:
        about = json.dumps({"key": self.key, "created": self._created}).encode()
        files: dict[str, str | bytes] = {self.path.name: str(self.path), _ABOUT: about}
        self._branch.store(files, "Store the state of a training run")

    def close(self, *, cancelled: bool = False) -> None:
        """Remove the branch; after a cancelled run also the repository, if a run of this key made it."""
        if cancelled and self._created:
            self._branch.remove_repository()
        else:
            self._branch.remove()

    def publish(self) -> None:
        """Make the repository public, if a run of this key made it."""
        if self._created:
            self._branch.publish()

    def _download(self, name: str) -> Path | None:
        """A file of the branch, in the work folder; None if the branch has no such file."""
        with room_named(self.path.parent):
            return self._branch.download(name, self.path.parent)

    @staticmethod
    def _read(path: Path) -> Mapping[str, Any]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
