"""A result on the Hub: shards go up from memory, or while they are made, and one commit at the end shows them all."""

from __future__ import annotations

import contextlib
import io
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
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

from checkpoints.memory import free_memory
from checkpoints.problems import Cancelled, CheckpointError, DestinationError, MergeError, Problem
from checkpoints.repositories.hub import hub_id, patiently
from checkpoints.repositories.repository import Token, current_token
from checkpoints.repositories.xet import XetReader
from merging.destinations.destination import Place
from merging.destinations.journal import Journal
from merging.destinations.readback import Sent, files_that_differ, tensors_that_differ
from merging.destinations.xet import STREAMS, XetLostError, XetShard, XetStore
from merging.plan import Plan

PREFIX = "hf://"
# One shard is filled while the one before it is uploaded, by either way.
BUFFERS = STREAMS
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

    Shards go by LFS, whole, from memory; or through Xet, while they are made, where the plan says so. What Xet does not
    take is made once more and goes by LFS.
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
        self._store: XetStore | None = None
        self._streams = False  # whether the next shard goes to it
        self._lost: set[str] = set()
        self._ways: set[str] = set()
        self._was_finished = False  # whether an earlier run made everything appear, and no more
        self._published: tuple[str, str] | None = None
        self._is_unanswered = False  # whether the last commit is under way
        self._existed = self._created = self._ready = False
        self._parent: str | None = None

    @property
    def can_stream(self) -> bool:
        return XetReader.is_available()

    def disk_bytes(self, size: int) -> int:
        return 0

    def _api(self) -> HfApi:
        # The client has no timeouts of its own, and uploads do not pass any: a host that stalls would hold the
        # run for ever. It is made anew after a refused connection, so this is set at each use.
        get_session().timeout = TIMEOUT
        return HfApi(token=current_token(self._token))

    def check(self, disk_bytes: int, plan: Plan | None = None) -> list[Problem]:
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
            holds_other = info is not None and self._holds_model(info)
            if holds_other and plan:
                holds_other = not self._is_finished(plan, Journal(self._api, self.repo, plan).shards())
        if holds_other and not (self.overwrite or self.pull_request):
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

    def _is_finished(self, plan: Plan, kept: Mapping[str, Sent]) -> bool:
        """Whether `main` has all shards of a plan, and its journal still keeps them: a run died after its last
        commit."""
        names = {shard.filename for shard in plan.shards}
        return bool(names) and names <= kept.keys() and not patiently(lambda: self._differing("main", kept))

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
            streams = plan.streams and self.can_stream
            if plan.streams and not streams:
                self._uploads.one_at_a_time()  # another machine made the plan, which has no room for two
            if len(plan.shards) == 1 and not unchanged and not streams:
                return set()
            self._journal = Journal(self._api, self.repo, plan)
            self._store, self._streams = XetStore(self._write_access), streams
            kept = self._journal.shards() if self._existed else {}
            replaces = self.overwrite or self.pull_request
            self._was_finished = not replaces and self._is_finished(plan, kept)
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
                self._note(self._journal.copied(shard.filename), there)
                finished.add(shard.filename)
                self._ways.add("copy" if shard.copy_of else "an earlier run")
        self._is_kept = bool(finished)
        return finished

    def open_shard(self, filename: str, size: int) -> HubShard | XetShard:
        with self._failures():
            self._uploads.wait_for_room(self._check)
            if self._store and self._streams:
                self._make_ready()
                try:
                    return self._store.open(self._check, lambda shard: self._complete(filename, shard))
                except XetLostError as error:
                    self._give_up_xet(error)
        return HubShard(size, self._check, lambda content: self._upload(filename, content))

    def _write_access(self) -> tuple[dict[str, Any], str, dict[str, str]]:
        assert self._journal
        try:
            return self._journal.write_access()
        except (HfHubHTTPError, httpx2.HTTPError, ValueError) as error:
            raise XetLostError(f"no access: {type(error).__name__}") from error

    def _complete(self, filename: str, shard: XetShard) -> None:
        """See in the background that a shard arrives that was sent while it was made."""

        def send() -> None:
            assert self._journal
            try:
                sent = Sent(*shard.finish())
            except XetLostError as error:
                self._check()
                self._lost.add(filename)
                self._give_up_xet(error)
                return
            self._journal.add_stored(filename, sent)
            self._is_kept = True
            self._ways.add("Xet")
            self._note(self._journal.copied(filename), sent)

        self._uploads.submit(send)

    def _give_up_xet(self, reason: XetLostError) -> None:
        """Send all further shards by LFS, one at a time: two of them would be more than the memory was said to hold.

        Raises:
            DestinationError: one is too large even so.
        """
        if not self._streams:
            return
        assert self._plan
        self._streams = False
        self._uploads.one_at_a_time()
        largest = max(shard.bytes for shard in self._plan.shards)
        free = free_memory()
        if largest > free:
            text = f"The Hub's store did not take the result ({reason}), and a file of {largest:,} bytes does not fit"
            text += f" into the memory that is free, {free:,} bytes, to be sent another way."
            fix = "Run the same merge again later, or with smaller files (`--shard-size`)."
            raise DestinationError(self._problem("push-failed", text, fix)) from reason

    def lost(self) -> set[str]:
        with self._failures():
            self._uploads.wait_for_all(self._check)
        lost, self._lost = self._lost, set()
        return lost

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
            self._ways.add("LFS")
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
        if self._holds_model(info) and not self._was_finished:
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
        if self._was_finished:
            return  # it is there, and whose model it is may have written on in its card
        self._note(CommitOperationAdd(filename, io.BytesIO(data)), Sent.of(data))

    # -- the end ---------------------------------------------------------------------------------------

    def finish(self, message: str) -> Place:
        verified: list[bool] = []

        def publish() -> None:
            commit, asked = self._commit(operations, message)
            self._published = commit, asked
            verified.append(self._verify(commit))

        with self._failures():
            self._uploads.wait_for_all(self._check)
            self._make_ready()
            added = {op.path_in_repo for op in self._operations if not isinstance(op, CommitOperationDelete)}
            operations = [
                op
                for op in self._operations
                if not isinstance(op, CommitOperationDelete) or op.path_in_repo not in added
            ]
            # In the background: whoever cancels does not wait for a host that stalls.
            self._uploads.wait_for_room(self._check)
            self._uploads.submit(publish)
            try:
                self._uploads.wait_for_all(self._check)
            except Cancelled:
                self._uploads.stop()
                if self._published is None:
                    self._cancelled_late()
                    raise
        assert self._published
        self._created = False
        commit, asked = self._published
        self._uploads.stop()
        if self._journal:
            with contextlib.suppress(HfHubHTTPError, httpx2.HTTPError):
                patiently(self._journal.delete)
        page, ways = f"{constants.ENDPOINT}/{self.repo}", tuple(sorted(self._ways))
        found = verified == [True]
        if asked:
            number = asked.rpartition("/")[2]
            location = f"{PREFIX}{self.repo}@{asked}"
            return Place(location, f"{page}/discussions/{number}", commit, found, ways)
        return Place(PREFIX + self.repo, page, commit, found, ways)

    def _cancelled_late(self) -> None:
        """Say so if the Hub got the last commit and does not answer: it is made whole or not at all, and nobody knows
        which. What this run created is no matter, for it is removed whatever becomes of it.

        Raises:
            DestinationError: it is so.
        """
        if self._is_unanswered and not self._created:
            text = f"The merge was cancelled while {self.repo} was taking its last commit, and the Hub does not answer."
            fix = "Look at its page: it holds either what it held before, or the whole merge."
            raise DestinationError(self._problem("cancelled-late", text, fix))

    def _commit(self, operations: list[Operation], message: str) -> tuple[str, str]:
        """Make everything appear on `main`, or in a pull request: the commit's id, and the latter's revision."""

        def send() -> Any:
            self._check()
            self._is_unanswered = True
            try:
                return self._api().create_commit(
                    self.repo,
                    operations,
                    commit_message=message,
                    parent_commit=self._parent,
                    create_pr=self._asks,
                )
            except HfHubHTTPError:
                self._is_unanswered = False
                raise

        if self._was_finished:
            return str(self._parent), ""
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
            if self._differing(head, self._sent):
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
            wrong = patiently(lambda: self._differing(commit, self._sent))
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
        if self._store:
            self._store.stop()
        self._uploads.stop()
        if keep and self._is_kept:
            return
        with contextlib.suppress(Exception):
            if self._journal and (self._ready or self._is_kept):
                self._journal.delete()
        with contextlib.suppress(Exception):
            # Only what this run created, and only while nothing is in it but a last commit that came too late.
            info = self._info() if self._created else None
            if info is not None and (
                info.sha == self._parent or not (keep or self._differing(info.sha, self._sent))
            ):
                self._api().delete_repo(self.repo)

    def _differing(self, commit: str, sent: Mapping[str, Sent]) -> list[str]:
        return files_that_differ(self._api(), self.repo, commit, sent)


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
        self._turn = threading.Condition()
        self._rooms = BUFFERS
        self._under_way = 0
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def wait_for_room(self, check: Callable[[], None]) -> None:
        """Wait until one more shard may be filled; raises what `check` raises, or an upload that failed."""
        self._wait(lambda: self._under_way < self._rooms, check, 1)

    def submit(self, job: Callable[[], None]) -> None:
        """Put the upload of a shard that `wait_for_room` was called for in line."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def wait_for_all(self, check: Callable[[], None]) -> None:
        """Wait until nothing is on its way; raises as `wait_for_room` does."""
        self._wait(lambda: not self._under_way, check, 0)

    def _wait(self, condition: Callable[[], bool], check: Callable[[], None], more: int) -> None:
        with self._turn:
            while not self._turn.wait_for(condition, timeout=0.1):
                check()
            if self._error:
                raise self._error
            self._under_way += more

    def one_at_a_time(self) -> None:
        """From now on, fill a shard only when the one before it has arrived."""
        with self._turn:
            self._rooms = 1

    def stop(self) -> None:
        """End the thread, if it can be ended soon; once that was tried, it is left alone."""
        if self._thread:
            self._jobs.put(None)
            self._thread.join(PATIENCE)
            self._thread = None

    def _run(self) -> None:
        while job := self._jobs.get():
            try:
                if self._error is None:
                    job()
            except BaseException as error:
                self._error = error
            finally:
                with self._turn:
                    self._under_way -= 1
                    self._turn.notify_all()
