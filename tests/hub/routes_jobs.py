"""Jobs on rented hardware: run, inspect, list, read the log, cancel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.hub.rented import HARDWARE, RentedJob
from tests.hub.request import RefusalError, Reply, Request, route

if TYPE_CHECKING:
    from tests.hub.hub import Hub


def allowed(hub: Hub, request: Request, namespace: str) -> str:
    """The user, who may run jobs in a namespace."""
    if request.headers.get("authorization", "").removeprefix("Bearer ") in hub.rented.without_scope:
        raise RefusalError(403, "This token has no access to jobs: it needs the scope jobs")
    return hub.store.require_write(request.viewer, namespace, f"You may not run jobs in {namespace}")


def found(hub: Hub, request: Request, namespace: str, job: str) -> RentedJob:
    allowed(hub, request, namespace)
    it = hub.rented.jobs.get(job)
    if it is None or it.owner != namespace:
        raise RefusalError(404, f"There is no job {job}")
    return it


@route("GET", "/api/jobs/hardware")
def hardware(hub: Hub, request: Request) -> Reply:
    return Reply.json(HARDWARE)


@route("POST", "/api/jobs/{namespace}")
def run(hub: Hub, request: Request, namespace: str) -> Reply:
    allowed(hub, request, namespace)
    spec = request.json()
    if spec["flavor"] not in [each["name"] for each in HARDWARE]:
        raise RefusalError(400, f"There is no hardware {spec['flavor']!r}")
    return Reply.json(hub.rented.run(namespace, spec, hub.endpoint).info())


@route("GET", "/api/jobs/{namespace}")
def listed(hub: Hub, request: Request, namespace: str) -> Reply:
    allowed(hub, request, namespace)
    wanted = {tuple(pair.split("=", 1)) for pair in request.query.get("label", [])}
    jobs = [job for job in hub.rented.jobs.values() if job.owner == namespace]
    return Reply.json([job.info() for job in jobs if wanted <= {*job.spec.get("labels", {}).items()}])


@route("GET", "/api/jobs/{namespace}/{job}")
def inspect(hub: Hub, request: Request, namespace: str, job: str) -> Reply:
    return Reply.json(found(hub, request, namespace, job).info())


@route("GET", "/api/jobs/{namespace}/{job}/logs")
def logs(hub: Hub, request: Request, namespace: str, job: str) -> Reply:
    """What there is so far, as events; the real Hub keeps the stream open."""
    lines = [*found(hub, request, namespace, job).lines]
    tail = int(request.one("tail", "0"))
    events = [json.dumps({"timestamp": when, "data": text}) for when, text in lines[-tail:]]
    body = "".join(f"data: {event}\n\n" for event in events).encode()
    return Reply.text(200, {"content-type": "text/event-stream"}, body)


@route("POST", "/api/jobs/{namespace}/{job}/cancel")
def cancel(hub: Hub, request: Request, namespace: str, job: str) -> Reply:
    it = found(hub, request, namespace, job)
    hub.rented.cancel(it)
    return Reply.json(it.info())
