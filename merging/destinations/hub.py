"""A result on the Hub: files are sent one by one, and one commit at the end shows them all."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
)
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from checkpoints.names import hub_id
from checkpoints.problems import Cancelled, CheckpointError, DestinationError, Problem
from checkpoints.repositories.repository import HUB_SCHEME
from checkpoints.repositories.retry import retry
from checkpoints.repositories.xet import XetReader
from checkpoints.wording import few
from merging.destinations import hub_limits, hub_sink
from merging.destinations.account import account_limits
from merging.destinations.background import Background
from merging.destinations.destination import DestinationOptions, ResultPlace, replaced_suffixes
from merging.destinations.hub_limits import HubLimits
from merging.destinations.hub_sink import HubSink, hub_api, hub_failures
from merging.destinations.journal import Journal
from merging.destinations.readback import Sent, files_that_differ, tensors_that_differ
from merging.destinations.receipt import Receipt
from merging.plan import Plan

# Seconds that a failed merge waits for the journal to take the files that arrived.
SETTLE_SECONDS = 60.0

Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete


class HubDestination:
    """A model repository; it is created when the first shard is full, and only if it does not exist.

    A merge of several shards keeps a journal there, so that a run that died can be taken up by the next one. Shards
    that are whole files of a parent are copied by the Hub itself. What the repository holds is refused, replaced by a
    new revision (`overwrite`), or left as it is beside a pull request (`pull_request`).
    """

    def __init__(self, repo: str, options: DestinationOptions):
        if repo.count("/") != 1 or not hub_id(repo):
            raise DestinationError(Problem("repository-id", {"given": repo}, repo))
        self.repo = repo
        self.name = repo.partition("/")[2]
        self.private = options.private
        self.overwrite = options.overwrite
        self.pull_request = options.pull_request
        self.sink = HubSink(repo, options.token, None, lambda: None)  # until a plan is known
        self._asks = False  # whether the result becomes a pull request
        self._token = options.token
        self._limits: HubLimits | None = None
        self._check: Callable[[], None] = lambda: None
        self._plan: Plan | None = None
        self._journal: Journal | None = None
        self._admitted: list[Receipt] = []  # that the journal is to take
        self._is_kept = False  # whether the journal holds a shard, of this run or of an earlier one
        self._operations: list[Operation] = []
        self._sent: dict[str, Sent] = {}
        self._background = Background("journal")
        self._preparing = threading.Lock()
        self._was_finished = False  # whether an earlier run made everything appear, and no more
        self._published: tuple[str, str] | None = None
        self._is_unanswered = False  # whether the last commit is under way
        self._existed = self._created = self._ready = False
        self._parent: str | None = None

    @property
    def can_stream(self) -> bool:
        return XetReader.is_available()

    def held(self, plan: Plan) -> int:
        return hub_sink.held(plan)

    def disk_bytes(self, size: int) -> int:
        return 0

    def _api(self) -> HfApi:
        return hub_api(self._token)

    def _failures(self) -> contextlib.AbstractContextManager[None]:
        return hub_failures(self.repo, lambda: self._is_kept or bool(self._admitted))

    def check(self, plan: Plan | None = None) -> list[Problem]:
        owner = self.repo.partition("/")[0]
        found = account_limits(owner, self.repo, HUB_SCHEME + self.repo, self._token)
        if isinstance(found, Problem):
            return [found]
        self._limits = found
        if plan and (refused := hub_limits.refusals(plan, self.repo)):
            return refused
        with self._failures():
            info = self._info()
            holds_other = info is not None and self._holds_model(info)
            if holds_other and plan:
                holds_other = not self._is_finished(plan, Journal(self._api, self.repo, plan).shards())
        if holds_other and not (self.overwrite or self.pull_request):
            return [self._problem("destination-exists")]
        return []

    def warnings(self, plan: Plan) -> list[Problem]:
        return list(hub_limits.warnings(plan, self.repo, self._limits)) if self._limits else []

    def _problem(self, code: str, **values: Any) -> Problem:
        return Problem(code, {"repository": self.repo, **values}, HUB_SCHEME + self.repo)

    def _info(self) -> Any:
        try:
            return retry(lambda: self._api().model_info(self.repo, timeout=30))
        except RepositoryNotFoundError:
            return None

    @staticmethod
    def _holds_model(info: Any) -> bool:
        return any(
            not file.rfilename.startswith(".git") and file.rfilename != "README.md" for file in info.siblings
        )

    def _is_finished(self, plan: Plan, kept: Mapping[str, Receipt]) -> bool:
        """Whether `main` has all shards of a plan, and its journal still keeps them: a run died after its last
        commit."""
        names = {shard.filename for shard in plan.shards}
        sent = {name: Sent.of_receipt(receipt) for name, receipt in kept.items()}
        return bool(names) and names <= kept.keys() and not retry(lambda: self._differing("main", sent))

    # -- shards ----------------------------------------------------------------------------------------

    def begin(self, plan: Plan, check: Callable[[], None]) -> dict[str, Receipt]:
        self._plan, self._check = plan, check
        with self._failures():
            self._existed = self._info() is not None
            unchanged = {shard.filename for shard in plan.shards if shard.copy_of}
            streams = plan.streams and self.can_stream
            has_journal = len(plan.shards) > 1 or bool(unchanged) or streams
            self._journal = Journal(self._api, self.repo, plan) if has_journal else None
            self.sink = HubSink(
                self.repo,
                self._token,
                self._journal.branch if self._journal else None,
                check,
                streams=streams,
                largest=plan.bytes_out if plan.together else max((s.bytes for s in plan.shards), default=0),
                # Another machine may have made the plan, which has no room for two.
                is_narrow=plan.streams and not streams,
                together=len(plan.shards) if plan.together else 0,
                prepare=self._make_ready,
                keeps=lambda: self._is_kept or bool(self._admitted),
            )
            kept = self._kept(self._journal, plan, unchanged) if self._journal else {}
        for receipt in kept.values():
            self._note(receipt)
        self._is_kept = bool(kept)
        return kept

    def _kept(self, journal: Journal, plan: Plan, unchanged: set[str]) -> dict[str, Receipt]:
        """What the journal keeps, with the files that the Hub itself can copy."""
        kept = journal.shards() if self._existed else {}
        replaces = self.overwrite or self.pull_request
        self._was_finished = not replaces and self._is_finished(plan, kept)
        if not unchanged <= kept.keys():
            self._make_ready()
            # What the Hub cannot copy is read and uploaded like everything else.
            with contextlib.suppress(HfHubHTTPError, httpx2.HTTPError, ValueError):
                journal.copy_unchanged(plan)
                kept = journal.shards()
        sizes = {shard.filename: shard.bytes for shard in plan.shards}
        return {
            name: replace(receipt, written_by=("copy",)) if name in unchanged else receipt
            for name, receipt in kept.items()
            if sizes.get(name) == receipt.size
        }

    def admit(self, receipt: Receipt) -> None:
        if self._journal is None:
            self._sent[receipt.filename] = Sent.of_receipt(receipt)
            return
        self._admitted.append(receipt)
        with self._failures():
            self._background.submit(self._note_admitted)

    def _note_admitted(self) -> None:
        """Write the files that arrived into the journal, as many as there are by now."""
        assert self._journal
        receipts = self._admitted[:]
        if not receipts:
            return
        self._journal.add(receipts)
        self._is_kept = True
        for receipt in receipts:
            self._note(receipt)
        del self._admitted[: len(receipts)]

    def _note(self, receipt: Receipt) -> None:
        """Remember that the last commit is to add a file of the journal."""
        assert self._journal
        self._operations.append(self._journal.copied(receipt))
        self._sent[receipt.filename] = Sent.of_receipt(receipt)

    def _make_ready(self) -> bool:
        """Create the repository, or check again that nothing is overwritten that must not be. Called by many threads.

        Returns:
            Whether a pull request is asked for.
        """
        with self._preparing:
            if not self._ready:
                self._prepare()
                self._ready = True
            return self._asks

    def _prepare(self) -> None:
        if not self._existed:
            self._create()
        info = self._info()
        if info is None or not (self._existed or self._created or info.private == self.private):
            raise DestinationError(self._problem("destination-created"))
        assert self._plan
        replaced = replaced_suffixes(self._plan)
        if self._holds_model(info) and not self._was_finished:
            self._asks = self.pull_request
            if not (self.overwrite or self._asks):
                raise DestinationError(self._problem("destination-filled"))
            self._operations += [
                CommitOperationDelete(file.rfilename)
                for file in info.siblings
                if file.rfilename.endswith(replaced)
            ]
        self._parent = info.sha
        if self._journal:
            self._journal.open()

    def _create(self) -> None:
        """Make the repository."""
        try:
            retry(lambda: self._api().create_repo(self.repo, private=self.private, exist_ok=False))
            self._created = True
        except HfHubHTTPError as error:
            # It exists: someone else was faster, or it is ours and the answer was lost. We cannot tell, so we fill it
            # if it is empty and as private as it should be, and never delete it.
            if error.response.status_code != 409:
                raise

    def write_file(self, filename: str, data: bytes) -> None:
        if self._was_finished:
            return  # it is there, and whose model it is may have written on in its card
        self._operations.append(CommitOperationAdd(filename, io.BytesIO(data)))
        self._sent[filename] = Sent.of(data)

    # -- the end ---------------------------------------------------------------------------------------

    def finish(self, message: str) -> ResultPlace:
        verified: list[bool] = []

        def publish() -> None:
            commit, asked = self._commit(operations, message)
            self._published = commit, asked
            verified.append(self._verify(commit))

        with self._failures():
            self._background.wait(self._check)
            self._make_ready()
            found = [*self._operations, *self.sink.operations]
            added = {op.path_in_repo for op in found if not isinstance(op, CommitOperationDelete)}
            operations = [
                op
                for op in found
                if not isinstance(op, CommitOperationDelete) or op.path_in_repo not in added
            ]
            # In the background: whoever cancels does not wait for a host that stalls.
            self._background.submit(publish)
            try:
                self._background.wait(self._check)
            except Cancelled:
                self._background.stop()
                if self._published is None:
                    self._cancelled_late()
                    raise
        assert self._published
        self._created = False
        commit, asked = self._published
        self._background.stop()
        if self._journal:
            with contextlib.suppress(HfHubHTTPError, httpx2.HTTPError):
                retry(self._journal.delete)
        page = f"{constants.ENDPOINT}/{self.repo}"
        if asked:
            number = asked.rpartition("/")[2]
            location = f"{HUB_SCHEME}{self.repo}@{asked}"
            return ResultPlace(location, f"{page}/discussions/{number}", commit, verified == [True])
        return ResultPlace(HUB_SCHEME + self.repo, page, commit, verified == [True])

    def _cancelled_late(self) -> None:
        """Report that the Hub got the last commit and does not answer: it is made whole or not at all, and we cannot
        tell which. A repository that this run created does not matter, because it is removed either way.

        Raises:
            DestinationError: the outcome of the commit is unknown.
        """
        if self._is_unanswered and not self._created:
            raise DestinationError(self._problem("cancelled-late"))

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
            return str(retry(send).oid), ""
        except HfHubHTTPError as error:
            # The parent commit guards against a foreign commit in between, and against a doubled one: when the
            # answer to ours was lost, it is the head now, and all of it is there.
            if error.response.status_code != 412:
                raise
            head = str(self._info().sha)
            if self._differing(head, self._sent):
                raise DestinationError(self._problem("destination-changed")) from error
            return head, ""

    def _verify(self, commit: str) -> bool:
        """Read back what the Hub has; False if it does not tell.

        Raises:
            DestinationError: it has something else.
        """
        assert self._plan
        try:
            wrong = retry(lambda: self._differing(commit, self._sent))
            if self._plan.tensors:
                wrong = wrong or tensors_that_differ(self.repo, commit, self._token, self._plan)
        except (HfHubHTTPError, httpx2.HTTPError, OSError, CheckpointError):
            return False
        if wrong:
            raise DestinationError(self._problem("not-what-was-sent", files=few(wrong)))
        return True

    def abandon(self, *, keep: bool) -> None:
        self.sink.stop()
        if keep:
            self._background.settle(SETTLE_SECONDS)
        else:
            self._admitted.clear()
        self._background.stop()
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
