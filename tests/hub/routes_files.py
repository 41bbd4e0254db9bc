"""Downloading: small files come from the Hub itself, large ones over signed links from the file host."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.hub.request import RefusalError, Reply, Request, route, span

if TYPE_CHECKING:
    from tests.hub.hub import Hub


@route("GET HEAD", "/{repo}/resolve/{rev}/{path}")
def resolve(hub: Hub, request: Request, repo: str, rev: str, path: str) -> Reply:
    found = hub.store.readable(repo, request.viewer)
    hub.store.pass_gate(found, request.viewer)
    commit = hub.store.commit(found, rev)
    entry = hub.store.entry(commit, path)
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{entry.etag}"', "Accept-Ranges": "bytes"}
    if not entry.lfs:
        headers["Location"] = f"/api/resolve-cache/models/{repo}/{commit.id}/{quote(path)}"
        return Reply.text(307, headers, b"Temporary Redirect")
    headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    if entry.size:
        headers["X-Xet-Hash"] = entry.sha256
        headers["Link"] = f'<{hub.endpoint}/api/models/{repo}/xet-read-token/{commit.id}>; rel="xet-auth"'
    headers["Location"] = hub.links.make(
        "GET", hub.file_endpoint, f"/lfs/{repo}/{entry.sha256}/{quote(path)}"
    )
    return Reply.text(302, headers, b"Found")


@route("GET HEAD", "/api/resolve-cache/models/{repo}/{rev}/{path}")
def small_file(hub: Hub, request: Request, repo: str, rev: str, path: str) -> Reply:
    found = hub.store.readable(repo, request.viewer)
    hub.store.pass_gate(found, request.viewer)
    commit = hub.store.commit(found, rev)
    entry = hub.store.entry(commit, path)
    return content(hub, request, entry.sha256, {"X-Repo-Commit": commit.id, "ETag": f'"{entry.etag}"'})


@route("GET HEAD", "/lfs/{repo}/{oid}/{path}", cdn=True)
def large_file(hub: Hub, request: Request, repo: str, oid: str, path: str) -> Reply:
    hub.links.check("GET", request)
    if oid not in hub.store.blobs:
        raise RefusalError(404, "NoSuchKey")
    name = quote(path.rpartition("/")[2])
    headers = {
        "ETag": f'"{oid}"',
        "Content-Disposition": f"inline; filename*=UTF-8''{name}; filename=\"{name}\";",
    }
    return content(hub, request, oid, headers)


def content(hub: Hub, request: Request, oid: str, headers: dict[str, str]) -> Reply:
    """A blob, or the part of it that the Range header asks for; several ranges at once are not served."""
    size = hub.store.blobs.size(oid)
    headers |= {"content-type": "application/octet-stream", "Accept-Ranges": "bytes"}
    found = span(request, size)
    if found is None:
        return Reply(200, headers, hub.store.blobs.open(oid), size)
    start, end = found
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Reply(206, headers, hub.store.blobs.open(oid), end - start, start)
