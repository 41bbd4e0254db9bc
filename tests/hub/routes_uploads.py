"""Uploading: preupload says which files are large, LFS takes these, a commit names them all."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from dataclasses import dataclass, field
from itertools import count
from math import ceil
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from tests.hub.card import check_card
from tests.hub.repo import Entry, Repo, is_lfs
from tests.hub.request import RefusalError, Reply, Request, route
from tests.hub.store import Store

if TYPE_CHECKING:
    from tests.hub.hub import Hub


@dataclass
class PartedUpload:
    """A large file that arrives in parts, each at its place."""

    file: BinaryIO
    etags: dict[int, str] = field(default_factory=dict)


@route("POST", "/api/models/{repo}/preupload/{rev}")
def preupload(hub: Hub, request: Request, repo: str, rev: str) -> Reply:
    found = hub.store.writable(repo, request.viewer)
    files = hub.store.commit(found, rev).files
    answers = []
    for file in request.json()["files"]:
        path, known = file["path"], files.get(file["path"])
        mode = "lfs" if is_lfs(path, file["size"], base64.b64decode(file["sample"])) else "regular"
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known and known.etag})
    return Reply.json({"files": answers})


@route("POST", "/{repo}.git/info/lfs/objects/batch")
def lfs_batch(hub: Hub, request: Request, repo: str) -> Reply:
    found = hub.store.writable(repo, request.viewer)
    objects = [upload_actions(hub, found, one["oid"], one["size"]) for one in request.json()["objects"]]
    return Reply.json({"transfer": "basic", "objects": objects})


def upload_actions(hub: Hub, repo: Repo, oid: str, size: int) -> dict[str, Any]:
    """What the client has to do for one large file; nothing if the repository has it."""
    if oid in repo.objects:
        return {"oid": oid, "size": size}
    address = f"{repo.id}/{oid}/{size}"
    verify = {"href": f"{hub.endpoint}/{repo.id}.git/info/lfs/objects/verify"}
    if size <= hub.part_size:
        upload: dict[str, Any] = {"href": hub.links.make("PUT", hub.file_endpoint, f"/upload/{address}")}
    else:
        header = {"chunk_size": str(hub.part_size)}
        for part in range(1, ceil(size / hub.part_size) + 1):
            path = f"/upload/{address}/{hub.part_size}/{part}"
            header[str(part)] = hub.links.make("PUT", hub.file_endpoint, path)
        complete = hub.links.make("POST", hub.endpoint, f"/api/complete-multipart/{address}")
        upload = {"href": complete, "header": header}
    return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}


@route("PUT", "/upload/{repo}/{oid}/{size}", cdn=True, raw=True)
async def put_file(hub: Hub, request: Request, repo: str, oid: str, size: str) -> Reply:
    hub.links.check("PUT", request)
    file = hub.store.blobs.create()
    try:
        await receive(request, file, 0, int(size))
        await keep(hub, file, repo, oid)
    except BaseException:
        hub.store.blobs.discard(file)
        raise
    return Reply.text(200, {"ETag": f'"{oid}"'}, b"")


@route("PUT", "/upload/{repo}/{oid}/{size}/{part_size}/{part}", cdn=True, raw=True)
async def put_part(
    hub: Hub, request: Request, repo: str, oid: str, size: str, part_size: str, part: str
) -> Reply:
    hub.links.check("PUT", request)
    upload = hub.uploads.get((repo, oid))
    if upload is None:
        upload = hub.uploads[repo, oid] = PartedUpload(hub.store.blobs.create())
    start = (int(part) - 1) * int(part_size)
    await receive(request, upload.file, start, min(int(part_size), int(size) - start))
    etag = upload.etags[int(part)] = f'"{secrets.token_hex(16)}"'
    return Reply.text(200, {"ETag": etag}, b"")


@route("POST", "/api/complete-multipart/{repo}/{oid}/{size}")
async def complete_multipart(hub: Hub, request: Request, repo: str, oid: str, size: str) -> Reply:
    hub.links.check("POST", request)
    upload = hub.uploads.pop((repo, oid), None)
    sent = {part["partNumber"]: part["etag"] for part in request.json()["parts"]}
    if upload is None or sent != upload.etags:
        raise RefusalError(400, "InvalidPart: the parts and their ETags are not the ones that were uploaded")
    await keep(hub, upload.file, repo, oid)
    return Reply.json({"success": True})


@route("POST", "/{repo}.git/info/lfs/objects/verify")
def lfs_verify(hub: Hub, request: Request, repo: str) -> Reply:
    found, wanted = hub.store.writable(repo, request.viewer), request.json()
    if wanted["oid"] not in found.objects or hub.store.blobs.size(wanted["oid"]) != wanted["size"]:
        raise RefusalError(404, f"The object {wanted['oid']} was not uploaded")
    return Reply.json({})


@route("POST", "/api/models/{repo}/commit/{rev}")
def commit(hub: Hub, request: Request, repo: str, rev: str) -> Reply:
    found = hub.store.writable(repo, request.viewer)
    parent = hub.store.commit(found, rev)
    if not request.flag("create_pr") and (rev not in found.refs or rev.startswith("refs/tags/")):
        raise RefusalError(400, f"Commits go to a branch, and {rev} is none")
    header: dict[str, Any] = {}
    files = dict(parent.files)
    for line in request.body.splitlines():
        operation = json.loads(line)
        if operation["key"] == "header":
            header = operation["value"]
            if header.get("parentCommit", parent.id) != parent.id:
                raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
        else:
            apply(hub.store, found, files, operation["key"], operation["value"])
    ref = rev
    if request.flag("create_pr"):
        ref = next_pull_request(found)
    author = request.viewer.user if request.viewer else ""
    made = found.commit(ref, parent, files, header["summary"], header.get("description", ""), author)
    url = f"{hub.endpoint}/{repo}"
    answer = {"success": True, "commitOid": made.id, "commitUrl": f"{url}/commit/{made.id}", "hookOutput": ""}
    if ref != rev:
        answer["pullRequestUrl"] = f"{url}/discussions/{ref.rpartition('/')[2]}"
    return Reply.json(answer)


@route("POST", "/api/models/{repo}/discussions")
def open_pull_request(hub: Hub, request: Request, repo: str) -> Reply:
    """Open a pull request to which files are committed later. Discussions without files are not held."""
    found, wanted = hub.store.writable(repo, request.viewer), request.json()
    if not wanted["pullRequest"]:
        raise RefusalError(400, "The loopback Hub holds pull requests alone")
    ref, parent = next_pull_request(found), hub.store.commit(found, "main")
    author = request.viewer.user if request.viewer else ""
    found.commit(ref, parent, dict(parent.files), wanted["title"], wanted["description"], author)
    return Reply.json({"num": int(ref.rpartition("/")[2])})


@route("GET", "/api/models/{repo}/discussions")
def pull_requests(hub: Hub, request: Request, repo: str) -> Reply:
    found = hub.store.readable(repo, request.viewer)
    refs = [ref for ref in found.refs if ref.startswith("refs/pr/")]
    return Reply.json(
        {"count": len(refs), "start": 0, "discussions": [discussion(found, ref) for ref in refs]}
    )


@route("GET", "/api/models/{repo}/discussions/{number}")
def pull_request(hub: Hub, request: Request, repo: str, number: str) -> Reply:
    found = hub.store.readable(repo, request.viewer)
    if f"refs/pr/{number}" not in found.refs:
        raise RefusalError(404, f"{repo} has no pull request {number}")
    changes = {"changes": {"base": "refs/heads/main"}, "filesWithConflicts": [], "events": []}
    return Reply.json(discussion(found, f"refs/pr/{number}") | changes)


def discussion(repo: Repo, ref: str) -> dict[str, Any]:
    """A pull request, as the Hub describes it."""
    commit = repo.commits[repo.refs[ref]]
    return {
        "num": int(ref.rpartition("/")[2]),
        "title": commit.title,
        "author": {"name": commit.author},
        "createdAt": commit.date,
        "status": "open",
        "repo": {"name": repo.id, "type": "model"},
        "isPullRequest": True,
    }


def next_pull_request(repo: Repo) -> str:
    return next(ref for number in count(1) if (ref := f"refs/pr/{number}") not in repo.refs)


@route("POST", "/api/models/{repo}/lfs-files/duplicate")
def duplicate(hub: Hub, request: Request, repo: str) -> Reply:
    """Give large files of one repository to another; a commit there may name them from then on."""
    source, wanted = hub.store.readable(repo, request.viewer), request.json()
    hub.store.pass_gate(source, request.viewer)
    target = hub.store.writable(wanted["target"]["name"], request.viewer)
    known = {file["sha256"] for file in wanted["files"]} & source.objects
    target.objects |= known
    failed = [{**file, "error": "no such file"} for file in wanted["files"] if file["sha256"] not in known]
    return Reply.json({"success": list(known), "failed": failed})


def apply(store: Store, repo: Repo, files: dict[str, Entry], key: str, value: dict[str, Any]) -> None:
    """Do one line of a commit to ``files``."""
    path = value["path"]
    if key in ("file", "lfsFile") and not {"", ".", "..", ".git"}.isdisjoint(path.split("/")):
        raise RefusalError(400, f"Invalid path {path!r}")
    if key == "file":
        content = base64.b64decode(value["content"])
        if path == "README.md" and (errors := check_card(content.decode(errors="replace"))[0]):
            raise RefusalError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
        files[path] = store.regular(content)
    elif key == "lfsFile":
        if value["oid"] not in repo.objects:
            raise RefusalError(400, f"LFS pointer pointed to a file that does not exist: {value['oid']}")
        files[path] = Entry.large(value["oid"], store.blobs.size(value["oid"]))
    elif key in ("deletedFile", "deletedFolder"):
        folder = path.rstrip("/") + "/"
        gone = [name for name in files if (name.startswith(folder) if "Folder" in key else name == path)]
        if not gone:
            raise RefusalError(404, f"A file with this name doesn't exist: {quote(path)}", "EntryNotFound")
        for name in gone:
            del files[name]
    else:
        raise RefusalError(400, f"Unknown operation {key!r}")


async def receive(request: Request, file: BinaryIO, start: int, size: int) -> None:
    """Write the request's body to ``file`` from byte ``start`` on; it has to be ``size`` bytes."""
    end = start
    async for chunk in request.chunks:
        if end + len(chunk) <= start + size:
            file.seek(end)  # parts of one file may arrive side by side
            file.write(chunk)
        end += len(chunk)
    if end != start + size:
        raise RefusalError(400, f"IncompleteBody: got {end - start} bytes, expected {size}")


async def keep(hub: Hub, file: BinaryIO, repo: str, oid: str) -> None:
    """Give an uploaded file to a repository if its sha256 is ``oid``."""
    if await asyncio.to_thread(hub.store.blobs.sha256, file) != oid:
        raise RefusalError(400, f"BadDigest: the sha256 of what was uploaded is not {oid}")
    with hub.store.lock:
        if repo not in hub.store.repos:
            raise RefusalError(404, "NoSuchBucket: the repository was deleted during the upload")
        hub.store.blobs.keep(file, oid)
        hub.store.repos[repo].objects.add(oid)
