"""A merge on a rented machine: how it is begun, followed, stopped, and found again.

The token is among the job's secrets, and nowhere else. Nothing that a visitor wrote becomes part of a shell command:
the recipe comes as base64 and the destination by name, both in the environment, and options as arguments.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from checkpoints.names import bucket_place
from checkpoints.problem_texts import PROBLEMS
from checkpoints.repositories.bucket import bucket_entries
from checkpoints.repositories.repository import HUB_SCHEME
from merging import Cancelled, MergeError, Plan, Problem, Progress, Result
from merging.destinations import Place
from ui.hub.account import Account, identify
from ui.rented.code import Code, upload
from ui.rented.machines import Needs, timeout
from ui.server.jobs import JobStatus, MergeRequest, MergeWork, Rented
from ui.server.merge_service import MergeService

IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
# A second attempt continues from the journal.
ATTEMPTS = 2
# Seconds between two looks at a job, and lines of its log that are looked at.
POLL, LINES = 3.0, 200
# Looks that may fail one after the other before a job is given up here; it goes on.
PATIENCE = 20
# A constant: what varies is in the environment, or in "$@".
SCRIPT = """set -e
if [ -n "$CODE_FILE" ]; then
  uv pip install -q --system 'huggingface_hub>=2.4,<3'
  hf download "$CODE_REPOSITORY" "$CODE_FILE" --revision "$CODE_COMMIT" --local-dir "$CODE_FOLDER" > /dev/null
  uv pip install -q --system --torch-backend cpu "alloy-merge$EXTRAS @ file://$CODE_FOLDER/$CODE_FILE"
else
  uv pip install -q --system --torch-backend cpu "alloy-merge$EXTRAS==$CODE_VERSION"
fi
echo "$RECIPE" | base64 -d | alloy run - --to "$TO" --progress jsonl "$@"
"""


def begin(
    service: MergeService,
    plan: Plan,
    to: str,
    who: Account,
    visitor: str,
    machine: str,
    seconds: float,
    **options: Any,
) -> str:
    """Begin a merge on a rented machine, and follow it as a job of this server; the job's id.

    Args:
        visitor: who it counts for
        machine, seconds: see `rent`
        options: see `MergeService.request_elsewhere`

    Raises:
        MergeError: see `rent` and `MergeService.request_elsewhere`; or the visitor has too many already.
    """
    service.board.check_room_for_rented(visitor)
    asked = service.request_elsewhere(plan, to, who, **options)
    request = replace(asked, rented=rent(plan, asked, machine, seconds, who))
    models = tuple(model.name for model in plan.parents)
    return service.board.submit(visitor, to.removeprefix(HUB_SCHEME), models, follow(request, who), request)


def begin_again(service: MergeService, job: JobStatus, who: Account, visitor: str) -> str:
    """Repeat a merge on another machine of the same kind; it continues from the files that are on the Hub.

    Raises:
        MergeError: see `begin`.
    """
    request = job.request
    assert request.rented
    ways = {"overwrite": request.overwrite, "pull_request": request.pull_request}
    plan = service.plan(request.recipe, request.to, who, visitor, **ways)
    if not plan.ok:
        raise MergeError(plan.problems)
    seconds = Needs.of(plan).seconds(1)
    options = {"private": request.private, "gguf": request.gguf, **ways}
    return begin(service, plan, request.to, who, visitor, request.rented.flavor, seconds, **options)


def found_again(service: MergeService, job: JobStatus, who: Account, visitor: str) -> JobStatus:
    """Follow a merge that an earlier server began; as it was if that is not possible.

    Args:
        job: from what the browser kept, with its rented machine
    """
    if who.token is None:
        return job
    try:
        service.board.submit(
            visitor, job.title, job.models, follow(job.request, who), job.request, job_id=job.id
        )
    except MergeError:
        return job
    return service.board.status(job.id) or job


def rent(plan: Plan, request: MergeRequest, machine: str, seconds: float, who: Account) -> Rented:
    """Begin a merge on a rented machine, which its user pays for.

    Args:
        plan: without problems, made for the destination
        machine: the Hub's name of the kind
        seconds: that the merge is estimated to take there

    Raises:
        MergeError: nobody is signed in, the destination is not on the Hub, or the Hub refuses.
    """
    if not request.to.startswith(HUB_SCHEME):
        raise MergeError(Problem("rented-elsewhere"))
    with _failures():
        owner = identify(who).name
        if not owner:
            raise MergeError(Problem("rented-refused", {"status": 401}))
        api = HfApi(token=who.token)
        code = upload(api, owner)
        job = api.run_job(
            image=IMAGE,
            command=["bash", "-c", SCRIPT, "alloy", *options(request)],
            env=_environment(plan, request, code),
            secrets={"HF_TOKEN": who.token},
            flavor=machine,
            timeout=timeout(seconds),
            attempts=ATTEMPTS,
            name=f"alloy-{plan.fingerprint}",
            labels={"alloy": plan.fingerprint},
            namespace=owner,
        )
    weights = 0 if request.only_gguf else sum(shard.bytes for shard in plan.shards)
    return Rented(owner, job.id, machine, job.url, weights)


def options(request: MergeRequest) -> list[str]:
    """The command line's options, none of which holds what a visitor wrote."""
    chosen = {
        "--overwrite": request.overwrite,
        "--pull-request": request.pull_request,
        "--public": not request.private,
        f"--gguf={','.join(request.gguf)}": bool(request.gguf),
        "--only-gguf": request.only_gguf,
    }
    return [option for option, is_chosen in chosen.items() if is_chosen]


def _environment(plan: Plan, request: MergeRequest, code: Code | None) -> dict[str, str]:
    extras = [name for name, is_needed in (("gguf", bool(request.gguf)),) if is_needed]
    return {
        "RECIPE": base64.b64encode(plan.recipe.encode()).decode(),
        "TO": request.to,
        "EXTRAS": f"[{','.join(extras)}]" if extras else "",
        "CODE_REPOSITORY": code.repository if code else "",
        "CODE_FILE": code.file if code else "",
        "CODE_COMMIT": code.commit if code else "",
        "CODE_FOLDER": "/tmp/alloy-code",
        "CODE_VERSION": "" if code else version("alloy-merge"),
    }


def follow(request: MergeRequest, who: Account) -> MergeWork:
    """The work of watching a rented machine to its end, for the board of jobs."""
    rented = request.rented
    assert rented

    def work(report: Callable[[Progress | str], None], cancel: threading.Event) -> Result:
        return _Watch(rented, request.to, HfApi(token=who.token), report).until_end(cancel)

    return work


class _Watch:
    """Looks at a job again and again."""

    def __init__(self, rented: Rented, to: str, api: HfApi, report: Callable[[Progress | str], None]):
        self._rented = rented
        self._to = to
        self._api = api
        self._report = report
        self._where: dict[str, Any] = {"job_id": rented.id, "namespace": rented.namespace}
        self._seen: list[str] = []
        self._result: Mapping[str, Any] | None = None
        self._problems: tuple[Problem, ...] = ()

    def until_end(self, cancel: threading.Event) -> Result:
        """Report until the job ends.

        Raises:
            Cancelled: it was stopped, here or elsewhere
            MergeError: it failed, as it says, or the Hub no longer answers
        """
        failures, began = 0, time.monotonic()
        while True:
            if cancel.is_set():
                with _failures():
                    self._api.cancel_job(**self._where)
                raise Cancelled
            try:
                with _failures():
                    stage, message = self._look()
                failures = 0
            except MergeError:
                failures += 1
                if failures > PATIENCE:
                    raise
                stage = message = ""
            if stage == "COMPLETED":
                return self._verified(time.monotonic() - began)
            if stage in ("CANCELED", "DELETED"):
                raise Cancelled
            if stage == "ERROR":
                raise MergeError(self._problems or [self._failed(message)])
            cancel.wait(POLL)

    def _look(self) -> tuple[str, str]:
        """The stage and what is said of it; reports what is new in the log."""
        # The stage first: whatever a job wrote before its end is then in the log.
        status = self._api.inspect_job(**self._where).status
        lines = list(self._api.fetch_job_logs(**self._where, follow=False, tail=LINES))
        for line in _new(self._seen, lines):
            self._read(line)
        self._seen = lines
        return str(getattr(status.stage, "value", status.stage)), status.message or ""

    def _read(self, line: str) -> None:
        try:
            data = json.loads(line)
        except ValueError:
            data = None
        if not isinstance(data, dict) or "phase" not in data:
            self._report(line)
        elif data["phase"] == "done" and isinstance(data.get("result"), dict):
            self._result = data["result"]
        elif data["phase"] == "failed":
            self._problems = tuple(_problems(data.get("problems")))
        else:
            with suppress(KeyError, TypeError, ValueError):
                self._report(_progress(data))

    def _failed(self, message: str) -> Problem:
        return Problem("rented-failed", {"reason": message, "url": self._rented.url})

    def _verified(self, seconds: float) -> Result:
        """The result as the job reports it, if the Hub holds it."""
        found = self._result or {}
        location = str(found.get("location", self._to))
        if location.partition("@")[0] != self._to:
            location = self._to
        name, _, revision = location.removeprefix(HUB_SCHEME).partition("@")
        commit = str(found.get("commit") or "") or None
        with _failures():
            commit, sizes = self._there(name, commit or revision or None)
        size = sum(nbytes for file, nbytes in sizes.items() if file.endswith(".safetensors"))
        gguf = found.get("gguf")
        return Result(
            location,
            str(found.get("url") or f"{constants.ENDPOINT}/{name}"),
            commit,
            int(found.get("bytes_out") or size),
            float(found.get("seconds") or seconds),
            verified=size == self._rented.weights > 0,
            read_by=tuple(map(str, found.get("read_by", ()))),
            written_by=tuple(map(str, found.get("written_by", ()))),
            gguf=_place(gguf) if isinstance(gguf, dict) else None,
        )

    def _there(self, name: str, revision: str | None) -> tuple[str | None, dict[str, int]]:
        """The commit and the files of the result, with their sizes; a bucket has no commits."""
        if place := bucket_place(self._to):
            entries = bucket_entries(*place, self._api.token)
            return None, {path: entry.size for path, entry in entries.items()}
        info = self._api.model_info(name, revision=revision, files_metadata=True)
        return info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _new(before: list[str], now: list[str]) -> list[str]:
    """The lines that were added to the end of a log, of which only the last ones are seen."""
    for overlap in range(min(len(before), len(now)), 0, -1):
        if before[-overlap:] == now[:overlap]:
            return now[overlap:]
    return now


def _progress(data: Mapping[str, Any]) -> Progress:
    return Progress(
        str(data["phase"]),
        int(data["bytes_done"]),
        int(data["bytes_total"]),
        int(data["tensors_done"]),
        int(data["tensors_total"]),
        str(data["message"]),
    )


def _place(data: Mapping[str, Any]) -> Place | None:
    """Where GGUF files are, as far as it is a place on the Hub."""
    location, url, commit = (str(data.get(name) or "") for name in ("location", "url", "commit"))
    if not location.startswith(HUB_SCHEME):
        return None
    return Place(location, url or None, commit or None, data.get("verified") is True)


def _problems(data: object) -> Iterator[Problem]:
    """The problems in a line of a log, as far as their words are known here."""
    for each in data if isinstance(data, list) else []:
        with suppress(KeyError, TypeError, ValueError, IndexError):
            problem = Problem(each["code"], each["values"], str(each["where"]))
            if problem.code in PROBLEMS and str(problem):
                yield problem


@contextmanager
def _failures() -> Iterator[None]:
    """What the Hub says of jobs, as a sentence."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        codes = {401: "rented-refused", 402: "rented-unpaid", 403: "rented-refused"}
        raise MergeError(Problem(codes.get(status, "rented-hub"), {"status": status})) from error
    except (httpx2.HTTPError, OSError) as error:
        raise MergeError(Problem("hub-silent", {"error": type(error).__name__})) from error
