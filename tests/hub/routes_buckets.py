"""Buckets: making, listing and deleting them, and the batches by which their files change."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.hub.bucket import Bucket
from tests.hub.request import RefusalError, Reply, Request, route
from tests.hub.routes_models import paged
from tests.hub.routes_repos import is_private
from tests.hub.store import NAME

if TYPE_CHECKING:
    from tests.hub.hub import Hub


@route("POST", "/api/buckets/{repo}")
def create(hub: Hub, request: Request, repo: str) -> Reply:
    namespace, _, name = repo.partition("/")
    refusal = f"You don't have the rights to create a bucket under the namespace {namespace!r}."
    hub.store.require_write(request.viewer, namespace, refusal)
    if not NAME.fullmatch(name):
        raise RefusalError(400, f"Invalid bucket name {name!r}")
    url = f"{hub.endpoint}/buckets/{repo}"
    if repo in hub.store.buckets:
        raise RefusalError(409, "You already created this bucket", url=url)
    hub.store.buckets[repo] = Bucket(repo, bool(is_private(request.json())))
    return Reply.json({"url": url, "name": repo})


@route("GET", "/api/buckets/{repo}")
def info(hub: Hub, request: Request, repo: str) -> Reply:
    return Reply.json(hub.store.readable_bucket(repo, request.viewer).info())


@route("DELETE", "/api/buckets/{repo}")
def delete(hub: Hub, request: Request, repo: str) -> Reply:
    hub.store.writable_bucket(repo, request.viewer)
    hub.store.delete_bucket(repo)
    return Reply.json({})


@route("GET", "/api/buckets/{repo}/tree")
@route("GET", "/api/buckets/{repo}/tree/{path}")
def tree(hub: Hub, request: Request, repo: str, path: str = "") -> Reply:
    """All files whose paths begin so, and their folders where all levels are asked for."""
    bucket = hub.store.readable_bucket(repo, request.viewer)
    found = [bucket.item(name) for name in sorted(bucket.files) if name.startswith(path)]
    if not request.flag("recursive"):
        raise RefusalError(400, "The loopback Hub lists buckets recursively alone")
    folders = {str(parent) for item in found for parent in PurePosixPath(item["path"]).parents} - {"."}
    found += [
        {"type": "directory", "path": folder, "uploadedAt": bucket.created} for folder in sorted(folders)
    ]
    page, headers = paged(hub, request, found)
    return Reply.json(page, headers=headers)


@route("POST", "/api/buckets/{repo}/paths-info")
def paths_info(hub: Hub, request: Request, repo: str) -> Reply:
    bucket = hub.store.readable_bucket(repo, request.viewer)
    return Reply.json([bucket.item(path) for path in request.json()["paths"] if path in bucket.files])


@route("POST", "/api/buckets/{repo}/batch")
def batch(hub: Hub, request: Request, repo: str) -> Reply:
    """Do every line that can be done; the answer lists the others."""
    bucket = hub.store.writable_bucket(repo, request.viewer)
    lines = [json.loads(line) for line in request.body.splitlines()]
    failed = [
        {"path": line["path"], "error": error}
        for line in lines
        if (error := change(hub, request, bucket, line))
    ]
    status = 422 if lines and len(failed) == len(lines) else 200
    return Reply.json({"success": not failed, "failed": failed}, status)


def change(hub: Hub, request: Request, bucket: Bucket, line: dict[str, Any]) -> str:
    """Do one line of a batch; why it cannot be done."""
    kind, path = line["type"], line["path"]
    if not path or not {"", ".", ".."}.isdisjoint(path.split("/")):
        return "Invalid path"
    if kind == "deleteFile":
        return "" if bucket.files.pop(path, None) else "There is no such file"
    sha256 = hub.xet.names.get(line["xetHash"], line["xetHash"])
    objects = bucket.objects
    if kind == "copyFile":
        assert line["sourceRepoType"] == "bucket", "the loopback Hub copies from buckets alone"
        objects = hub.store.readable_bucket(line["sourceRepoId"], request.viewer).objects
    elif kind != "addFile":
        return f"Unknown operation {kind!r}"
    if sha256 not in objects:
        return "There is no such content"
    bucket.add(path, sha256, line["xetHash"], hub.store.blobs.size(sha256))
    return ""


@route("GET HEAD", "/buckets/{repo}/resolve/{path}")
def resolve(hub: Hub, request: Request, repo: str, path: str) -> Reply:
    bucket = hub.store.readable_bucket(repo, request.viewer)
    file = bucket.files.get(path)
    if file is None:
        raise RefusalError(404, "Entry not found", "EntryNotFound")
    headers = {
        "ETag": f'"{file.xet_hash}"',
        "X-Linked-Etag": f'"{file.xet_hash}"',
        "X-Linked-Size": str(file.size),
        "X-Xet-Hash": file.xet_hash,
        "Link": f'<{hub.endpoint}/api/buckets/{repo}/xet-read-token>; rel="xet-auth"',
        "Location": hub.links.make("GET", hub.file_endpoint, f"/lfs/{repo}/{file.sha256}/{quote(path)}"),
    }
    return Reply.text(302, headers, b"Found")
