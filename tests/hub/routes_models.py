"""Looking: who am I, search, model info, files, refs, history."""

from __future__ import annotations

from operator import itemgetter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.hub.card import check_card
from tests.hub.listing import IN_A_LIST, IN_DETAIL, IN_FULL, describe
from tests.hub.repo import Commit, Repo, git_oid
from tests.hub.request import RefusalError, Reply, Request, route

if TYPE_CHECKING:
    from tests.hub.hub import Hub

SEARCHED = {"search", "author", "filter", "pipeline_tag", "gated", "limit", "cursor", "sort", "direction"}
SHOWN = {"expand", "full", "config", "cardData"}


@route("GET", "/api/whoami-v2")
def whoami(hub: Hub, request: Request) -> Reply:
    if request.viewer is None:
        raise RefusalError(401, "Invalid username or password.")
    name, role = request.viewer.user, request.viewer.role
    orgs = [
        {"type": "org", "id": org, "name": org, "fullname": org, "isEnterprise": False, "roleInOrg": role}
        for org, role in hub.store.users[name].items()
    ]
    auth = {"type": "access_token", "accessToken": {"displayName": "loopback", "role": role}}
    user = {"type": "user", "id": name, "name": name, "fullname": name, "isPro": False, "canPay": False}
    return Reply.json(user | {"avatarUrl": "", "orgs": orgs, "auth": auth})


@route("GET", "/api/spaces/zero-gpu/quota")
def quota(hub: Hub, request: Request) -> Reply:
    if request.viewer is None:
        raise RefusalError(401, "Invalid username or password.")
    if request.viewer.user not in hub.quotas:
        raise RefusalError(403, "The token lacks the scope read-billing")
    return Reply.json(hub.quotas[request.viewer.user])


@route("GET", "/api/spaces/{repo}")
def space_info(hub: Hub, request: Request, repo: str) -> Reply:
    if repo not in hub.spaces:
        raise RefusalError(404, "Repository not found", "RepoNotFound")
    head, running = hub.spaces[repo]
    stage = {"stage": "RUNNING" if running else "BUILDING", "hardware": {"current": None, "requested": None}}
    return Reply.json({"id": repo, "sha": head, "runtime": stage | ({"sha": running} if running else {})})


@route("GET", "/api/models")
def list_models(hub: Hub, request: Request) -> Reply:
    query = request.query
    if unknown := sorted(query.keys() - SEARCHED - SHOWN):
        raise RefusalError(400, f"The loopback Hub does not search by {', '.join(unknown)}")
    wanted = {tag for value in query.get("filter", []) for tag in value.split(",")}
    models = []
    for repo in hub.store.visible(request.viewer):
        fields = shown(hub, request, repo, "main")
        if (
            request.one("search").lower() in repo.id.lower()
            and request.one("author", repo.owner) == repo.owner
            and request.one("gated", str(bool(repo.gated)).lower()) == str(bool(repo.gated)).lower()
            and request.one("pipeline_tag", fields["pipeline_tag"]) == fields["pipeline_tag"]
            and wanted <= {*fields["tags"]}
        ):
            models.append(fields)
    sort = request.one("sort", "trendingScore")
    if sort not in ("createdAt", "downloads", "lastModified", "likes", "trendingScore"):
        raise RefusalError(400, f"Invalid sort {sort!r}")
    models.sort(key=itemgetter(sort), reverse=True)
    names = query.get("expand") or [
        *(IN_FULL if request.flag("full") else IN_A_LIST),
        *(name for name in ("config", "cardData") if request.flag(name)),
    ]
    page, headers = paged(hub, request, models)
    return Reply.json([chosen(model, names) for model in page], headers=headers)


@route("GET", "/api/models/{repo}")
@route("GET", "/api/models/{repo}/revision/{rev}")
def model_info(hub: Hub, request: Request, repo: str, rev: str = "main") -> Reply:
    fields = shown(hub, request, hub.store.readable(repo, request.viewer), rev)
    return Reply.json(chosen(fields, request.query.get("expand") or IN_DETAIL))


def shown(hub: Hub, request: Request, repo: Repo, revision: str) -> dict[str, Any]:
    """All that the Hub says about a model."""
    fields = describe(hub.store.blobs, repo, hub.store.commit(repo, revision), sizes=request.flag("blobs"))
    return {"_id": repo.id, "id": repo.id, "modelId": repo.id} | fields


def chosen(fields: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The fields of those names that there are, and the id."""
    if unknown := set(names) - fields.keys():
        raise RefusalError(400, f"Invalid expand: {', '.join(unknown)}; expected some of {', '.join(fields)}")
    return {name: fields[name] for name in ["_id", "id", "modelId", *names] if fields[name] is not None}


@route("GET", "/api/models/{repo}/tree/{rev}")
@route("GET", "/api/models/{repo}/tree/{rev}/{path}")
def tree(hub: Hub, request: Request, repo: str, rev: str, path: str = "") -> Reply:
    commit = hub.store.commit(hub.store.readable(repo, request.viewer), rev)
    prefix = path.strip("/") + "/" if path else ""
    below = [entry for entry in items(commit) if entry["path"].startswith(prefix)]
    if path and not below:
        hub.store.entry(commit, path)
    if not request.flag("recursive"):
        below = [entry for entry in below if "/" not in entry["path"][len(prefix) :]]
    page, headers = paged(hub, request, below)
    return Reply.json(page, headers=headers)


@route("POST", "/api/models/{repo}/paths-info/{rev}")
def paths_info(hub: Hub, request: Request, repo: str, rev: str) -> Reply:
    commit = hub.store.commit(hub.store.readable(repo, request.viewer), rev)
    paths = set(request.form().get("paths", []))
    return Reply.json([entry for entry in items(commit) if entry["path"] in paths])


@route("GET", "/api/models/{repo}/refs")
def refs(hub: Hub, request: Request, repo: str) -> Reply:
    found = hub.store.readable(repo, request.viewer)
    heads: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
    for name, sha in found.refs.items():
        ref = name if name.startswith("refs/") else f"refs/heads/{name}"
        kind = {"pr": "pullRequests", "tags": "tags"}.get(ref.split("/")[1], "branches")
        short = name.removeprefix("refs/tags/").removeprefix("refs/")
        heads[kind].append({"name": short, "ref": ref, "targetCommit": sha})
    return Reply.json(heads)


@route("GET", "/api/models/{repo}/commits/{rev}")
def commits(hub: Hub, request: Request, repo: str, rev: str) -> Reply:
    found = hub.store.readable(repo, request.viewer)
    hub.store.commit(found, rev)
    history = [
        {key: getattr(one, key) for key in ("id", "title", "message", "date")}
        | {"authors": [{"user": one.author}]}
        for one in found.history(rev)
    ]
    page, headers = paged(hub, request, history)
    return Reply.json(page, headers=headers)


@route("GET", "/api/models/{repo}/auth-check")
def auth_check(hub: Hub, request: Request, repo: str) -> Reply:
    hub.store.pass_gate(hub.store.readable(repo, request.viewer), request.viewer)
    return Reply.json({})


@route("GET", "/api/models/{repo}/auth-check/write")
def auth_check_write(hub: Hub, request: Request, repo: str) -> Reply:
    hub.store.writable(repo, request.viewer)
    return Reply.json({})


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: Hub, request: Request) -> Reply:
    errors, warnings = check_card(request.json()["content"])
    found = {"errors": errors, "warnings": warnings}
    answer = {kind: [{"message": text} for text in texts] for kind, texts in found.items()}
    return Reply.json(answer, 400 if errors else 200)


def paged(hub: Hub, request: Request, items: list[Any]) -> tuple[list[Any], dict[str, str]]:
    """One page of ``items`` and the header that names the next one."""
    start = int(request.one("cursor", "0"))
    end = start + min(int(request.one("limit", str(hub.page_size))), hub.page_size)
    if end >= len(items):
        return items[start:], {}
    following = urlencode(request.query | {"cursor": [str(end)]}, doseq=True)
    return items[start:end], {"Link": f'<{hub.endpoint}{request.path}?{following}>; rel="next"'}


def items(commit: Commit) -> list[dict[str, Any]]:
    """Every file and folder of a commit, by path, as the tree shows them."""
    parents = {str(parent) for path in commit.files for parent in PurePosixPath(path).parents} - {"."}
    found = [
        {"type": "directory", "oid": git_oid(path.encode()), "size": 0, "path": path} for path in parents
    ]
    for path, entry in commit.files.items():
        file = {"type": "file", "oid": entry.git_oid, "size": entry.size, "path": path}
        # What has one can be read through Xet, and copied to another repository.
        large = {"lfs": entry.lfs_info("oid"), "xetHash": entry.sha256}
        found.append(file | large if entry.lfs else file)
    return sorted(found, key=itemgetter("path"))
