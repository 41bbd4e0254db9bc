"""Writing through Xet: a token for it from the Hub, then pieces (xorbs) and what files they make up (shards)."""

from __future__ import annotations

import io
import secrets
import time
from typing import TYPE_CHECKING

from tests.hub.request import RefusalError, Reply, Request, route
from tests.hub.xet import chunks, files

if TYPE_CHECKING:
    from tests.hub.hub import Hub


@route("GET", "/api/models/{repo}/xet-write-token/{rev}")
def xet_write_token(hub: Hub, request: Request, repo: str, rev: str) -> Reply:
    found = hub.store.writable(repo, request.viewer)
    hub.store.commit(found, rev)
    token = f"xet_{secrets.token_hex(8)}"
    hub.xet.tokens[token] = repo
    url = f"{hub.endpoint}/xet/{hub.xet.name}"
    return Reply.json({"casUrl": url, "accessToken": token, "exp": int(time.time()) + hub.xet.ttl})


@route("POST", "/xet/{name}/v1/xorbs/default/{hash}", xet=True)
def put_xorb(hub: Hub, request: Request, name: str, hash: str) -> Reply:
    repository(hub, request, name)
    is_new = hash not in hub.xet.xorbs
    hub.xet.xorbs[hash] = list(chunks(request.body))
    return Reply.json({"was_inserted": is_new})


@route("POST", "/xet/{name}/v1/shards", xet=True)
def put_shard(hub: Hub, request: Request, name: str) -> Reply:
    """Files become known, to the repository that the token is for, when all of their pieces are there."""
    repo = repository(hub, request, name)
    for file in files(request.body):
        missing = [term.xorb for term in file.terms if term.xorb not in hub.xet.xorbs]
        if missing:
            raise RefusalError(400, f"There is no xorb {missing[0]}")
        parts = (piece for term in file.terms for piece in hub.xet.xorbs[term.xorb][term.start : term.end])
        if hub.store.blobs.add(io.BytesIO(b"".join(parts))) != file.sha256:
            raise RefusalError(400, f"The sha256 of {file.hash} is not {file.sha256}")
        hub.store.repos[repo].objects.add(file.sha256)
    return Reply.json({"result": 1})


def repository(hub: Hub, request: Request, name: str) -> str:
    """The repository that the request's token lets its bearer write to, at this store."""
    repo = hub.xet.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
    if repo is None or name != hub.xet.name:
        raise RefusalError(401, "Unauthorized")
    if repo not in hub.store.repos:
        raise RefusalError(404, "The repository was deleted during the upload")
    return repo
