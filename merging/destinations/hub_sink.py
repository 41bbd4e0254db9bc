"""What a worker needs to send output files to the Hub: whole, from memory (LFS), or while they are made (Xet)."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from heapq import nlargest
from typing import Any, Self
from urllib.parse import quote

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from checkpoints.memory import free_memory
from checkpoints.problems import DestinationError, MergeError, Problem
from checkpoints.repositories.repository import HUB_SCHEME, Token, current_token
from checkpoints.repositories.retry import retry
from merging.destinations import xet
from merging.destinations.background import Slots
from merging.destinations.destination import LostShardError, Stored
from merging.destinations.held_shard import HeldShard
from merging.destinations.xet import STREAMS, WriteAccess, XetLostError, XetShard, XetStore
from merging.plan import Plan

# One shard is filled while the one before it is uploaded, by either way.
BUFFERS = STREAMS
UPLOAD_ATTEMPTS = 3
# Seconds: to connect, without a byte sent, and until the Hub has answered (a commit takes it a while).
TIMEOUT = httpx2.Timeout(30, write=60, read=300)


def held(plan: Plan) -> int:
    """Bytes of files that are under way: whole ones, or what Xet holds of them."""
    sizes = [shard.bytes for shard in plan.shards]
    count = len(sizes) if plan.together else BUFFERS
    return min(xet.held(count), sum(sizes)) if plan.streams else sum(nlargest(count, sizes))


def hub_api(token: Token) -> HfApi:
    """The Hub's client, with the token of the moment."""
    # The client has no timeouts of its own, and uploads do not pass any: a host that stalls would hold the run
    # forever. The client makes a new session after a refused connection, so this is set at each use.
    get_session().timeout = TIMEOUT
    return HfApi(token=current_token(token))


def branch_url(repo: str, what: str, branch: str) -> str:
    """The address of a route of the Hub's API for a branch of a model."""
    return f"{constants.ENDPOINT}/api/models/{repo}/{what}/{quote(branch, safe='')}"


def api_headers(token: Token) -> dict[str, str]:
    return build_hf_headers(token=current_token(token), library_name="alloy")


def xet_write_access(url: str, token: Token) -> WriteAccess:
    """Access to Xet by a route of the Hub's API.

    Raises:
        XetLostError: the Hub gives none.
    """
    headers = api_headers(token)

    def ask() -> dict[str, Any]:
        response = get_session().get(url, headers=headers)
        hf_raise_for_status(response)
        answer: dict[str, Any] = response.json()
        return answer

    try:
        return retry(ask), url, headers
    except (HfHubHTTPError, httpx2.HTTPError, ValueError) as error:
        raise XetLostError(f"no access: {type(error).__name__}") from error


@contextmanager
def hub_failures(repo: str, keeps: Callable[[], bool]) -> Iterator[None]:
    """What goes wrong on the way to the Hub, as a sentence.

    Args:
        keeps: whether files that arrived are there for a later run
    """
    try:
        yield
    except (HfHubHTTPError, httpx2.HTTPError, OSError, RuntimeError) as error:
        # huggingface_hub wraps what its upload threads meet into a RuntimeError.
        response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
        status = getattr(response, "status_code", None)
        reason = f"status {status}" if status else type(error).__name__
        code = "push-interrupted" if keeps() else "push-failed"
        raise DestinationError(Problem(code, {"reason": reason}, HUB_SCHEME + repo)) from error


class HubSink:
    """Sends output files to a branch of a repository, and commits nothing.

    Whole files go by LFS, from memory; where the plan says so, files go through Xet while they are made. What Xet does
    not take is lost, and it and all further files go by LFS, one at a time: two of them would be more than the
    memory was estimated to hold.

    Args:
        repo, token: whose access to use
        branch: that the files are for; None: the main branch, or a pull request to it
        check: raises when the work is to stop
        streams: whether files go through Xet
        largest: size of the largest file of the merge
        is_narrow: whether one file at a time is held from the start
        together: how many files are filled at the same time; 0: they come one after the other
        prepare: called before the first byte is sent, by any thread; returns whether a pull request is asked for
        keeps: whether files that arrived are there for a later run

    Attributes:
        operations: where there is no branch, what the last commit is to add
    """

    crosses_processes = False

    def __init__(
        self,
        repo: str,
        token: Token,
        branch: str | None,
        check: Callable[[], None],
        *,
        streams: bool = False,
        largest: int = 0,
        is_narrow: bool = False,
        together: int = 0,
        prepare: Callable[[], bool] = lambda: False,
        keeps: Callable[[], bool] = lambda: True,
    ):
        self._repo, self._token, self._branch = repo, token, branch
        self._check = check
        self._streams = streams
        self._largest = largest
        self._is_narrow = is_narrow
        self._prepare = prepare
        self._keeps = keeps
        self._slots = Slots(together or (1 if is_narrow else BUFFERS))
        self._narrow = together or 1
        self._sending = Slots(1)
        self._store = XetStore(self._write_access)
        self._giving_up = threading.Lock()
        self.operations: list[CommitOperationAdd] = []

    @property
    def in_order(self) -> bool:
        return self._streams

    def to_data(self) -> dict[str, object] | None:
        if self._branch is None:
            return None
        self._prepare()
        return {
            "scheme": HUB_SCHEME,
            "repo": self._repo,
            "branch": self._branch,
            "streams": self._streams,
            "largest": self._largest,
            "is_narrow": self._is_narrow,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any], token: Token, check: Callable[[], None]) -> Self:
        options = {name: data[name] for name in ("streams", "largest", "is_narrow")}
        return cls(data["repo"], token, data["branch"], check, **options)

    def open_shard(self, filename: str, size: int) -> HeldShard | XetShard:
        with self._failures():
            self._slots.take(self._check)
            if self._streams:
                self._prepare()
                try:
                    return self._store.open(self._check, self._arrived)
                except XetLostError as error:
                    self._give_up_xet(error)
        return HeldShard(size, self._check, lambda content: self._send(filename, content))

    def stop(self) -> None:
        """End what goes through Xet, at once."""
        self._store.stop()

    def _failures(self) -> AbstractContextManager[None]:
        return hub_failures(self._repo, self._keeps)

    # -- Xet -------------------------------------------------------------------------------------------

    def _write_access(self) -> WriteAccess:
        assert self._branch
        return xet_write_access(branch_url(self._repo, "xet-write-token", self._branch), self._token)

    def _arrived(self, shard: XetShard) -> Stored:
        """Wait until a file has arrived that was sent while it was made."""
        try:
            with self._failures():
                sha256 = shard.finish().sha256
        except XetLostError as error:
            self._check()
            self._give_up_xet(error)
            raise LostShardError from error
        finally:
            self._slots.give_back()
        return Stored(sha256, "Xet")

    def _give_up_xet(self, reason: XetLostError) -> None:
        """Send all further files by LFS, one at a time.

        Raises:
            DestinationError: one is too large even so.
        """
        with self._giving_up:
            if not self._streams:
                return
            self._streams = False
            self._is_narrow = True
            self._slots.lower(self._narrow)
        free = free_memory()
        if self._largest > free:
            values = {"reason": str(reason), "largest": self._largest, "free": free}
            raise DestinationError(Problem("store-failed", values, HUB_SCHEME + self._repo)) from reason

    # -- LFS -------------------------------------------------------------------------------------------

    def _send(self, filename: str, content: io.BytesIO) -> Stored:
        """Send a full file and drop it from memory."""
        path = f"{self._branch}/{filename}" if self._branch else filename
        try:
            # A stream, not bytes: bytes would go through Xet, which holds three copies of them.
            operation = CommitOperationAdd(path, content)
            sha256 = operation.upload_info.sha256.hex()
            with self._failures(), self._sending.taken(self._check):
                asks = self._prepare()
                self._preupload(operation, content, create_pr=asks and self._branch is None)
        finally:
            content.close()
            self._slots.give_back()
        if self._branch is None:
            self.operations.append(operation)
        return Stored(sha256, "LFS")

    def _preupload(self, operation: CommitOperationAdd, content: io.BytesIO, *, create_pr: bool) -> None:
        """Send one file; again with fresh links when the signed ones were refused or the connection broke."""
        for attempt in range(UPLOAD_ATTEMPTS):
            # The client leaves a stream where it was refused, and would send what is left of it: nothing.
            content.seek(0)
            try:
                hub_api(self._token).preupload_lfs_files(
                    self._repo, [operation], revision=self._branch, create_pr=create_pr, free_memory=True
                )
            except (HfHubHTTPError, httpx2.HTTPError, RuntimeError) as error:
                if isinstance(error.__cause__, MergeError):
                    raise error.__cause__ from None  # the run is to stop
                if attempt == UPLOAD_ATTEMPTS - 1:
                    raise
                time.sleep(2**attempt)
            else:
                return
