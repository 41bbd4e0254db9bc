"""A merge on a rented machine: how it is begun, followed, stopped, and found again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from huggingface_hub import HfApi

from checkpoints.names import model_name
from checkpoints.repositories.repository import HUB_SCHEME
from merging import MergeError, Plan, Problem, Progress, Result
from merging.rented_machines import Needs
from ui.hub.account import Account
from ui.rented.heal import follow as follow_heal
from ui.rented.job import JobWatch, packed, rent
from ui.rented.result import verified_result
from ui.server.heal_state import HealState
from ui.server.jobs import HealWork, JobStatus, MergeRequest, MergeWork, Rented
from ui.server.merge_service import MergeService

# A constant: what varies is in the environment, or in "$@".
SCRIPT = """echo "$RECIPE" | base64 -d | gunzip | alloy run - --to "$TO" --progress jsonl "$@"
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
        machine, seconds: see `rent_for`
        options: see `MergeService.request_elsewhere`

    Raises:
        MergeError: see `rent_for` and `MergeService.request_elsewhere`; or the visitor has too many already.
    """
    service.board.check_room_for_rented(visitor, to)
    asked = service.request_elsewhere(plan, to, who, **options)
    request = replace(asked, rented=rent_for(plan, asked, machine, seconds, who))
    models = tuple(model.name for model in plan.parents)
    return service.board.submit(visitor, model_name(to), models, follow(request, who), request)


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
    work: MergeWork | HealWork = follow(job.request, who)
    state = None
    if job.request.rented and job.request.rented.work == "heal":
        work, state = follow_heal(job.request, who), HealState()
    try:
        service.board.submit(visitor, job.title, job.models, work, job.request, state, job_id=job.id)
    except MergeError:
        return job
    return service.board.status(job.id) or job


def rent_for(plan: Plan, request: MergeRequest, machine: str, seconds: float, who: Account) -> Rented:
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
    return rent(
        SCRIPT,
        plan.fingerprint,
        who,
        machine,
        seconds,
        options=options(request),
        environment={"RECIPE": packed(plan.recipe), "TO": request.to},
        extras=["gguf"] if request.gguf else [],
        weights=0 if request.only_gguf else sum(shard.bytes for shard in plan.shards),
    )


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


def follow(request: MergeRequest, who: Account) -> MergeWork:
    """The work of watching a rented machine to its end, for the board of jobs."""
    rented = request.rented
    assert rented

    def work(report: Callable[[Progress | str], None], cancel: threading.Event) -> Result:
        return _MergeWatch(rented, request.to, HfApi(token=who.token), report).until_end(cancel)

    return work


class _MergeWatch(JobWatch[Result]):
    def __init__(self, rented: Rented, to: str, api: HfApi, report: Callable[[Progress | str], None]):
        super().__init__(rented, api, report)
        self._to = to
        self._result: Mapping[str, Any] | None = None

    def heard(self, data: Mapping[str, Any]) -> None:
        if data["phase"] == "done" and isinstance(data.get("result"), dict):
            self._result = data["result"]
        else:
            self.report(_progress(data))

    def outcome(self, seconds: float) -> Result:
        return verified_result(self.api, self._to, self._result or {}, self.rented.weights, seconds)


def _progress(data: Mapping[str, Any]) -> Progress:
    return Progress(
        str(data["phase"]),
        int(data["bytes_done"]),
        int(data["bytes_total"]),
        int(data["tensors_done"]),
        int(data["tensors_total"]),
        str(data["message"]),
    )
