"""A result on the Hub: shards go up from memory, and one commit at the end shows them all."""

from __future__ import annotations

import contextlib
import io
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
)
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from merging.checkpoints.hub import hub_id, patiently
from merging.checkpoints.repository import Token, current_token
from merging.destinations.destination import Place
from merging.destinations.journal import Journal
from merging.destinations.readback import Sent, files_that_differ, tensors_that_differ
from merging.plan import Plan
from merging.problems import CheckpointError, DestinationError, MergeError, Problem

PREFIX = "hf://"
# One shard is filled while the one before it is uploaded.
BUFFERS = 2
UPLOAD_ATTEMPTS = 3
# Seconds: to connect, without a byte sent, and until the Hub has answered (a commit takes it a while).
TIMEOUT = httpx2.Timeout(30, write=60, read=300)
# Seconds that a cancelled run waits for what it is sending. A host that stalls is not waited for.
PATIENCE = 1.5
WEIGHTS = (".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json")

Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete


class HubDestination:
    """A model repository; it is created when the first shard is full, and only if it does not exist.

    A merge of several shards keeps a journal there, so that a run that died can be taken up by the next one. Shards
    that are whole files of a parent are copied by the Hub itself. What the repository holds is refused, replaced by a
    new revision (`overwrite`), or left as it is beside a pull request (`pull_request`).
    """

    shard_buffers = BUFFERS
    is_on_disk = False

    def __init__(
        self, repo: str, *, token: Token, private: bool, overwrite: bool, pull_request: bool = False
    ):
        if repo.count("/") != 1 or not hub_id(repo):
            message = f"'{repo}' is not the id of a repository."
            raise DestinationError(Problem("destination-name", message, "Write `hf://owner/name`.", repo))
        self.repo = repo
        self.name = repo.partition("/")[2]
        self.private = private
        self.overwrite = overwrite
        self.pull_request = pull_request
        self._asks = False  # whether the result becomes a pull request
        self._token = token
        self._check: Callable[[], None] = lambda: None
        self._plan: Plan | None = None
        self._journal: Journal | None = None
        self._is_kept = False  # whether the journal holds a shard, of this run or of an earlier one
        self._operations: list[Operation] = []
        self._sent: dict[str, Sent] = {}
        self._uploads = _Uploads()
        self._existed = self._created = self._ready = False
        self._parent: str | None = None

    def disk_bytes(self, size: int) -> int:
        return 0

    def _api(self) -> HfApi:
        # The client has no timeouts of its own, and uploads do not pass any: a host that stalls would hold the
        # run for ever. It is made anew after a refused connection, so this is set at each use.
        get_session().timeout = TIMEOUT
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
        with self._failures():
            info = self._info()
        if info is not None and self._holds_model(info) and not (self.overwrite or self.pull_request):
            message = f"{self.repo} exists and holds a model."
            fix = "Choose another name, say that it may be overwritten, or open a pull request there."
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

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What goes wrong on the way to the Hub, as a sentence."""
        try:
            yield
        except (HfHubHTTPError, httpx2.HTTPError, OSError, RuntimeError) as error:
            # huggingface_hub wraps what its upload threads meet into a RuntimeError.
            response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
            status = getattr(response, "status_code", None)
            reason = f"status {status}" if status else type(error).__name__
            text = f"The Hub did not take the result ({reason})."
            fix = "Check that the login may write there, and run the same merge again"
            fix += ": it goes on from the last finished shard." if self._is_kept else "."
            raise DestinationError(self._problem("push-failed", text, fix)) from error

    # -- shards ----------------------------------------------------------------------------------------

    def begin(self, plan: Plan, check: Callable[[], None]) -> set[str]:
        self._plan, self._check = plan, check
        with self._failures():
            self._existed = self._info() is not None
            unchanged = {shard.filename for shard in plan.shards if shard.copy_of}
            if len(plan.shards) == 1 and not unchanged:
                return set()
            self._journal = Journal(self._api, self.repo, plan)
            kept = self._journal.shards() if self._existed else {}
            if not unchanged <= kept.keys():
                self._make_ready()
                # What the Hub cannot copy is read and uploaded like everything else.
                with contextlib.suppress(HfHubHTTPError, httpx2.HTTPError, ValueError):
                    self._journal.copy_unchanged(plan)
                    kept = self._journal.shards()
        finished = set()
        for shard in plan.shards:
            there = kept.get(shard.filename)
            if there and there.size == shard.bytes:
                self._note(self._journal.copied(shard.filename), Sent(there.size, there.sha256))
                finished.add(shard.filename)
        self._is_kept = bool(finished)
        return finished

    def open_shard(self, filename: str, size: int) -> HubShard:
        with self._failures():
            self._uploads.wait_for_room(self._check)
        return HubShard(size, self._check, lambda content: self._upload(filename, content))

    def _upload(self, filename: str, content: io.BytesIO) -> None:
        """Send a full shard in the background and drop it from memory."""

        def send() -> None:
            try:
                self._make_ready()
                # A stream, not bytes: bytes would go through Xet, which holds three copies of them.
                journal = self._journal
                operation = CommitOperationAdd(journal.path(filename) if journal else filename, content)
                info = operation.upload_info
                self._preupload(operation, content, journal.branch if journal else None)
            finally:
                content.close()
            self._check()
            if journal:
                journal.add(operation, filename)
                self._is_kept = True
            self._note(journal.copied(filename) if journal else operation, Sent(info.size, info.sha256.hex()))

        self._uploads.submit(send)

    def _note(self, operation: CommitOperationAdd | CommitOperationCopy, sent: Sent) -> None:
        """Remember what the last commit is to add."""
        self._operations.append(operation)
        self._sent[operation.path_in_repo] = sent

    def _preupload(self, operation: CommitOperationAdd, content: io.BytesIO, branch: str | None) -> None:
        """Send one file; again with fresh links when the signed ones were refused or the line broke."""
        for attempt in range(UPLOAD_ATTEMPTS):
            # The client leaves a stream where it was refused, and would send what is left of it: nothing.
            content.seek(0)
            try:
                create_pr = self._asks and branch is None
                self._api().preupload_lfs_files(
                    self.repo, [operation], revision=branch, create_pr=create_pr, free_memory=True
                )
            except (HfHubHTTPError, httpx2.HTTPError, RuntimeError) as error:
                if isinstance(error.__cause__, MergeError):
                    raise error.__cause__ from None  # the run is to stop
                if attempt == UPLOAD_ATTEMPTS - 1:
                    raise
                time.sleep(2**attempt)
            else:
                return

    def _make_ready(self) -> None:
        """Create the repository, or look once more that nothing is overwritten that must not be."""
        if self._ready:
            return
        if not self._existed:
            self._create()
        info = self._info()
        if info is None or not (self._existed or self._created or info.private == self.private):
            message = f"{self.repo} was created by somebody else while this merge was running."
            raise DestinationError(self._problem("destination-exists", message, "Choose another name."))
        if self._holds_model(info):
            self._asks = self.pull_request
            if not (self.overwrite or self._asks):
                message = f"{self.repo} came to hold a model while this merge was running."
                raise DestinationError(self._problem("destination-exists", message, "Choose another name."))
            self._operations += [
                CommitOperationDelete(file.rfilename)
                for file in info.siblings
                if file.rfilename.endswith(WEIGHTS)
            ]
        self._parent = info.sha
        if self._journal:
            self._journal.open()
        self._ready = True

    def _create(self) -> None:
        """Make the repository."""
        try:
            patiently(lambda: self._api().create_repo(self.repo, private=self.private, exist_ok=False))
            self._created = True
        except HfHubHTTPError as error:
            # It exists: somebody was faster, or it is ours and the answer was lost. Who knows? So it is filled
            # if it is empty and as private as it should be, and never deleted.
            if error.response.status_code != 409:
                raise

    def write_file(self, filename: str, data: bytes) -> None:
        self._note(CommitOperationAdd(filename, io.BytesIO(data)), Sent.of(data))

    # -- the end ---------------------------------------------------------------------------------------

    def finish(self, message: str) -> Place:
        with self._failures():
            self._uploads.wait_for_all(self._check)
            self._make_ready()
            added = {op.path_in_repo for op in self._operations if not isinstance(op, CommitOperationDelete)}
            operations = [
                op
                for op in self._operations
                if not isinstance(op, CommitOperationDelete) or op.path_in_repo not in added
            ]
            commit, asked = self._commit(operations, message)
        self._created = False
        verified = self._verify(commit)
        self._uploads.stop()
        if self._journal:
            with contextlib.suppress(HfHubHTTPError, httpx2.HTTPError):
                patiently(self._journal.delete)
        page = f"{constants.ENDPOINT}/{self.repo}"
        if asked:
            number = asked.rpartition("/")[2]
            return Place(f"{PREFIX}{self.repo}@{asked}", f"{page}/discussions/{number}", commit, verified)
        return Place(PREFIX + self.repo, page, commit, verified)

    def _commit(self, operations: list[Operation], message: str) -> tuple[str, str]:
        """Make everything appear on `main`, or in a pull request: the commit's id, and the latter's revision."""

        def send() -> Any:
            return self._api().create_commit(
                self.repo,
                operations,
                commit_message=message,
                parent_commit=self._parent,
                create_pr=self._asks,
            )

        if self._asks:
            made = send()  # sent twice it would be two of them
            return str(made.oid), str(made.pr_revision)
        try:
            return str(patiently(send).oid), ""
        except HfHubHTTPError as error:
            # The parent commit guards against a foreign commit in between, and against a doubled one: when the
            # answer to ours was lost, it is the head now, and all of it is there.
            if error.response.status_code != 412:
                raise
            head = str(self._info().sha)
            if files_that_differ(self._api(), self.repo, head, self._sent):
                text = f"{self.repo} was changed by somebody else while this merge was running."
                fix = "Look at what was changed there, and run the same merge again."
                raise DestinationError(self._problem("destination-changed", text, fix)) from error
            return head, ""

    def _verify(self, commit: str) -> bool:
        """Read back what the Hub has; False if it does not tell.

        Raises:
            DestinationError: it has something else.
        """
        assert self._plan
        try:
            wrong = patiently(lambda: files_that_differ(self._api(), self.repo, commit, self._sent))
            wrong = wrong or tensors_that_differ(self.repo, commit, self._token, self._plan)
        except (HfHubHTTPError, httpx2.HTTPError, OSError, CheckpointError):
            return False
        if wrong:
            some = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            message = f"{self.repo} holds something else than was sent: {some}."
            fix = "Do not use it; delete it, and run the same merge again."
            raise DestinationError(self._problem("not-what-was-sent", message, fix))
        return True

    def abandon(self, *, keep: bool) -> None:
        self._uploads.stop()
        if keep and self._is_kept:
            return
        with contextlib.suppress(Exception):
            if self._journal and (self._ready or self._is_kept):
                self._journal.delete()
        with contextlib.suppress(Exception):
            # Only what this run created, and only while nothing is in it.
            info = self._info() if self._created else None
            if info is not None and info.sha == self._parent:
                self._api().delete_repo(self.repo)


class HubShard:
    """A shard that is filled in memory.

    Args:
        size: in bytes
        check: raises when the run is to stop
        full: takes the content when it is complete
    """

    def __init__(self, size: int, check: Callable[[], None], full: Callable[[io.BytesIO], None]):
        self._full = full
        self._content = _Stoppable(check)
        self._content.seek(size - 1)
        self._content.write(b"\0")
        self._view = self._content.getbuffer()

    def write(self, offset: int, data: memoryview) -> None:
        self._view[offset : offset + len(data)] = data

    def close(self) -> None:
        self._view.release()
        self._content.seek(0)
        self._full(self._content)


class _Stoppable(io.BytesIO):
    """Bytes whose reader, the upload, ends when the run is to stop."""

    def __init__(self, check: Callable[[], None]):
        super().__init__()
        self._check = check

    def read(self, size: int | None = -1, /) -> bytes:
        self._check()
        return super().read(size)


class _Uploads:
    """Uploads in the background, one at a time; at most BUFFERS shards are being filled or sent.

    The thread is a daemon: a process that was told to stop does not wait for a host that stalls.
    """

    def __init__(self) -> None:
        self._room = threading.Semaphore(BUFFERS)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def wait_for_room(self, check: Callable[[], None]) -> None:
        """Wait until one more shard may be filled; raises what `check` raises, or an upload that failed."""
        while not self._room.acquire(timeout=0.1):
            check()
        if self._error:
            raise self._error

    def submit(self, job: Callable[[], None]) -> None:
        """Put the upload of a shard that `wait_for_room` was called for in line."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def wait_for_all(self, check: Callable[[], None]) -> None:
        """Wait until nothing is on its way; raises as `wait_for_room` does."""
        for _ in range(BUFFERS):
            self.wait_for_room(check)

    def stop(self) -> None:
        """End the thread, if it can be ended soon."""
        if self._thread:
            self._jobs.put(None)
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        while job := self._jobs.get():
            try:
                if self._error is None:
                    job()
            except BaseException as error:
                self._error = error
            finally:
                self._room.release()
