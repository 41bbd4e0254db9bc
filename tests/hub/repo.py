"""A model repository: files, commits, branches."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

LFS_SUFFIXES = ("safetensors", "bin", "gguf", "pt", "pth", "model", "h5", "zip", "npz", "parquet")
GIT_ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
LARGEST_REGULAR_FILE = 10 << 20


def now() -> str:
    """The time as the Hub writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_lfs(path: str, size: int, sample: bytes) -> bool:
    """Whether a file goes to large file storage: by name, by size in bytes, or for a zero byte in its head."""
    return path.rpartition(".")[2] in LFS_SUFFIXES or size > LARGEST_REGULAR_FILE or b"\0" in sample


def git_oid(content: bytes) -> str:
    """The name git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One file of a commit; its bytes are the blob named ``sha256``."""

    sha256: str
    size: int
    git_oid: str
    lfs: bool

    @classmethod
    def regular(cls, sha256: str, content: bytes) -> Entry:
        return cls(sha256, len(content), git_oid(content), lfs=False)

    @classmethod
    def large(cls, sha256: str, size: int) -> Entry:
        return cls(sha256, size, git_oid(cls.pointer(sha256, size)), lfs=True)

    @staticmethod
    def pointer(sha256: str, size: int) -> bytes:
        """What git itself stores for a large file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()

    def lfs_info(self, key: str) -> dict[str, Any]:
        """How answers describe a large file; they call its sha256 by different names."""
        return {key: self.sha256, "size": self.size, "pointerSize": len(self.pointer(self.sha256, self.size))}

    @property
    def etag(self) -> str:
        """What the client compares to know whether a file changed."""
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    id: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Entry]


@dataclass
class Repo:
    """A repository and who may read it.

    Attributes:
        downloads, likes: what a test sets them to.
        refs: the commit of each branch (``main``), tag (``refs/tags/v1``) and pull request (``refs/pr/1``).
        objects: sha256 of the large files that were uploaded to it, committed or not.
        granted: users who were let through its gate.
    """

    id: str
    private: bool = False
    gated: str | bool = False
    downloads: int = 0
    likes: int = 0
    created: str = field(default_factory=now)
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)
    granted: set[str] = field(default_factory=set)

    @property
    def owner(self) -> str:
        return self.id.partition("/")[0]

    def find(self, revision: str = "main") -> Commit | None:
        """The commit that a branch, a tag, a pull request (``refs/pr/1``) or a full sha names."""
        names = (revision.removeprefix("refs/heads/"), f"refs/tags/{revision}")
        return self.commits.get(next((self.refs[name] for name in names if name in self.refs), revision))

    def files(self, revision: str = "main") -> dict[str, Entry]:
        """The files at a revision, by path."""
        commit = self.find(revision)
        if commit is None:
            raise KeyError(f"{self.id} has no revision {revision!r}; it has {sorted(self.refs)}")
        return commit.files

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits of a revision, newest first."""
        commit, found = self.find(revision), []
        while commit is not None:
            found.append(commit)
            commit = self.commits.get(commit.parent or "")
        return found

    def commit(
        self, ref: str, parent: Commit | None, files: dict[str, Entry], title: str, message: str, author: str
    ) -> Commit:
        """Record ``files`` as the new head of ``ref`` (a branch, or ``refs/pr/N``)."""
        sha = secrets.token_hex(20)
        commit = Commit(sha, parent.id if parent else None, title, message, author, now(), files)
        self.commits[sha] = commit
        self.objects.update(entry.sha256 for entry in files.values() if entry.lfs)
        self.refs[ref] = sha
        return commit

    def blobs(self) -> set[str]:
        """The sha256 of every blob that the repository keeps alive."""
        return self.objects | {
            entry.sha256 for commit in self.commits.values() for entry in commit.files.values()
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Repo:
        """The repository whose fields were written as JSON, sets as lists."""
        for commit in data["commits"].values():
            commit["files"] = {path: Entry(**entry) for path, entry in commit["files"].items()}
        data["commits"] = {sha: Commit(**commit) for sha, commit in data["commits"].items()}
        return cls(**data | {"objects": set(data["objects"]), "granted": set(data["granted"])})
