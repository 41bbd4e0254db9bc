"""Plans, merges and jobs, as a visitor may ask for them. The page and the API both call this."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from checkpoints.memory import free_memory, machine_memory
from checkpoints.names import model_name
from checkpoints.object_store import store_environment
from evaluation import EvaluationError
from merging import MergeError, Plan, Problem, Progress, Result, model_card, run_plan
from merging.destinations import open_destination, scheme_of
from merging.engine.workspace import default_workers
from merging.gguf.destination import estimated_memory
from merging.gguf.layout import check_converter
from merging.gguf.quantization import check_quantizer
from merging.gguf.recipe import recipe_of
from merging.gguf.types import FILE_TYPES, FileType, file_types
from merging.licences import ModelCards, licence_of_result
from merging.planning.confined_plan import PlanRequest, confined_plan
from merging.result_card import loaded_as
from ui.host import Host
from ui.hub.account import Account
from ui.server.downloads import ResultDownloads
from ui.server.in_memory_merges import TriedMerges
from ui.server.internal_error import log_unexpected
from ui.server.jobs import JobBoard, JobStatus, MergeRequest, ModelSummary
from ui.server.model_process import MODELS
from ui.server.plan_line import PlanLine
from ui.server.searches import FoundRecipes
from ui.widgets.html import size

# Plans of one visitor that wait while another of theirs is made.
MAX_PLANS_WAITING = 7
# A destination that holds something already.
TAKEN = ("destination-exists", "destination-is-file", "folder-not-empty")


def exists(problems: Sequence[Problem]) -> bool:
    """Whether a model at the destination is one of the problems."""
    return any(problem.code == "destination-exists" for problem in problems)


class MergeService:
    """Merging on this server, within what its visitors are allowed.

    Args:
        host: what the machine allows
        board: where the jobs run
    """

    def __init__(self, host: Host, board: JobBoard):
        self.host = host
        self.board = board
        self.downloads = ResultDownloads(host.downloads)
        self.in_memory = TriedMerges()
        self.cards = ModelCards()
        self.found = FoundRecipes()
        self._line = PlanLine(MAX_PLANS_WAITING)

    def plan(
        self,
        recipe: str,
        to: str | None,
        who: Account,
        visitor: str,
        *,
        overwrite: bool = False,
        pull_request: bool = False,
    ) -> Plan:
        """The plan of a recipe. It never raises: even for a text that is no recipe, the plan holds the problems.

        Args:
            recipe: the text
            to: destination; None leaves it unchecked
            who: whose access to use
            visitor: whose turn it takes: each has one plan made at a time
        """
        allow_folders = self.host.allow_folders
        request = PlanRequest(
            recipe, to, who.for_hub, overwrite, pull_request, allow_folders, memory=free_memory(),
            environment=store_environment() if allow_folders else {},
        )  # fmt: skip
        try:
            with self._line.turn(visitor):
                return confined_plan(request)
        except MergeError as error:
            return Plan(recipe=recipe, method="", problems=error.problems)
        except Exception as error:
            defect = Problem("plan-defect", {"error": log_unexpected(error, who.token)})
            return Plan(recipe=recipe, method="", problems=(defect,))

    def is_taken(self, to: str, who: Account) -> bool:
        """Whether there is something at a destination."""
        destination = open_destination(to, token=who.for_hub, allow_folders=self.host.allow_folders)
        return exists(destination.check())

    def merge(
        self,
        plan: Plan,
        to: str,
        who: Account,
        visitor: str,
        *,
        private: bool,
        overwrite: bool,
        pull_request: bool = False,
        download: bool = False,
        gguf: Sequence[str] = (),
        only_gguf: bool = False,
    ) -> str:
        """Queue a merge.

        Args:
            plan: without problems, made for that destination
            to: destination; for a download the name alone
            visitor: whose turn in line it takes
            download: keep the result on this server for the visitor to download
            gguf: types of GGUF files that are made as well
            only_gguf: make nothing else

        Returns:
            The job's id.

        Raises:
            MergeError: the plan has problems, a type cannot be made, or the line or the disk is full.
        """
        if not plan.ok:
            raise MergeError(plan.problems)
        kinds = makeable(gguf) if gguf else ()
        title = model_name(to)
        most = machine_memory()
        needed = peak_memory(plan, kinds, to)
        if needed > most:
            values = {"size": size(needed), "most": size(most)}
            raise MergeError(Problem("machine-too-small", values))
        if download:
            to = str(self.downloads.place(to, estimated_bytes(plan, kinds, only_gguf)))
        elif self.host.allow_folders:
            title = title.rpartition("/")[2]

        licence = licence_of_result(self.cards.parents(plan, who.for_hub))
        found = self.found.card(visitor, plan.recipe)
        request = MergeRequest(
            plan.recipe, to, private, overwrite, plan.seconds, download, pull_request,
            summaries=_summaries(plan, title), card=model_card(plan, loaded_as(to), licence, found),
            gguf=tuple(kind.name for kind in kinds), only_gguf=only_gguf,
        )  # fmt: skip
        options = {"token": who.for_hub, "licence": licence, "found": found}

        def work(on_progress: Callable[[Progress], None], cancel: threading.Event) -> Result:
            return self._run(plan, request, on_progress=on_progress, cancel=cancel, **options)

        return self.board.submit(visitor, title, tuple(model.name for model in plan.parents), work, request)

    def request_elsewhere(
        self,
        plan: Plan,
        to: str,
        who: Account,
        *,
        private: bool,
        overwrite: bool,
        pull_request: bool = False,
        gguf: Sequence[str] = (),
    ) -> MergeRequest:
        """What a visitor asks another machine for. It looks up the licence there, for the card.

        Raises:
            MergeError: the plan has problems, or a type of GGUF file cannot be made.
        """
        if not plan.ok:
            raise MergeError(plan.problems)
        kinds = file_types(gguf) if gguf else ()
        title = model_name(to)
        licence = licence_of_result(self.cards.parents(plan, who.for_hub))
        return MergeRequest(
            plan.recipe, to, private, overwrite, plan.seconds, False, pull_request,
            summaries=_summaries(plan, title), card=model_card(plan, loaded_as(to), licence),
            gguf=tuple(kind.name for kind in kinds),
        )  # fmt: skip

    def gguf(
        self,
        model: str,
        to: str,
        types: Sequence[str],
        who: Account,
        visitor: str,
        *,
        download: bool = False,
        **options: Any,
    ) -> str:
        """Queue GGUF files of a model; the job's id.

        Args:
            model: a recipe's text, or as recipes name a model
            to, download, options: see `merge`

        Raises:
            MergeError: it cannot be read or converted; and see `merge`.
        """
        text = model if "\n" in model else recipe_of(model).text
        plan = self.plan(text, None, who, visitor)
        return self.merge(plan, to, who, visitor, download=download, gguf=types, only_gguf=True, **options)

    def _run(self, plan: Plan, request: MergeRequest, **options: Any) -> Result:
        """Merge, with memory and disk reserved, so that visitors who chat meanwhile do not take either."""
        kinds = [FILE_TYPES[name] for name in request.gguf]
        nbytes = estimated_bytes(plan, kinds, request.only_gguf)
        room = self.downloads.reserve(Path(request.to), nbytes) if request.download else nullcontext()
        with held_memory(peak_memory(plan, kinds, request.to)), room:
            return run_plan(
                plan,
                request.to,
                private=request.private,
                overwrite=request.overwrite,
                pull_request=request.pull_request,
                device="cpu",
                gguf=request.gguf or None,
                only_gguf=request.only_gguf,
                **options,
            )

    def again(self, job: JobStatus, who: Account, visitor: str) -> str:
        """Queue a job again; shards that are on the Hub already are not made again.

        Raises:
            MergeError: see `merge`.
        """
        request = job.request
        to = job.title if request.download else request.to
        ways = {"overwrite": request.overwrite, "pull_request": request.pull_request}
        plan = self.plan(request.recipe, None if request.download else to, who, visitor, **ways)
        return self.merge(
            plan, to, who, visitor, private=request.private, download=request.download,
            gguf=request.gguf, only_gguf=request.only_gguf, **ways,
        )  # fmt: skip

    def job(self, job_id: str) -> JobStatus:
        """The current state of a job.

        Raises:
            MergeError: there is none with this id.
        """
        snapshot = self.board.status(job_id)
        if snapshot is None:
            raise MergeError(Problem("no-job"))
        return snapshot


def makeable(types: Sequence[str]) -> tuple[FileType, ...]:
    """The types of GGUF files with these names.

    Raises:
        MergeError: one cannot be made, or not here.
    """
    kinds = file_types(types)
    check_converter()
    check_quantizer(kinds)
    return kinds


def estimated_bytes(plan: Plan, kinds: Sequence[FileType], only_gguf: bool) -> int:
    """Bytes of a result, with GGUF files of these types."""
    shapes = [tensor.shape for tensor in plan.tensors]
    own = 0 if only_gguf else plan.bytes_out + plan.bytes_beside
    return own + sum(kind.estimated_bytes(shapes) for kind in kinds)


def peak_memory(plan: Plan, kinds: Sequence[FileType], to: str) -> int:
    """Bytes of memory that a merge takes at most, with GGUF files of these types."""
    is_held = bool(scheme_of(to))
    return plan.peak_memory_bytes + estimated_memory(plan, kinds, default_workers(), is_held)


@contextmanager
def held_memory(nbytes: int) -> Iterator[None]:
    """Reserve memory for a merge while it runs.

    Raises:
        MergeError: it is not available.
    """
    with ExitStack() as held:
        try:
            held.enter_context(MODELS.hold_memory(nbytes))
        except EvaluationError as error:
            raise MergeError(Problem("no-memory", {"size": size(nbytes)})) from error
        yield


def _summaries(plan: Plan, title: str) -> tuple[ModelSummary, ...]:
    """The parents and the result of a plan, for comparison."""
    parents = tuple(
        ModelSummary(model.name, model.architecture, model.parameters, model.layers, model.bytes)
        for model in plan.parents
    )
    parameters = sum(tensor.elements for tensor in plan.tensors)
    layers = 1 + max((tensor.layer for tensor in plan.tensors if tensor.layer is not None), default=-1)
    architecture = plan.parents[0].architecture if plan.parents else ""
    return (*parents, ModelSummary(title, architecture, parameters, layers, plan.bytes_out))
