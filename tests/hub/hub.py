"""The Hub as tests and the demo hold it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from tests.hub.bucket import Bucket
from tests.hub.faults import Fault, Faults
from tests.hub.line import Line
from tests.hub.links import Links
from tests.hub.log import Log
from tests.hub.rented import RentedJobs
from tests.hub.repo import Entry, Repo, is_lfs
from tests.hub.server import FILE_HOST, HOST, Server
from tests.hub.store import Store
from tests.hub.xet import Xet

if TYPE_CHECKING:
    from tests.hub.routes_uploads import PartedUpload


class Hub:
    """A Hub that answers at ``endpoint``, in a thread, from ``with Hub() as hub:`` or ``start()`` on.

    Args:
        folder: keeps users, repositories and files between starts (tokens never); None: all in memory.
        port: on 127.0.0.1; 0 takes a free one.

    Attributes:
        endpoint: what ``HF_ENDPOINT`` should be.
        log: every request since the last reset.
        links: set ``links.ttl`` for links to the file host that expire soon.
        down, up: the line to clients and from them; set the ``rate`` of each.
        part_size: bytes above which an upload goes in parts, and the size of a part.
        page_size: the most entries in one answer of search, tree and history.
        xet: what large files can also be read and written through, see ``Xet``.
        rented: jobs on rented hardware, which run here.
        spaces: commits of Spaces by id: of the head, and of what is running (None while nothing is); nothing at first.
        quotas: what a user's tokens may know of the ZeroGPU quota, as the Hub answers it; nothing at first.
        open_pages: whether a browser without a login sees the pages of private models too, as in the demo.
    """

    def __init__(self, folder: Path | None = None, port: int = 0) -> None:
        self.store = Store(folder)
        self.log = Log()
        self.faults = Faults()
        self.uploads: dict[tuple[str, str], PartedUpload] = {}
        self.rented = RentedJobs()
        self._set_defaults()
        self._server = Server(self, port)
        self.endpoint = f"http://{HOST}:{self._server.port}"
        self.file_endpoint = f"http://{FILE_HOST}:{self._server.port}"

    def _set_defaults(self) -> None:
        self.links = Links()
        self.down, self.up = Line(), Line()
        self.part_size = 256 << 20
        self.page_size = 1000
        self.open_pages = False
        self.xet = Xet()
        self.spaces: dict[str, tuple[str, str | None]] = {}
        self.quotas: dict[str, dict[str, Any]] = {}
        self.rented.stop()
        self.rented = RentedJobs()

    def start(self) -> Hub:
        """Begin to answer."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Answer no more."""
        self._server.stop()

    def __enter__(self) -> Hub:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def reset(self) -> None:
        """Make it as new: no users, repositories, files, faults or log, default settings, old links void."""
        with self.store.lock:
            self.store.clear()
            self.store.save()
            self.uploads.clear()
        self.clear_faults()
        self.log.clear()
        self._set_defaults()

    def add_user(self, name: str, orgs: Mapping[str, str] | Iterable[str] = ()) -> str:
        """Make a user and return a token that may write.

        Args:
            name: a user that exists is kept, and gets one more token.
            orgs: organizations to make and join with role ``write``; a mapping gives roles (``read``...).
        """
        with self.store.lock:
            self.store.add_user(name, orgs)
            self.store.save()
            return self.store.add_token(name, "write")

    def read_token(self, user: str) -> str:
        """A token of an existing user that may only read."""
        with self.store.lock:
            return self.store.add_token(user, "read")

    def revoke(self, token: str) -> None:
        """Make a token worth nothing from now on."""
        with self.store.lock:
            del self.store.tokens[token]

    def put(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path] | Path,
        *,
        private: bool = False,
        gated: str | bool = False,
        revision: str = "main",
        message: str = "Add files",
    ) -> str:
        """Add files to a repository, made if need be, without a request; returns the commit's sha.

        Args:
            repo_id: ``owner/name``; the owner has to be a user or an organization.
            files: content by path in the repository (bytes, or a file to copy), or a folder with all of them.
            private, gated: set when the repository is made here.
            revision: a branch, made from ``main`` if need be.
        """
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path for path in files.rglob("*") if path.is_file()}
        owner = repo_id.partition("/")[0]
        with self.store.lock:
            if owner not in {*self.store.users, *self.store.orgs}:
                raise KeyError(
                    f"the Hub has no user or organization {owner!r}; call add_user({owner!r}) first"
                )
            repo = self.repos.get(repo_id) or self.store.create(repo_id, owner, private=private, gated=gated)
            parent = repo.find(revision) or repo.history()[0]
            added = {path: self._entry(path, content) for path, content in files.items()}
            commit = repo.commit(revision, parent, parent.files | added, message, "", owner)
            self.store.save()
            return commit.id

    def _entry(self, path: str, content: bytes | Path) -> Entry:
        if isinstance(content, Path):
            with content.open("rb") as file:
                return self._stored(path, file, content.stat().st_size)
        return self._stored(path, io.BytesIO(content), len(content))

    def _stored(self, path: str, file: BinaryIO, size: int) -> Entry:
        head = file.read(512)
        file.seek(0)
        if is_lfs(path, size, head):
            return Entry.large(self.store.blobs.add(file), size)
        return self.store.regular(file.read())

    @property
    def repos(self) -> dict[str, Repo]:
        """Every repository by id."""
        return self.store.repos

    def repo(self, repo_id: str) -> Repo:
        """A repository: its files, its history, its settings."""
        return self.repos[repo_id]

    def read(self, repo_id: str, path: str, revision: str = "main") -> bytes:
        """The content of a file."""
        return self.store.blobs.read(self.repo(repo_id).files(revision)[path].sha256)

    def put_in_bucket(self, bucket_id: str, files: Mapping[str, bytes], *, private: bool = False) -> None:
        """Add files to a bucket, made if need be, without a request.

        Args:
            bucket_id: ``owner/name``; the owner has to be a user or an organization.
            files: content by path in the bucket.
            private: set when the bucket is made here.
        """
        with self.store.lock:
            bucket = self.store.buckets.setdefault(bucket_id, Bucket(bucket_id, private))
            for path, content in files.items():
                sha256 = self.store.blobs.add(io.BytesIO(content))
                bucket.add(path, sha256, sha256, len(content))
            self.store.save()

    def bucket_files(self, bucket_id: str) -> dict[str, bytes] | None:
        """The content of a bucket's files by path; None if there is no such bucket."""
        with self.store.lock:
            bucket = self.store.buckets.get(bucket_id)
            if bucket is None:
                return None
            return {path: self.store.blobs.read(file.sha256) for path, file in bucket.files.items()}

    def grant(self, repo_id: str, user: str) -> None:
        """Let a user through a repository's gate."""
        self.repo(repo_id).granted.add(user)

    def fault(self, method: str = "", path: str = "", **what: Any) -> Fault:
        """Make matching requests go wrong; ``Fault`` says how. Its ``hits`` tell how many did.

        Large files are read by ``GET ^/lfs/{repo}/{sha256}/{path}`` and written by
        ``PUT ^/upload/{repo}/{sha256}/``, both on the file host; all else is ``/api/`` or ``/{repo}/resolve/``.
        """
        fault = Fault(method, path, **what)
        self.faults.add(fault)
        return fault

    def clear_faults(self) -> None:
        self.faults.clear()

    def expire_links(self) -> None:
        """Make every link to the file host that was given out so far fail with 403."""
        ttl, self.links = self.links.ttl, Links()
        self.links.ttl = ttl
