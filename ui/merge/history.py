"""What the browser keeps of its visitor's merges, so that a restart of the server loses none. Never a token.

It comes back from the browser, where the visitor may have written anything, so it is validated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from huggingface_hub import constants

from merging import MergeError, Problem, Result
from merging.destinations import ResultPlace
from merging.engine.run import gguf_place
from merging.gguf.types import FILE_TYPES
from ui.host import Host
from ui.merge.commands import destination_elsewhere
from ui.merge.destination import destination_of
from ui.server.jobs import JobStatus, MergeRequest, Rented


def record(job: JobStatus) -> dict[str, Any]:
    """A job as the browser keeps it, complete enough to ask for it again."""
    request = job.request
    return {
        "id": job.id,
        "title": job.title,
        "models": list(job.models),
        "asked_at": job.asked_at,
        "recipe": request.recipe,
        "to": "" if request.download else destination_elsewhere(request),
        "private": request.private,
        "overwrite": request.overwrite,
        "pull_request": request.pull_request,
        "gguf": list(request.gguf),
        "only_gguf": request.only_gguf,
        "rented": asdict(request.rented) if request.rented else None,
        "training": request.training,
    }


def record_of_result(result: Result) -> dict[str, Any]:
    """A result as the browser keeps it."""
    return {
        "location": result.location,
        "url": result.url or "",
        "commit": result.commit or "",
        "bytes": result.bytes_out,
        "seconds": result.seconds,
        "verified": result.verified,
        "gguf": asdict(result.gguf) if result.gguf else None,
    }


def id_of(kept: object) -> str:
    """The job's id."""
    return str(kept.get("id", "")) if isinstance(kept, Mapping) else ""


def restored(host: Host, kept: object, result: object) -> JobStatus | None:
    """A job that the server no longer knows, from what the browser kept: done, or to be resumed.

    Args:
        host: whose destinations are allowed
        kept: from `record`
        result: from `record_of_result`, if the browser saw it end

    Returns:
        None if it cannot be asked for again: the record is not valid, or it was a download.
    """
    if not isinstance(kept, Mapping) or not isinstance(kept.get("recipe"), str):
        return None
    rented = _rented(kept.get("rented"))
    is_search = rented is not None and rented.work == "search"  # what it comes to is a report
    if not (kept.get("to") or is_search):
        return None
    try:
        to = "" if is_search else destination_of(host, str(kept["to"]))
    except MergeError:
        return None
    request = MergeRequest(
        kept["recipe"],
        to,
        private=kept.get("private") is not False,
        overwrite=kept.get("overwrite") is True,
        pull_request=kept.get("pull_request") is True,
        gguf=tuple(name for name in FILE_TYPES if name in _list(kept.get("gguf"))),
        only_gguf=kept.get("only_gguf") is True,
        rented=rented,
        training=str(kept.get("training") or ""),
    )
    title, models = str(kept.get("title", ""))[:200], kept.get("models")
    names = tuple(str(name) for name in models) if isinstance(models, list) else ()
    what: dict[str, Any] = {"id": id_of(kept), "title": title, "models": names, "request": request}
    what["asked_at"] = _seconds(kept.get("asked_at"))
    done = _result(host, to, result)
    if done:
        return JobStatus(state="done", result=done, elapsed=done.seconds, **what)
    return JobStatus(state="failed", problems=(Problem("restarted"),), **what)


def is_lost(job: JobStatus) -> bool:
    """Whether a job ran on a rented machine when the server that followed it was restarted."""
    return bool(job.request.rented) and [problem.code for problem in job.problems] == ["restarted"]


def _rented(kept: object) -> Rented | None:
    """The rented machine of some work. Whoever makes one up sees what their own sign-in may see."""
    if not isinstance(kept, Mapping):
        return None
    namespace, job, flavor = (str(kept.get(name, "")) for name in ("namespace", "id", "flavor"))
    if not all(re.fullmatch(r"[A-Za-z0-9_.-]{1,96}", text) for text in (namespace, job, flavor)):
        return None
    weights = kept.get("weights")
    url = f"{constants.ENDPOINT}/jobs/{namespace}/{job}"
    work = str(kept["work"]) if kept.get("work") in ("heal", "search") else "merge"
    return Rented(namespace, job, flavor, url, weights if isinstance(weights, int) else 0, work)


def _seconds(value: object) -> float:
    """Seconds since 1970, up to the year 2100; 0 for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < 4.1e9 else 0.0  # type: ignore[arg-type,operator]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _result(host: Host, to: str, kept: object) -> Result | None:
    if not isinstance(kept, Mapping):
        return None
    location = str(kept.get("location", ""))
    if location.partition("@")[0] != to:
        return None
    try:
        size, seconds = int(kept["bytes"]), float(kept["seconds"])
    except (KeyError, TypeError, ValueError):
        return None
    url, commit = str(kept.get("url", "")), str(kept.get("commit", ""))
    return Result(
        location,
        url or None,
        commit or None,
        size,
        seconds,
        kept.get("verified") is True,
        gguf=_gguf_place(to, kept.get("gguf")),
    )


def _gguf_place(to: str, kept: object) -> ResultPlace | None:
    """Where the GGUF files of a result are."""
    if not isinstance(kept, Mapping) or str(kept.get("location")).partition("@")[0] != gguf_place(to):
        return None
    url, commit = str(kept.get("url") or ""), str(kept.get("commit") or "")
    return ResultPlace(str(kept["location"]), url or None, commit or None, kept.get("verified") is True)
