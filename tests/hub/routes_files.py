"""Downloading: small files come from the Hub itself, large ones over signed links from the file host."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.hub.request import RefusalError, Reply, Request, route

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
    if entry.sha256 in hub.xet.hashes:
        headers["X-Xet-Hash"] = hub.xet.hashes[entry.sha256]
    headers["Location"] = hub.links.make(
        "GET", hub.file_endpoint, f"/lfs/{repo}/{entry.sha256}/{quote(path)}"
    )
    return Reply.text(302, headers, b"Found")


@route("GET", "/api/models/{repo}/xet-read-token/{rev}")
def xet_read_token(hub: Hub, request: Request, repo: str, rev: str) -> Reply:
    found = hub.store.readable(repo, request.viewer)
    hub.store.pass_gate(found, request.viewer)
    hub.store.commit(found, rev)
    return Reply.json({"casUrl": hub.xet.url, "accessToken": "xet", "exp": int(time.time()) + 3600})


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
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if match is None or match[1] == match[2] == "":
        return Reply(200, headers, hub.store.blobs.open(oid), size)
    if match[1]:
        start, end = int(match[1]), min(int(match[2] or size), size - 1)
    else:
        start, end = max(size - int(match[2]), 0), size - 1
    if start > end:
        raise RefusalError(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    return Reply(206, headers, hub.store.blobs.open(oid), end - start + 1, start)
