"""Searches for the numbers of a recipe, as a visitor may ask for them. They are jobs, in one line with the merges."""

from __future__ import annotations

import json
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from checkpoints import Token
from checkpoints.problems import ProblemError
from checkpoints.typed_text import MAX_CHARACTERS
from checkpoints.yaml import YamlError, load
from evaluation import fetch_model, hold_memory
from merging import Cancelled, MergeError, Problem
from merging.gguf.recipe import recipe_of
from ui.hub.account import Account
from ui.server import gpu
from ui.server.jobs import MergeRequest
from ui.server.model_process import MODELS
from ui.server.search_state import SearchState
from ui.server.work import Work, followed, watched

if TYPE_CHECKING:
    from merging import Plan
    from searching import SearchPlan, SearchProgress, SearchReport, Space
    from ui.server.merge_service import MergeService

# Characters of a space, and minutes and trials, for a server that strangers share.
MAX_SPACE = 20_000
MAX_MINUTES, MAX_TRIALS = 15.0, 200
# Recipes of finished searches whose reports are kept for the model cards of their merges.
MAX_FOUND = 200


class FoundRecipes:
    """How recipes were found, for the model cards of their merges."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cards: OrderedDict[tuple[str, str], str] = OrderedDict()

    def add(self, visitor: str, recipe: str, card: str) -> None:
        with self._lock:
            self._cards[visitor, _plain(recipe)] = card
            while len(self._cards) > MAX_FOUND:
                self._cards.popitem(last=False)

    def card(self, visitor: str, recipe: str) -> str:
        """How a visitor's recipe was found, in Markdown; empty if no search of theirs found it."""
        with self._lock:
            return self._cards.get((visitor, _plain(recipe)), "")


def _plain(recipe: str) -> str:
    """Equal for recipes that differ in layout and comments only."""
    try:
        return json.dumps(load(recipe), sort_keys=True, default=str)
    except YamlError:
        return recipe


@dataclass(frozen=True)
class SearchOrder:
    """A search to run.

    Args:
        space: the text, see docs/search.md
        texts: documents by the name that the space calls them
        minutes, trials: the most that are allowed
        token: whose access to the Hub to use
        allow_folders: whether models and texts may be files of this machine
        device: that scores, "cpu" or "auto"
        on_gpu: whether ZeroGPU is asked first, for calls of a few seconds each
        weights: bytes of the models
    """

    space: str
    texts: Mapping[str, Sequence[str]]
    minutes: float | None
    trials: int
    token: Token = field(repr=False)
    allow_folders: bool
    device: str
    on_gpu: bool = False
    weights: int = 0


class SearchService:
    """Searching on this server, within what its visitors are allowed.

    Args:
        service: plans the merge, and runs the jobs
    """

    def __init__(self, service: MergeService):
        self.service = service
        self.host = service.host

    def start(self, text: str, texts: Mapping[str, Sequence[str]], who: Account, visitor: str) -> str:
        """Queue a search.

        Args:
            text: the space: a recipe with ranges and a `search:` block
            texts: documents by the name that the space calls them
            who: whose access to use
            visitor: whose turn in line it takes

        Returns:
            The job's id.

        Raises:
            MergeError: it cannot be searched, or the line is full.
        """
        space, plan = self._read(text, texts, who, visitor)
        start = space.recipe(space.start)
        if self.host.on_space:
            self.service.in_memory.check(plan)
        limited = self.host.on_space
        minutes = space.settings.minutes
        if limited:
            minutes = min(minutes or MAX_MINUTES, MAX_MINUTES)
        trials = min(space.settings.trials, MAX_TRIALS) if limited else space.settings.trials
        device = "cpu" if limited else "auto"
        order = SearchOrder(
            space.text, texts, minutes, trials, who.for_hub, self.host.allow_folders, device,
            gpu.is_zero_gpu() and self._is_for_calls(space, who, visitor),
            sum(model.bytes for model in plan.parents),
        )  # fmt: skip

        def work(report: Callable[[SearchState], None], cancel: threading.Event) -> SearchState:
            found = _run_in_calls(order, report, cancel) if order.on_gpu else _run(order, report, cancel)
            if found.report and found.recipe:
                self.service.found.add(visitor, found.recipe, found.report.card())
            return found

        names = tuple(model.name for model in plan.parents)
        request = MergeRequest(start.text, seconds=60 * (minutes or 0))
        title = " + ".join(name.rpartition("/")[2] for name in names)
        return self.service.board.submit(visitor, title, names, work, request, SearchState())

    def plan(
        self, text: str, texts: Mapping[str, Sequence[str]], who: Account, visitor: str
    ) -> tuple[Plan, SearchPlan]:
        """The plan of the merge that a search begins with, and that of the search, for another machine.

        Args: see `start`

        Raises:
            MergeError: it cannot be searched.
        """
        from searching import plan_search

        space, merge = self._read(text, texts, who, visitor)
        found = plan_search(
            space, folder=Path.cwd(), texts=texts, token=who.for_hub, allow_folders=self.host.allow_folders,
            device="cpu",
        )  # fmt: skip
        if not found.ok:
            raise MergeError(found.problems)
        return merge, found

    def _read(
        self, text: str, texts: Mapping[str, Sequence[str]], who: Account, visitor: str
    ) -> tuple[Space, Plan]:
        """A space, and the plan of the merge that it begins with."""
        from searching import read_space  # imports torch

        _check_length(text, texts)

        def layers(model: str) -> int:
            """How many layers a model has, for files for mergekit-evolve; a stranger's model is not opened here."""
            plan = self.service.plan(recipe_of(model).text, None, who, visitor)
            if not plan.ok:
                raise MergeError(plan.problems)
            return plan.parents[0].layers

        space = read_space(text, layers)
        plan = self.service.plan(space.recipe(space.start).text, None, who, visitor)
        if not plan.ok:
            raise MergeError(plan.problems)
        return space, plan

    def _is_for_calls(self, space: Space, who: Account, visitor: str) -> bool:
        """Whether a search can be run in calls of ZeroGPU: its process downloads nothing, and sees no token."""
        if any(goal.kind != "text" for goal in space.settings.goals):
            return False
        start = space.recipe(space.start).text
        return not who.token or self.service.plan(start, None, Account("nobody"), visitor).ok


def _check_length(text: str, texts: Mapping[str, Sequence[str]]) -> None:
    if len(text) > MAX_SPACE:
        raise MergeError(Problem("space-too-long", {"length": len(text), "most": MAX_SPACE}))
    length = sum(len(document) for documents in texts.values() for document in documents)
    if length > MAX_CHARACTERS:
        raise MergeError(Problem("text-too-long", {"length": length, "most": MAX_CHARACTERS}))


def _run(order: SearchOrder, report: Callable[[SearchState], None], cancel: threading.Event) -> SearchState:
    """Run a search in the process that holds loaded models, and stop it when the job is cancelled.

    Raises:
        ProblemError: it cannot be run.
        Cancelled: it was stopped; what it had found was reported.
    """
    return followed(MODELS.stream(searched, order), SearchState(), report, cancel)


def _run_in_calls(
    order: SearchOrder, report: Callable[[SearchState], None], cancel: threading.Event
) -> SearchState:
    """Run a search in calls of ZeroGPU, each of which continues the one before; on this processor once it refuses.

    Raises:
        ProblemError: it cannot be run.
        Cancelled: it was stopped; what it had found was reported.
    """
    for name in _models(order):
        fetch_model(name, token=order.token, allow_folders=False)
    anonymous = replace(order, token=False)
    seconds = gpu.seconds_of_a_call([order.weights])
    state = SearchState()

    def keep(found: SearchState) -> None:
        nonlocal state
        state = found
        report(found)

    with tempfile.TemporaryDirectory(prefix="alloy-search-") as folder:
        while state.report is None:
            if cancel.is_set():
                raise Cancelled
            try:
                on_gpu = gpu.on_gpu(seconds, search_call, anonymous, folder, state, seconds)
                followed(_states(on_gpu, lambda piece: piece[1]), state, keep, cancel)
            except gr.Error:  # the GPU was withdrawn; what was scored is in the folder
                here = MODELS.stream(search_call, anonymous, folder, state, None, "cpu")
                followed(_states(here, lambda piece: piece), state, keep, cancel)
    return state


def _states(
    pieces: Generator[Any, None, None], found_in: Callable[[Any], SearchState | FailedCall | None]
) -> Generator[SearchState | None, None, None]:
    """What the pieces of a call hold; closes the call when it is closed.

    Raises:
        MergeError: the call failed.
    """
    with closing(pieces):
        for piece in pieces:
            found = found_in(piece)
            if isinstance(found, FailedCall):
                raise MergeError(found.problems)
            yield found


def _models(order: SearchOrder) -> list[str]:
    """Names of the models, with their adapters."""
    from searching import read_space

    return list(read_space(order.space).parents())


@dataclass(frozen=True)
class FailedCall:
    """Why a call failed, as data: ZeroGPU passes on the class of an error alone."""

    problems: tuple[Problem, ...]


def search_call(
    order: SearchOrder, folder: str, state: SearchState, seconds: int | None, device: str
) -> Generator[SearchState | FailedCall | None, None, None]:
    """One call of a search, which ends after its seconds on a GPU; on a processor it has no limit.

    Args:
        order: without a token
        folder: of the search
        state: after the call before
        seconds: that were requested
        device: "auto", or "cpu" where no GPU was to be had
    """
    call = gpu.GpuCall(None if device == "cpu" else seconds)

    def work(report: Callable[[SearchState], None], cancel: threading.Event) -> SearchState:
        return _Search(replace(order, device=device), Path(folder), report, state, call).run(cancel)

    try:
        yield from _until_ended(work)
    except ProblemError as error:
        yield FailedCall(error.problems)


def searched(order: SearchOrder) -> Generator[SearchState | None, None, None]:
    """Search; yields what was found whenever there is more of it, None now and then, and the end at last."""

    def work(report: Callable[[SearchState], None], cancel: threading.Event) -> SearchState:
        with tempfile.TemporaryDirectory(prefix="alloy-search-") as folder:
            return _Search(order, Path(folder), report).run(cancel)

    return _until_ended(work)


def _until_ended(work: Work) -> Generator[Any, None, None]:
    """`watched`; when it is closed, the search is stopped, and its models are freed before this returns."""
    ended = threading.Event()

    def run(report: Callable[[SearchState], None], cancel: threading.Event) -> SearchState:
        try:
            found: SearchState = work(report, cancel)
            return found
        finally:
            ended.set()

    try:
        yield from watched(run)
    finally:
        ended.wait()


class _Search:
    """One search, or a part of it.

    Args:
        order: what to search
        folder: for its records; one with records of the same search continues it
        report: called with its state whenever something was scored
        state: at the beginning; None for a new search
        call: ends it when its time is over, after something was scored
    """

    def __init__(
        self,
        order: SearchOrder,
        folder: Path,
        report: Callable[[SearchState], None],
        state: SearchState | None = None,
        call: gpu.GpuCall | None = None,
    ):
        self.order = order
        self.folder = folder
        self.report = report
        self.state = state or SearchState()
        self.call = call or gpu.GpuCall(None)
        self.over = False

    def run(self, cancel: threading.Event) -> SearchState:
        """Search; returns the state at the end, which has no report where the time of the call was over."""
        from searching import plan_search, read_space, run_search

        order, self.cancel = self.order, cancel
        space = read_space(order.space)
        settings = replace(space.settings, minutes=order.minutes, trials=order.trials)
        self.space: Space = replace(space, settings=settings)
        plan = plan_search(
            self.space, folder=Path.cwd(), texts=order.texts, token=order.token,
            allow_folders=order.allow_folders, device=order.device,
        )  # fmt: skip
        self.state = replace(self.state, trials=settings.trials, layers=_layers(plan))
        self.report(self.state)
        try:
            with hold_memory(plan.memory_bytes):
                found = run_search(plan, self.folder, on_trial=self._heard, cancel=cancel)
        except Cancelled:
            if not self.over:
                raise
            return self.state
        state = found_at(self.space, found.report.point, self.state) if found.best else self.state
        return replace(
            state,
            phase="report",
            seconds_left=0.0,
            recipe=advised(self.space, found.report, state),
            report=found.report,
        )

    def _heard(self, progress: SearchProgress) -> None:
        scored, state = progress.scored, self.state
        if scored.part == "search" and scored.who.startswith("trial "):
            if progress.value is not None and progress.value == progress.best:
                state = self._best(scored.who)
            state = replace(state, values=(*state.values, progress.value))
        elif scored.part == "search" and progress.value is not None:
            state = replace(state, baselines={**state.baselines, scored.who: progress.value})
        self.state = replace(
            state,
            phase=progress.phase,
            seconds_left=progress.seconds_left,
            least=progress.measured.least if progress.measured else state.least,
        )
        self.report(self.state)
        if self.call.seconds_left() <= 0:
            self.over = True
            self.cancel.set()

    def _best(self, who: str) -> SearchState:
        """The state with a trial's recipe as the best."""
        from searching.records import Records

        point = Records(self.folder / "trials.jsonl").asked[int(who.removeprefix("trial "))].point
        return found_at(self.space, point, self.state)


def found_at(space: Space, point: Mapping[str, Any], state: SearchState) -> SearchState:
    """The state with the recipe of a point as the best."""
    gathered: dict[str, tuple[float, ...]] = {}
    for axis in space.axes:
        if not axis.choices:
            name = axis.name.partition("#")[0]
            gathered[name] = (*gathered.get(name, ()), float(point[axis.name]))
    return replace(state, recipe=space.recipe(point).text, coefficients=gathered)


def advised(space: Space, report: SearchReport, state: SearchState) -> str:
    """The recipe that a report advises; where that is a parent, the best merge."""
    if report.advice == "average":
        return space.average().text
    return space.recipe(space.start).text if report.advice == "given" else state.recipe


def _layers(plan: SearchPlan) -> int:
    return max((model.layers for model in plan.merge.parents), default=0)
