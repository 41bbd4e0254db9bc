"""Making, changing and deleting repositories and branches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.hub.request import RefusalError, Reply, Request, route
from tests.hub.store import NAME

if TYPE_CHECKING:
    from tests.hub.hub import Hub


def named(hub: Hub, request: Request) -> tuple[str, dict[str, Any]]:
    """The repository that a body of ``name`` and ``organization`` means, and the body."""
    wanted = request.json()
    if wanted.get("type", "model") != "model":
        raise RefusalError(400, f"The loopback Hub holds models only, not a {wanted['type']}")
    namespace = wanted.get("organization") or (request.viewer.user if request.viewer else "")
    if not NAME.fullmatch(wanted["name"]):
        raise RefusalError(400, f"Invalid repository name {wanted['name']!r}")
    return f"{namespace}/{wanted['name']}", wanted


def is_private(wanted: dict[str, Any]) -> bool | None:
    """What a body says of privacy: clients send ``visibility`` now and sent ``private`` before."""
    if "visibility" in wanted:
        return bool(wanted["visibility"] == "private")
    return wanted.get("private")


@route("POST", "/api/repos/create")
def create_repo(hub: Hub, request: Request) -> Reply:
    repo_id, wanted = named(hub, request)
    namespace = repo_id.partition("/")[0]
    refusal = f"You don't have the rights to create a model under the namespace {namespace!r}."
    author = hub.store.require_write(request.viewer, namespace, refusal)
    url = f"{hub.endpoint}/{repo_id}"
    if repo_id in hub.store.repos:
        raise RefusalError(409, "You already created this model repo", url=url)
    hub.store.create(repo_id, author, private=bool(is_private(wanted)))
    return Reply.json({"url": url, "name": repo_id})


@route("DELETE", "/api/repos/delete")
def delete_repo(hub: Hub, request: Request) -> Reply:
    repo_id, _ = named(hub, request)
    hub.store.writable(repo_id, request.viewer)
    hub.store.delete(repo_id)
    return Reply.json({})


@route("PUT", "/api/models/{repo}/settings")
def settings(hub: Hub, request: Request, repo: str) -> Reply:
    found, wanted = hub.store.writable(repo, request.viewer), request.json()
    private = is_private(wanted)
    found.private = found.private if private is None else private
    found.gated = wanted.get("gated", found.gated)
    return Reply.json({"private": found.private, "gated": found.gated})


@route("POST", "/api/models/{repo}/branch/{branch}")
def create_branch(hub: Hub, request: Request, repo: str, branch: str) -> Reply:
    found = hub.store.writable(repo, request.viewer)
    if branch in found.refs:
        raise RefusalError(409, f"Reference already exists: refs/heads/{branch}")
    found.refs[branch] = hub.store.commit(found, request.json().get("startingPoint", "main")).id
    return Reply.json({})


@route("DELETE", "/api/models/{repo}/branch/{branch}")
def delete_branch(hub: Hub, request: Request, repo: str, branch: str) -> Reply:
    found = hub.store.writable(repo, request.viewer)
    if branch == "main" or branch not in found.refs:
        raise RefusalError(
            404 if branch != "main" else 403, f"Cannot delete the branch {branch!r}", "RevisionNotFound"
        )
    del found.refs[branch]
    return Reply.json({})
