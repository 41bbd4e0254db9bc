"""Merges in memory, to try before anything is saved: few, bounded in bytes, each for the page that made it.

They are live: a changed number rewrites the tensors that depend on it, and nothing is loaded again. The models are in
the process that holds loaded models (`InMemoryMerges`); the page knows their names (`TriedMerges`).
"""

from __future__ import annotations

import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from checkpoints.memory import free_memory, machine_memory
from checkpoints.problems import ProblemError
from evaluation import EvaluationError, LanguageModel
from evaluation.answering_model import AnsweringModel
from evaluation.llama_model import LlamaModel, has_llama_cpp, load_gguf
from evaluation.runtime import Runtime
from merging import Cancelled, MergeError, Plan, Problem, Progress, read_recipe
from merging.gguf_conversion import write_gguf
from ui.hub.account import Account
from ui.server.model_process import MODELS
from ui.server.work import watched
from ui.widgets.html import size

if TYPE_CHECKING:
    from searching.live_merge import LiveMerge

SHARE_OF_MEMORY = 1 / 6
SECONDS_KEPT = 1800
# Prefix of the name of a merge in memory: no model on the Hub and no folder has it.
MARK = "try: "


def default_bytes() -> int:
    """The most bytes for all merges in memory together, on this machine."""
    return int(machine_memory() * SHARE_OF_MEMORY)


def check(plan: Plan, most_bytes: int) -> None:
    """Check that the merge of a plan may be kept in so much memory.

    Raises:
        MergeError: it is too large.
    """
    if plan.bytes_out > most_bytes:
        values = {"size": size(plan.bytes_out), "most": size(most_bytes)}
        raise MergeError(Problem("too-large", values))


@dataclass(frozen=True)
class TryRequest:
    """A merge that a page asks to have in memory.

    Args:
        page: its session
        name: what its visitor calls the merge
        plan: without a destination and without problems
        who: whose access to use
    """

    page: str
    name: str
    plan: Plan
    who: Account


@dataclass
class _InMemoryMerge:
    name: str
    live: LiveMerge
    who: Account
    used: float
    # The same merge in llama.cpp; None until an answer is wanted, and after each change.
    quick: LlamaModel | None = None
    is_refused: bool = False  # whether llama.cpp cannot run it

    @property
    def bytes(self) -> int:
        return self.live.model.bytes + self.live.held_bytes + (self.quick.bytes if self.quick else 0)


class InMemoryMerges:
    """The live models. The least recently used leave first, and each when its page is closed or idle.

    Args:
        most_bytes: limit for all together, with what is kept of their parents; None: a sixth of the machine's memory
        clock: gives seconds
    """

    def __init__(self, most_bytes: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.most_bytes = most_bytes or default_bytes()
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _InMemoryMerge] = OrderedDict()  # by page
        self._merging = threading.Lock()

    def make(
        self, asked: TryRequest, on_progress: Callable[[Progress], None], cancel: threading.Event
    ) -> str:
        """Merge, and keep the result for a page instead of its last one.

        Returns:
            The name under which `get` finds it.

        Raises:
            MergeError: it cannot be merged or does not fit.
        """
        # Imported here: torch and transformers take seconds, and the page does not need them to start.
        from searching.live_merge import LiveMerge, held

        page, name, plan, who = asked.page, MARK + asked.name, asked.plan, asked.who
        check(plan, self.most_bytes)
        dtype = "float32" if 2 * plan.bytes_out <= self.most_bytes else "auto"
        needed = held(plan, dtype).model
        beside = plan.bytes_out if has_llama_cpp() else 0  # what llama.cpp runs
        beside = beside if needed + beside <= self.most_bytes else 0
        stop = (
            threading.Event()
        )  # of the making alone: what it made can be changed when `cancel` was set afterwards

        def report(progress: Progress) -> None:
            if cancel.is_set():
                stop.set()
            on_progress(progress)

        with self._merging:  # one at a time: memory was checked for one
            self.forget(page)
            self._make_room(needed)
            try:
                live = LiveMerge(
                    read_recipe(plan.recipe),
                    plan,
                    name=name,
                    token=who.for_hub,
                    allow_folders=any(model.commit is None for model in plan.parents),
                    device="cpu",
                    dtype=dtype,
                    memory=free_memory(),
                    keep=self.most_bytes - needed - beside,
                    on_progress=report,
                    cancel=stop,
                )
            except EvaluationError as error:
                raise MergeError(error.problems) from error
            live.cancel = None  # it is set when the page no longer follows the making
            with self._lock:
                self._kept[page] = _InMemoryMerge(name, live, who, self._clock())
        self._make_room(0)
        return name

    def update(self, page: str, name: str, recipe: str, who: Account) -> bool:
        """Make a page's merge that of another recipe, in place.

        Args:
            who: asks; another account than the one that made the merge may not read its parents

        Returns:
            Whether there is such a merge; else it has to be made.

        Raises:
            MergeError: the recipe cannot be merged; the merge stays as it is.
        """
        with self._merging:
            with self._lock:
                merge = self._kept.get(page)
                if merge is None or merge.name != name or merge.who != who:
                    return False
                merge.used = self._clock()
            merge.quick = None
            merge.live.update(read_recipe(recipe))
        return True

    def to_answer(self, page: str, name: str, cancel: threading.Event) -> AnsweringModel | None:
        """The model of a page that answers quickest; None if it has none of this name, or no longer.

        Where llama.cpp is installed, it runs the merge, which is merged once more for it, in the bits of its file.

        Raises:
            Cancelled: `cancel` was set meanwhile.
        """
        with self._merging:
            model = self.get(page, name)
            with self._lock:
                merge = self._kept.get(page)
            if model is None or merge is None or merge.is_refused or not has_llama_cpp():
                return model
            if merge.quick is None:
                try:
                    merge.quick = self._quick(merge, cancel)
                except Cancelled:
                    raise
                except ProblemError:
                    merge.is_refused = True
            return merge.quick or model

    def _quick(self, merge: _InMemoryMerge, cancel: threading.Event) -> LlamaModel:
        """A merge in llama.cpp.

        Raises:
            ProblemError: it cannot run it.
        """
        plan = merge.live.planner.plan(merge.live.recipe)
        if plan.bytes_out + merge.bytes > self.most_bytes:
            values = {"size": size(plan.bytes_out), "most": size(self.most_bytes)}
            raise MergeError(Problem("too-large", values))
        with TemporaryDirectory(prefix="alloy-gguf-") as folder:
            file = write_gguf(plan, "BF16", Path(folder), token=merge.who.for_hub, cancel=cancel)
            return load_gguf(file, name=merge.name)

    def get(self, page: str, name: str) -> LanguageModel | None:
        """The live model of a page; None if it has none of this name, or no longer."""
        with self._lock:
            merge = self._kept.get(page)
            if merge is None or merge.name != name:
                return None
            merge.used = self._clock()
            self._kept.move_to_end(page)
            return merge.live.model

    def forget(self, page: str) -> None:
        """Free the model of a page."""
        with self._lock:
            found = self._kept.pop(page, None)
        if found:
            found.live.close()
            del found
            gc.collect()

    def _make_room(self, nbytes: int) -> None:
        with self._lock:
            left = [merge for merge in self._kept.values() if self._clock() - merge.used <= SECONDS_KEPT]
            while left and sum(merge.bytes for merge in left) + nbytes > self.most_bytes:
                left.pop(0)
            gone = [self._kept.pop(page) for page, merge in list(self._kept.items()) if merge not in left]
        for merge in gone:
            merge.live.close()
        del gone
        gc.collect()


# -- in the process of the models ---------------------------------------------------------------------------


@cache
def _kept_here() -> InMemoryMerges:
    return InMemoryMerges()


def made(asked: TryRequest) -> Iterator[Any]:
    """Make a merge; yields its progress, and None now and then, and in the end its name."""
    return watched(lambda report, cancel: _kept_here().make(asked, report, cancel))


def updated(page: str, name: str, recipe: str, who: Account) -> Iterator[bool]:
    """Make a merge that of another recipe; yields whether it is still there."""
    yield _kept_here().update(page, name, recipe, who)


def forgotten(page: str) -> Iterator[None]:
    """Free the merge of a page."""
    _kept_here().forget(page)
    yield


def model_of(merge: TriedMerge, runtime: Runtime, cancel: threading.Event) -> AnsweringModel:
    """The model of a merge, to answer; see `InMemoryMerges.to_answer`.

    Args:
        merge: as the page names it
        runtime: "transformers" for the live model
        cancel: set it from another thread to stop

    Raises:
        EvaluationError: it is no longer there.
        Cancelled: `cancel` was set.
    """
    kept, found = _kept_here(), (merge.page, merge.name)
    model: AnsweringModel | None
    model = kept.get(*found) if runtime == "transformers" else kept.to_answer(*found, cancel)
    if model is None:
        raise EvaluationError(Problem("trial-gone"))
    return model


# -- in the process of the page -----------------------------------------------------------------------------


@dataclass(frozen=True)
class TriedMerge:
    """A merge in memory, as the page names it.

    Args:
        page: that made it
        name: with `MARK` before it
        recipe: that it was made from
        process: that holds it, see `ModelProcess.generation`
    """

    page: str
    name: str
    recipe: str
    process: int


class TriedMerges:
    """The merges that pages made: at most one each."""

    def __init__(self) -> None:
        self._by_page: dict[str, TriedMerge] = {}

    def check(self, plan: Plan) -> None:
        """See `check`."""
        check(plan, default_bytes())

    def make(
        self, asked: TryRequest, on_progress: Callable[[Progress], None], cancel: threading.Event
    ) -> str:
        """See `InMemoryMerges.make`."""
        page = asked.page
        self._by_page.pop(page, None)
        with closing(MODELS.stream(made, asked)) as news:
            for item in news:
                if cancel.is_set():
                    raise Cancelled
                if isinstance(item, str):
                    self._by_page[page] = TriedMerge(page, item, asked.plan.recipe, MODELS.generation)
                    return item
                if item is not None:
                    on_progress(item)
        raise Cancelled

    def update(self, page: str, name: str, recipe: str, who: Account) -> bool:
        """See `InMemoryMerges.update`."""
        merge = self.get(page, name)
        if merge is None:
            return False
        [found] = MODELS.stream(updated, page, name, recipe, who)
        if found:
            self._by_page[page] = replace(merge, recipe=recipe)
        return bool(found)

    def get(self, page: str, name: str) -> TriedMerge | None:
        """The merge of a page; None if it has none of this name, or the process that held it has ended."""
        merge = self._by_page.get(page)
        return merge if merge and (merge.name, merge.process) == (name, MODELS.generation) else None

    def recipe(self, page: str, name: str) -> str:
        """The recipe of a page's merge; empty if it has none of this name, or no longer."""
        merge = self.get(page, name)
        return merge.recipe if merge else ""

    def forget(self, page: str) -> None:
        """Free the merge of a page."""
        if self._by_page.pop(page, None):
            list(MODELS.stream(forgotten, page))
