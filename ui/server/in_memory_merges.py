"""Merges in memory, to try before anything is saved: few, bounded in bytes, each for the page that made it.

They are live: a changed number rewrites the tensors that depend on it, and nothing is loaded again.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from checkpoints.memory import free_memory, machine_memory
from evaluation import EvaluationError, LanguageModel
from merging import MergeError, Plan, Problem, Progress, read_recipe
from ui.hub.account import Account
from ui.widgets.html import size

if TYPE_CHECKING:
    from searching.live_merge import LiveMerge

SHARE_OF_MEMORY = 1 / 6
SECONDS_KEPT = 1800
# Prefix of the name of a merge in memory: no model on the Hub and no folder has it.
MARK = "try: "


@dataclass
class _InMemoryMerge:
    name: str
    live: LiveMerge
    who: Account
    used: float

    @property
    def bytes(self) -> int:
        return self.live.model.bytes + self.live.held_bytes


class InMemoryMerges:
    """The live models. The least recently used leave first, and each when its page is closed or idle.

    Args:
        most_bytes: limit for all together, with what is kept of their parents; None: a sixth of the machine's memory
        clock: gives seconds
    """

    def __init__(self, most_bytes: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.most_bytes = most_bytes or int(machine_memory() * SHARE_OF_MEMORY)
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _InMemoryMerge] = OrderedDict()  # by page
        self._merging = threading.Lock()

    def check(self, plan: Plan) -> None:
        """Check that the merge of a plan may be kept here.

        Raises:
            MergeError: it is too large.
        """
        if plan.bytes_out > self.most_bytes:
            values = {"size": size(plan.bytes_out), "most": size(self.most_bytes)}
            raise MergeError(Problem("too-large", values))

    def make(
        self,
        page: str,
        name: str,
        plan: Plan,
        who: Account,
        on_progress: Callable[[Progress], None],
        cancel: threading.Event,
    ) -> str:
        """Merge, and keep the result for a page instead of its last one.

        Args:
            page: the session of the page that asks
            name: what the visitor calls it
            plan: without a destination and without problems

        Returns:
            The name under which `get` finds it.

        Raises:
            MergeError: it cannot be merged or does not fit.
        """
        # Imported here: torch and transformers take seconds, and the page does not need them to start.
        from searching.live_merge import LiveMerge, held

        self.check(plan)
        dtype = "float32" if 2 * plan.bytes_out <= self.most_bytes else "auto"
        needed = held(plan, dtype).model
        with self._merging:  # one at a time: memory was checked for one
            self.forget(page)
            self._make_room(needed)
            try:
                live = LiveMerge(
                    read_recipe(plan.recipe),
                    plan,
                    name=MARK + name,
                    token=who.for_hub,
                    allow_folders=any(model.is_folder for model in plan.parents),
                    device="cpu",
                    dtype=dtype,
                    memory=free_memory(),
                    keep=self.most_bytes - needed,
                    on_progress=on_progress,
                    cancel=cancel,
                )
            except EvaluationError as error:
                raise MergeError(error.problems) from error
            with self._lock:
                self._kept[page] = _InMemoryMerge(MARK + name, live, who, self._clock())
        self._make_room(0)
        return MARK + name

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
            merge.live.update(read_recipe(recipe))
        return True

    def get(self, page: str, name: str) -> LanguageModel | None:
        """The live model of a page; None if it has none of this name, or no longer."""
        with self._lock:
            merge = self._kept.get(page)
            if merge is None or merge.name != name:
                return None
            merge.used = self._clock()
            self._kept.move_to_end(page)
            return merge.live.model

    def recipe(self, page: str, name: str) -> str:
        """The recipe of a page's model; empty if it has none of this name, or no longer."""
        with self._lock:
            merge = self._kept.get(page)
            return merge.live.recipe.text if merge and merge.name == name else ""

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
