"""A result on the Hub: shards go up from memory, and one commit at the end shows them all."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from merging.checkpoints.hub import hub_id, patiently
from merging.checkpoints.repository import Token, current_token
from merging.destinations.destination import Place
from merging.problems import DestinationError, Problem

PREFIX = "hf://"
# One shard is filled while the one before it is uploaded.
BUFFERS = 2
UPLOAD_ATTEMPTS = 3
WEIGHTS = (".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json")


class HubDestination:
    """A model repository; it is created when the first shard is full, and only if it does not exist."""

    shard_buffers = BUFFERS

    def __init__(self, repo: str, *, token: Token, private: bool, overwrite: bool):
        if repo.count("/") != 1 or not hub_id(repo):
            message = f"'{repo}' is not the id of a repository."
            raise DestinationError(Problem("destination-name", message, "Write `hf://owner/name`.", repo))
        self.repo = repo
        self.name = repo.partition("/")[2]
        self.private = private
        self.overwrite = overwrite
        self._token = token
        self._operations: list[CommitOperationAdd | CommitOperationDelete] = []
        self._room = threading.Semaphore(BUFFERS)
        self._uploader = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._uploads: list[Future[None]] = []
        self._created = self._ready = False
        self._parent: str | None = None

    def disk_bytes(self, size: int) -> int:
        return 0

    def _api(self) -> HfApi:
        return HfApi(token=current_token(self._token))

    def check(self, disk_bytes: int) -> list[Problem]:
        owner = self.repo.partition("/")[0]
        message = f"Pushing to {self.repo} needs a login, and there is none."
        no_login = self._problem("no-login", message, "Sign in, or run `hf auth login` on your machine.")
        if current_token(self._token) is False:
            return [no_login]
        try:
            account = patiently(lambda: self._api().whoami())
        except (LocalTokenNotFoundError, HfHubHTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", 401)
            if status not in (401, 403):
                return [self._problem("hub-silent", f"The Hub answered {status}.", "Try again later.")]
            return [no_login]
        except (httpx2.HTTPError, OSError) as error:
            message = f"The Hub did not answer ({type(error).__name__})."
            return [self._problem("hub-silent", message, "Check the connection and try again.")]
        owners = [account["name"], *(org["name"] for org in account.get("orgs", ()))]
        if owner.lower() not in [name.lower() for name in owners]:
            message = f"{account['name']} may not create models for {owner}."
            return [self._problem("not-yours", message, f"Push to one of: {', '.join(owners)}.")]
        info = self._info()
        if info is not None and self._holds_model(info) and not self.overwrite:
            message = f"{self.repo} exists and holds a model."
            fix = "Choose another name, or say that it may be overwritten."
            return [self._problem("destination-exists", message, fix)]
        return []

    def _problem(self, code: str, message: str, fix: str) -> Problem:
        return Problem(code, message, fix, PREFIX + self.repo)

    def _info(self) -> Any:
        try:
            return patiently(lambda: self._api().model_info(self.repo, timeout=30))
        except RepositoryNotFoundError:
            return None

    @staticmethod
    def _holds_model(info: Any) -> bool:
        return any(
            not file.rfilename.startswith(".git") and file.rfilename != "README.md" for file in info.siblings
        )

    def open_shard(self, filename: str, size: int) -> HubShard:
        self._room.acquire()
        return HubShard(self, filename, size)

    def upload(self, filename: str, content: io.BytesIO) -> None:
        """Send a full shard in the background and drop it from memory."""

        def send() -> None:
            try:
                self._make_ready()
                # A stream, not bytes: bytes would go through Xet, which holds three copies of them.
                operation = CommitOperationAdd(filename, content)
                self._preupload(operation)
                self._operations.append(operation)
            finally:
                content.close()
                self._room.release()

        self._uploads.append(self._uploader.submit(send))

    def _preupload(self, operation: CommitOperationAdd) -> None:
        """Send one file; again with fresh links when the signed ones were refused or the line broke."""
        for attempt in range(UPLOAD_ATTEMPTS):
            try:
                self._api().preupload_lfs_files(self.repo, [operation], free_memory=True)
            except (HfHubHTTPError, httpx2.HTTPError, RuntimeError):
                # huggingface_hub wraps what its upload threads meet into a RuntimeError.
                if attempt == UPLOAD_ATTEMPTS - 1:
                    raise
                time.sleep(2**attempt)
            else:
                return

    def _make_ready(self) -> None:
        """Create the repository, or look once more that nothing is overwritten that must not be."""
        if self._ready:
            return
        info = self._info()
        if info is None:
            self._api().create_repo(self.repo, private=self.private, exist_ok=False)
            self._created = True
            info = self._info()
        elif self._holds_model(info):
            if not self.overwrite:
                message = f"{self.repo} came to hold a model while this merge was running."
                raise DestinationError(self._problem("destination-exists", message, "Choose another name."))
            self._operations += [
                CommitOperationDelete(file.rfilename)
                for file in info.siblings
                if file.rfilename.endswith(WEIGHTS)
            ]
        self._parent = info.sha if info else None
        self._ready = True

    def write_file(self, filename: str, data: bytes) -> None:
        self._operations.append(CommitOperationAdd(filename, io.BytesIO(data)))

    def finish(self, message: str) -> Place:
        try:
            for upload in self._uploads:
                upload.result()
            self._make_ready()
            added = {op.path_in_repo for op in self._operations if isinstance(op, CommitOperationAdd)}
            operations = [
                op
                for op in self._operations
                if isinstance(op, CommitOperationAdd) or op.path_in_repo not in added
            ]
            # The parent commit guards against a doubled or a foreign commit in between.
            commit = patiently(
                lambda: self._api().create_commit(
                    self.repo, operations, commit_message=message, parent_commit=self._parent
                )
            )
        except (HfHubHTTPError, httpx2.HTTPError, OSError, RuntimeError) as error:
            response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
            status = getattr(response, "status_code", None)
            reason = f"status {status}" if status else type(error).__name__
            text = f"The Hub did not take the result ({reason})."
            fix = "Check that the login may write there, and try again; finished shards are kept by the Hub."
            raise DestinationError(self._problem("push-failed", text, fix)) from error
        self._created = False
        self._uploader.shutdown()
        return Place(PREFIX + self.repo, f"{constants.ENDPOINT}/{self.repo}", commit.oid)

    def abandon(self) -> None:
        self._uploader.shutdown(cancel_futures=True)
        if self._created:
            # Only what this run created, and only while nothing is in it.
            with contextlib.suppress(Exception):
                info = self._info()
                if info is not None and info.sha == self._parent:
                    self._api().delete_repo(self.repo)


class HubShard:
    """A shard that is filled in memory."""

    def __init__(self, destination: HubDestination, filename: str, size: int):
        self._destination = destination
        self._filename = filename
        self._content = io.BytesIO()
        self._content.seek(size - 1)
        self._content.write(b"\0")
        self._view = self._content.getbuffer()

    def write(self, offset: int, data: memoryview) -> None:
        self._view[offset : offset + len(data)] = data

    def close(self) -> None:
        self._view.release()
        self._content.seek(0)
        self._destination.upload(self._filename, self._content)
