"""Xet: tokens for it from the Hub; writing pieces (xorbs) and what files they make up (shards); reading files."""

from __future__ import annotations

import io
import secrets
import time
from typing import TYPE_CHECKING

from tests.hub.request import RefusalError, Reply, Request, route, span
from tests.hub.xet import XORB, Grant, chunks, files, packed, reconstruction

if TYPE_CHECKING:
    from tests.hub.hub import Hub

# Before the ids of buckets, in grants.
BUCKETS = "buckets/"


@route("GET", "/api/models/{repo}/xet-write-token/{rev}")
def xet_write_token(hub: Hub, request: Request, repo: str, rev: str) -> Reply:
    found = hub.store.writable(repo, request.viewer)
    if not request.flag("create_pr"):  # which names no revision
        hub.store.commit(found, rev)
    return access(hub, Grant(repo, writes=True), "")


@route("GET", "/api/models/{repo}/xet-read-token/{rev}")
def xet_read_token(hub: Hub, request: Request, repo: str, rev: str) -> Reply:
    found = hub.store.readable(repo, request.viewer)
    hub.store.pass_gate(found, request.viewer)
    hub.store.commit(found, rev)
    return access(hub, Grant(repo, writes=False), hub.xet.url)


@route("GET", "/api/buckets/{repo}/xet-write-token")
def xet_write_token_of_a_bucket(hub: Hub, request: Request, repo: str) -> Reply:
    hub.store.writable_bucket(repo, request.viewer)
    return access(hub, Grant(f"{BUCKETS}{repo}", writes=True), "")


@route("GET", "/api/buckets/{repo}/xet-read-token")
def xet_read_token_of_a_bucket(hub: Hub, request: Request, repo: str) -> Reply:
    hub.store.readable_bucket(repo, request.viewer)
    return access(hub, Grant(f"{BUCKETS}{repo}", writes=False), hub.xet.url)


def access(hub: Hub, grant: Grant, url: str) -> Reply:
    """A new token and the store that it is for, in the answer's body and headers."""
    token = f"xet_{secrets.token_hex(8)}"
    hub.xet.tokens[token] = grant
    url = url or f"{hub.endpoint}/xet/{hub.xet.name}"
    ends = int(time.time()) + hub.xet.ttl
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(ends)}
    return Reply.json({"casUrl": url, "accessToken": token, "exp": ends}, headers=headers)


@route("GET", "/xet/{name}/v1/reconstructions/{hash}", xet=True)
def get_reconstruction(hub: Hub, request: Request, name: str, hash: str) -> Reply:
    """How a file, or a range of it, is put together."""
    sha256 = hub.xet.names.get(hash, hash)
    if sha256 not in granted(hub, request, name, writes=False):
        raise RefusalError(404, f"There is no file {hash}")
    size = hub.store.blobs.size(sha256)
    start, end = span(request, size) or (0, size)

    def link(number: int) -> str:
        return hub.links.make("GET", hub.file_endpoint, f"/xorbs/{sha256}/{number}")

    return Reply.json(reconstruction(sha256, size, start, end, link))


@route("GET", "/xorbs/{oid}/{number}", cdn=True)
def get_xorb(hub: Hub, request: Request, oid: str, number: str) -> Reply:
    """A xorb of a file, or a range of it."""
    hub.links.check("GET", request)
    with hub.store.blobs.open(oid) as file:
        file.seek(int(number) * XORB)
        xorb = packed(file.read(XORB))
    start, end = span(request, len(xorb)) or (0, len(xorb))
    headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(xorb)}"}
    return Reply.text(206 if "range" in request.headers else 200, headers, xorb[start:end])


@route("POST", "/xet/{name}/v1/xorbs/default/{hash}", xet=True)
def put_xorb(hub: Hub, request: Request, name: str, hash: str) -> Reply:
    granted(hub, request, name, writes=True)
    is_new = hash not in hub.xet.xorbs
    hub.xet.xorbs[hash] = list(chunks(request.body))
    return Reply.json({"was_inserted": is_new})


@route("POST", "/xet/{name}/v1/shards", xet=True)
def put_shard(hub: Hub, request: Request, name: str) -> Reply:
    """Files become known, to the model or bucket that the token is for, when all of their pieces are there."""
    objects = granted(hub, request, name, writes=True)
    for file in files(request.body):
        missing = [term.xorb for term in file.terms if term.xorb not in hub.xet.xorbs]
        if missing:
            raise RefusalError(400, f"There is no xorb {missing[0]}")
        parts = (piece for term in file.terms for piece in hub.xet.xorbs[term.xorb][term.start : term.end])
        sha256 = hub.store.blobs.add(io.BytesIO(b"".join(parts)))
        if sha256 != (file.sha256 or sha256):  # for buckets, the client leaves it out
            raise RefusalError(400, f"The sha256 of {file.hash} is not {file.sha256}")
        hub.xet.names[file.hash] = sha256
        objects.add(sha256)
    return Reply.json({"result": 1})


def granted(hub: Hub, request: Request, name: str, *, writes: bool) -> set[str]:
    """The sha256 of the files that the request's token lets its bearer read, or add to, at this store."""
    grant = hub.xet.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
    if grant is None or name != hub.xet.name:
        raise RefusalError(401, "Unauthorized")
    if writes and not grant.writes:
        raise RefusalError(403, "This token may only read")
    is_bucket = grant.repo.startswith(BUCKETS)
    holder = (hub.store.buckets if is_bucket else hub.store.repos).get(grant.repo.removeprefix(BUCKETS))
    if holder is None:
        raise RefusalError(404, "What the token is for was deleted meanwhile")
    return holder.objects
