"""Making, changing, listing and deleting repositories, branches and tags."""

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
    return f"{namespace}/{wanted['name']}", wanted


def is_private(wanted: dict[str, Any]) -> bool | None:
    """What a body says of privacy: clients send ``visibility`` now and sent ``private`` before."""
    if "visibility" in wanted:
        return bool(wanted["visibility"] == "private")
    return wanted.get("private")


@route("POST", "/api/repos/create")
def create_repo(hub: Hub, request: Request) -> Reply:
    repo_id, wanted = named(hub, request)
    author = free(hub, request, repo_id)
    hub.store.create(repo_id, author, private=bool(is_private(wanted)))
    return Reply.json({"url": f"{hub.endpoint}/{repo_id}", "name": repo_id})


@route("DELETE", "/api/repos/delete")
def delete_repo(hub: Hub, request: Request) -> Reply:
    repo_id, _ = named(hub, request)
    hub.store.writable(repo_id, request.viewer)
    hub.store.delete(repo_id)
    return Reply.json({})


@route("POST", "/api/repos/move")
def move_repo(hub: Hub, request: Request) -> Reply:
    wanted = request.json()
    found = hub.store.writable(wanted["fromRepo"], request.viewer)
    free(hub, request, wanted["toRepo"])
    del hub.store.repos[found.id]
    found.id = wanted["toRepo"]
    hub.store.repos[found.id] = found
    return Reply.json({})


@route("POST", "/api/models/{repo}/duplicate")
def duplicate_repo(hub: Hub, request: Request, repo: str) -> Reply:
    """Copy the files of ``main``, not its history."""
    source, wanted = hub.store.readable(repo, request.viewer), request.json()
    hub.store.pass_gate(source, request.viewer)
    author = free(hub, request, wanted["repository"])
    private = is_private(wanted)
    made = hub.store.create(
        wanted["repository"], author, private=source.private if private is None else private
    )
    made.commit("main", made.find(), source.files(), f"Duplicate from {repo}", "", author)
    return Reply.json({"url": f"{hub.endpoint}/{made.id}"})


def free(hub: Hub, request: Request, repo_id: str) -> str:
    """The user who may make a repository of this name, if there is none yet."""
    namespace, _, name = repo_id.partition("/")
    if not NAME.fullmatch(name):
        raise RefusalError(400, f"Invalid repository name {name!r}")
    refusal = f"You don't have the rights to create a model under the namespace {namespace!r}."
    author = hub.store.require_write(request.viewer, namespace, refusal)
    if repo_id in hub.store.repos:
        url = f"{hub.endpoint}/{repo_id}"
        raise RefusalError(409, "You already created this model repo", url=url)
    return author


@route("GET", "/api/settings/repositories")
def own_repos(hub: Hub, request: Request) -> Reply:
    if request.viewer is None:
        raise RefusalError(401, "Invalid username or password.")
    return stored(hub, request.viewer.user)


@route("GET", "/api/organizations/{org}/settings/repositories")
def repos_of_an_organization(hub: Hub, request: Request, org: str) -> Reply:
    if hub.store.role(request.viewer, org) is None:
        raise RefusalError(401 if request.viewer is None else 403, f"You are not a member of {org}")
    return stored(hub, org)


def stored(hub: Hub, owner: str) -> Reply:
    """A namespace's repositories with the bytes of all that they keep."""
    repos = [it for it in hub.store.repos.values() if it.owner == owner]
    sizes = [sum(map(hub.store.blobs.size, it.blobs())) for it in repos]
    return Reply.json(
        [
            {
                "id": it.id,
                "type": "model",
                "updatedAt": it.history()[0].date,
                "visibility": "private" if it.private else "public",
                "storage": size,
                "storagePercent": 100 * size / (sum(sizes) or 1),
            }
            for it, size in zip(repos, sizes, strict=True)
        ]
    )


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


@route("POST", "/api/models/{repo}/tag/{rev}")
def create_tag(hub: Hub, request: Request, repo: str, rev: str) -> Reply:
    found = hub.store.writable(repo, request.viewer)
    ref = f"refs/tags/{request.json()['tag']}"
    if ref in found.refs:
        raise RefusalError(409, f"Reference already exists: {ref}")
    found.refs[ref] = hub.store.commit(found, rev).id
    return Reply.json({})


@route("DELETE", "/api/models/{repo}/tag/{tag}")
def delete_tag(hub: Hub, request: Request, repo: str, tag: str) -> Reply:
    found = hub.store.writable(repo, request.viewer)
    if f"refs/tags/{tag}" not in found.refs:
        raise RefusalError(404, f"There is no tag {tag!r}", "RevisionNotFound")
    del found.refs[f"refs/tags/{tag}"]
    return Reply.json({})
