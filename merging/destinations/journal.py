"""The journal of a merge to the Hub: a branch of the target repository that collects finished shards.

It lets a run that died be taken up by the next one, on any machine and without a disk. Nobody takes it for a
model: the shards lie in a folder there, and `main` sees nothing of it until the last commit.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from urllib.parse import quote

from huggingface_hub import CommitOperationCopy, HfApi, constants, get_session
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

from checkpoints.repositories.retry import retry
from merging.destinations.hub_sink import api_headers, branch_url
from merging.destinations.receipt import Receipt
from merging.plan import Plan

# Ends the name of a small file beside a shard with numbers that are infinite or NaN: how many, by tensor.
NOTE = ".not-finite.json"


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

    def path(self, receipt: Receipt) -> str:
        """Where a shard is. In a folder: the branch begins as a copy of `main`, which may hold an older model whose
        shards have the same names and sizes. And in one for the kind of processor that computed it."""
        return f"{self.branch}/{receipt.processor}/{receipt.filename}"

    def shards(self) -> dict[str, Receipt]:
        """What is kept, by filename; nothing if there is no such branch or no such repository."""

        def ask() -> list[RepoFile]:
            entries = self._api().list_repo_tree(
                self._repo, self.branch, recursive=True, revision=self.branch
            )
            return [entry for entry in entries if isinstance(entry, RepoFile)]

        try:
            files = retry(ask)
        except (RevisionNotFoundError, EntryNotFoundError):
            return {}
        notes = {file.path for file in files if file.path.endswith(NOTE)}
        found = {}
        for file in files:
            _, processor, filename = file.path.split("/")
            if file.lfs:
                found[filename] = Receipt(
                    filename,
                    file.size,
                    file.lfs.sha256,
                    written_by=("an earlier run",),
                    processor=processor,
                    not_finite=self._note(file.path + NOTE) if file.path + NOTE in notes else {},
                )
        return found

    def _note(self, path: str) -> dict[str, int]:
        """What was noted of a shard's numbers."""
        url = f"{constants.ENDPOINT}/{self._repo}/resolve/{quote(self.branch, safe='')}/{path}"

        def ask() -> dict[str, int]:
            headers = api_headers(self._api().token)
            response = get_session().get(url, headers=headers, follow_redirects=True)
            hf_raise_for_status(response)
            return {str(name): int(count) for name, count in response.json().items()}

        return retry(ask)

    def open(self) -> None:
        """Make the branch, if there is none yet."""
        retry(lambda: self._api().create_branch(self._repo, branch=self.branch, exist_ok=True))

    def add(self, receipts: Sequence[Receipt]) -> None:
        """Note shards that are in the Hub's store already, in one commit; the client has no operation for those without
        bytes.

        Raises:
            HfHubHTTPError, httpx2.TransportError: the Hub does not take it.
        """
        names = ", ".join(receipt.filename for receipt in receipts)
        lines: list[dict[str, object]] = [
            {"key": "header", "value": {"summary": f"Finish {names}", "description": ""}}
        ]
        for receipt in receipts:
            file = {"path": self.path(receipt), "algo": "sha256", "oid": receipt.sha256, "size": receipt.size}
            lines.append({"key": "lfsFile", "value": file})
            if receipt.not_finite:
                content = base64.b64encode(json.dumps(dict(receipt.not_finite)).encode()).decode()
                note = {"path": self.path(receipt) + NOTE, "content": content, "encoding": "base64"}
                lines.append({"key": "file", "value": note})
        body = "\n".join(map(json.dumps, lines)).encode()
        url = branch_url(self._repo, "commit", self.branch)

        def send() -> None:
            headers = {**api_headers(self._api().token), "Content-Type": "application/x-ndjson"}
            hf_raise_for_status(get_session().post(url, headers=headers, content=body))

        retry(send)

    def copy_unchanged(self, plan: Plan) -> None:
        """Put the shards into the journal that are whole files of a parent; no bytes move.

        Raises:
            HfHubHTTPError, httpx2.TransportError, ValueError: the Hub cannot copy them: another region, old storage.
        """
        operations = [
            CommitOperationCopy(
                shard.copy_of.filename,
                self.path(Receipt(shard.filename, shard.bytes)),
                src_repo_id=plan.models[shard.copy_of.model].name,
                src_repo_type="model",
                src_revision=plan.models[shard.copy_of.model].commit,
            )
            for shard in plan.shards
            if shard.copy_of
        ]
        message = f"Take over {len(operations)} unchanged files"
        self._api().create_commit(self._repo, operations, commit_message=message, revision=self.branch)

    def copied(self, receipt: Receipt) -> CommitOperationCopy:
        """What puts a shard into its place on `main`; no bytes move."""
        return CommitOperationCopy(self.path(receipt), receipt.filename, src_revision=self.branch)

    def delete(self) -> None:
        """Remove the branch."""
        retry(lambda: self._api().delete_branch(self._repo, branch=self.branch))
