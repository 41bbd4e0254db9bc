"""What the Hub holds, and who may see or change it."""

from __future__ import annotations

import io
import json
import re
import secrets
import string
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.hub.blobs import Blobs
from tests.hub.bucket import Bucket
from tests.hub.repo import GIT_ATTRIBUTES, Commit, Entry, Repo
from tests.hub.request import RefusalError

NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,94}(?<![.-])(?<!\.git)")


@dataclass(frozen=True)
class Token:
    """Who asks, and whether the token may change things (role ``write``) or only look (``read``)."""

    user: str
    role: str


class Store:
    """Users, organizations, tokens, repositories and their bytes.

    Args:
        folder: kept between starts, all but the tokens; None holds everything in memory.

    Hold ``lock`` while reading or changing anything: tests and the server are different threads.
    """

    def __init__(self, folder: Path | None) -> None:
        self.lock = threading.RLock()
        self.blobs = Blobs(folder and folder / "blobs")
        self._index = folder and folder / "hub.json"
        self.users: dict[str, dict[str, str]] = {}  # name -> organization -> role there
        self.orgs: set[str] = set()
        self.tokens: dict[str, Token] = {}
        self.repos: dict[str, Repo] = {}
        self.buckets: dict[str, Bucket] = {}
        if self._index is not None and self._index.exists():
            data = json.loads(self._index.read_text())
            self.users, self.orgs = data["users"], set(data["orgs"])
            self.repos = {repo["id"]: Repo.from_json(repo) for repo in data["repos"]}
            self.buckets = {one["id"]: Bucket.from_json(one) for one in data.get("buckets", ())}

    def clear(self) -> None:
        """Forget everything."""
        self.blobs.drop_all_but(set())
        self.users, self.orgs, self.tokens, self.repos, self.buckets = {}, set(), {}, {}, {}

    def save(self) -> None:
        """Write the index, where there is a folder. It never holds a token."""
        if self._index is not None:
            index = {
                "users": self.users,
                "orgs": self.orgs,
                "repos": list(self.repos.values()),
                "buckets": list(self.buckets.values()),
            }
            fresh = self._index.with_suffix(".new")
            fresh.write_text(
                json.dumps(index, default=lambda it: sorted(it) if isinstance(it, set) else vars(it))
            )
            fresh.replace(self._index)

    def add_user(self, name: str, orgs: Mapping[str, str] | Iterable[str]) -> None:
        roles = dict(orgs) if isinstance(orgs, Mapping) else dict.fromkeys(orgs, "write")
        self.users[name] = self.users.get(name, {}) | roles
        self.orgs |= set(roles)

    def add_token(self, user: str, role: str) -> str:
        """A new token of a user, in the shape of real ones."""
        if user not in self.users:
            raise KeyError(f"the Hub has no user {user!r}; call add_user({user!r}) first")
        token = "hf_" + "".join(secrets.choice(string.ascii_letters) for _ in range(34))
        self.tokens[token] = Token(user, role)
        return token

    def create(self, repo_id: str, author: str, *, private: bool = False, gated: str | bool = False) -> Repo:
        """A new repository; like the real Hub's it starts with a commit of ``.gitattributes``."""
        repo = self.repos[repo_id] = Repo(repo_id, private, gated)
        attributes = self.regular(GIT_ATTRIBUTES.encode())
        repo.commit("main", None, {".gitattributes": attributes}, "initial commit", "", author)
        return repo

    def regular(self, content: bytes) -> Entry:
        """Store a small file."""
        return Entry.regular(self.blobs.add(io.BytesIO(content)), content)

    def delete(self, repo_id: str) -> None:
        del self.repos[repo_id]
        self._drop_unused()

    def delete_bucket(self, bucket_id: str) -> None:
        del self.buckets[bucket_id]
        self._drop_unused()

    def _drop_unused(self) -> None:
        repos = (repo.blobs() for repo in self.repos.values())
        self.blobs.drop_all_but(set().union(*repos, *(bucket.objects for bucket in self.buckets.values())))

    def role(self, viewer: Token | None, namespace: str) -> str | None:
        """What a viewer may do in a namespace: None, ``read`` or ``write`` (``admin`` counts as that)."""
        if viewer is None:
            return None
        return "write" if viewer.user == namespace else self.users[viewer.user].get(namespace)

    def visible(self, viewer: Token | None) -> list[Repo]:
        """The repositories that a viewer may know of."""
        return [it for it in self.repos.values() if not it.private or self.role(viewer, it.owner) is not None]

    def readable(self, repo_id: str, viewer: Token | None) -> Repo:
        """The repository, or the Hub's refusal: a private one looks like a missing one."""
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and self.role(viewer, repo.owner) is None):
            raise RefusalError(401 if viewer is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, repo_id: str, viewer: Token | None) -> Repo:
        """The repository, if the viewer may change it, or the Hub's refusal."""
        repo = self.readable(repo_id, viewer)
        self.require_write(viewer, repo.owner, f"You have no write access to {repo_id}")
        return repo

    def readable_bucket(self, bucket_id: str, viewer: Token | None) -> Bucket:
        """The bucket, or the Hub's refusal: a private one looks like a missing one."""
        bucket = self.buckets.get(bucket_id)
        if bucket is None or (bucket.private and self.role(viewer, bucket.owner) is None):
            raise RefusalError(401 if viewer is None else 404, "Bucket not found", "RepoNotFound")
        return bucket

    def writable_bucket(self, bucket_id: str, viewer: Token | None) -> Bucket:
        """The bucket, if the viewer may change it, or the Hub's refusal."""
        bucket = self.readable_bucket(bucket_id, viewer)
        self.require_write(viewer, bucket.owner, f"You have no write access to {bucket_id}")
        return bucket

    def require_write(self, viewer: Token | None, namespace: str, refusal: str) -> str:
        """The user's name, if their token may change things in ``namespace``."""
        if viewer is None:
            raise RefusalError(401, "Invalid username or password.")
        if viewer.role != "write":
            raise RefusalError(403, "You must use a write token: this one has role read")
        if self.role(viewer, namespace) not in ("write", "admin"):
            raise RefusalError(403, refusal)
        return viewer.user

    def pass_gate(self, repo: Repo, viewer: Token | None) -> None:
        """Refuse whoever has not been granted a gated repository."""
        if not repo.gated or self.role(viewer, repo.owner) is not None:
            return
        if viewer is None:
            raise RefusalError(401, f"Access to model {repo.id} is restricted. Please log in.", "GatedRepo")
        if viewer.user not in repo.granted:
            message = f"Access to model {repo.id} is restricted and you are not in the authorized list."
            raise RefusalError(403, message, "GatedRepo")

    @staticmethod
    def commit(repo: Repo, revision: str) -> Commit:
        """The commit that a revision names, or the Hub's refusal."""
        commit = repo.find(revision)
        if commit is None:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    @staticmethod
    def entry(commit: Commit, path: str) -> Entry:
        """A file of a commit, or a refusal that names the commit: transformers remembers absent files."""
        if path not in commit.files:
            raise RefusalError(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.id})
        return commit.files[path]
