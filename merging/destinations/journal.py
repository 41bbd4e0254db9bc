"""The journal of a merge to the Hub: a branch of the target repository that collects finished shards.

It lets a run that died be taken up by the next one, on any machine and without a disk. Nobody takes it for a
model: the shards lie in a folder there, and `main` sees nothing of it until the last commit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, HfApi, constants, get_session
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from checkpoints.repositories.hub import patiently
from merging.destinations.readback import Sent
from merging.plan import Plan


class Journal:
    """The branch of one plan.

    Args:
        api: the Hub's client with the token of the moment
        repo: the repository that the result goes to
        plan: whose shards it holds; another plan has another branch
    """

    def __init__(self, api: Callable[[], HfApi], repo: str, plan: Plan):
        self._api = api
        self._repo = repo
        self.branch = f"merge-{plan.fingerprint}"

    def path(self, filename: str) -> str:
        """Where a shard lies. In a folder: the branch begins as a copy of `main`, which may hold an older model
        whose shards have the same names and sizes."""
        return f"{self.branch}/{filename}"

    def shards(self) -> dict[str, Sent]:
        """What is kept, by filename; nothing if there is no such branch or no such repository."""

        def ask() -> list[RepoFile]:
            entries = self._api().list_repo_tree(self._repo, self.branch, revision=self.branch)
            return [entry for entry in entries if isinstance(entry, RepoFile)]

        try:
            files = patiently(ask)
        except (RevisionNotFoundError, EntryNotFoundError):
            return {}
        return {
            file.path.removeprefix(f"{self.branch}/"): Sent(file.size, file.lfs.sha256)
            for file in files
            if file.lfs
        }

    def open(self) -> None:
        """Make the branch, if there is none yet."""
        patiently(lambda: self._api().create_branch(self._repo, branch=self.branch, exist_ok=True))

    def add(self, operation: CommitOperationAdd, filename: str) -> None:
        """Note down a shard that was uploaded for `path(filename)`."""
        patiently(
            lambda: self._api().create_commit(
                self._repo, [operation], commit_message=f"Finish {filename}", revision=self.branch
            )
        )

    def add_stored(self, filename: str, shard: Sent) -> None:
        """Note down a shard that lies in the Hub's store already; the client has no operation for one without bytes.

        Raises:
            HfHubHTTPError, httpx2.TransportError: the Hub does not take it.
        """
        header = {"summary": f"Finish {filename}", "description": ""}
        file = {"path": self.path(filename), "algo": "sha256", "oid": shard.sha256, "size": shard.size}
        lines = [{"key": "header", "value": header}, {"key": "lfsFile", "value": file}]
        content = "\n".join(map(json.dumps, lines)).encode()

        def send() -> None:
            headers = {**self._headers(), "Content-Type": "application/x-ndjson"}
            hf_raise_for_status(get_session().post(self._url("commit"), headers=headers, content=content))

        patiently(send)

    def write_access(self) -> tuple[dict[str, Any], str, dict[str, str]]:
        """Access to Xet for files of the branch: the Hub's answer, and address and headers of the request for it.

        Raises:
            HfHubHTTPError, httpx2.TransportError: there is none.
        """
        url, headers = self._url("xet-write-token"), self._headers()

        def ask() -> dict[str, Any]:
            response = get_session().get(url, headers=headers)
            hf_raise_for_status(response)
            answer: dict[str, Any] = response.json()
            return answer

        return patiently(ask), url, headers

    def _url(self, what: str) -> str:
        return f"{constants.ENDPOINT}/api/models/{self._repo}/{what}/{quote(self.branch, safe='')}"

    def _headers(self) -> dict[str, str]:
        return build_hf_headers(token=self._api().token, library_name="alloy")

    def copy_unchanged(self, plan: Plan) -> None:
        """Put the shards into the journal that are whole files of a parent; no bytes move.

        Raises:
            HfHubHTTPError, httpx2.TransportError, ValueError: the Hub cannot copy them: another region, old storage.
        """
        operations = [
            CommitOperationCopy(
                shard.copy_of.filename,
                self.path(shard.filename),
                src_repo_id=plan.models[shard.copy_of.model].name,
                src_repo_type="model",
                src_revision=plan.models[shard.copy_of.model].commit,
            )
            for shard in plan.shards
            if shard.copy_of
        ]
        message = f"Take over {len(operations)} unchanged files"
        self._api().create_commit(self._repo, operations, commit_message=message, revision=self.branch)

    def copied(self, filename: str) -> CommitOperationCopy:
        """What puts a shard into its place on `main`; no bytes move."""
        return CommitOperationCopy(self.path(filename), filename, src_revision=self.branch)

    def delete(self) -> None:
        """Remove the branch."""
        patiently(lambda: self._api().delete_branch(self._repo, branch=self.branch))
