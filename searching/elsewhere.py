"""Recipes that are scored by the machines of a cluster: each call is one job, and a process keeps its live model."""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from checkpoints import Token
from checkpoints.cluster import Call, Calls, Cluster, ClusterError, Line, check_size
from checkpoints.problems import Cancelled, MergeError, Problem
from evaluation.elsewhere import CPUS
from merging import Recipe, read_recipe
from searching.data import Data
from searching.figures import Figures
from searching.live_merge import SHARE_KEPT, LiveMerge, versions
from searching.memory import Needed
from searching.objective import Objective
from searching.optimiser import SearchError
from searching.records import Scored, from_data, to_data
from searching.space import Space
from searching.space_reader import read_space
from searching.split import Document, digest
from searching.teachers import Teachers
from searching.workers import MOST_LOSSES, Job, Scorer, lost_too_often

if TYPE_CHECKING:
    import threading


@dataclass(frozen=True)
class Elsewhere:
    """Processes on the machines of a cluster.

    Args:
        cluster: whose machines can read the models, by the same names
        count: how many score at the same time
        cpus: processors of each
        memory: bytes of each
        kept: of these, the parents' changes at most
        token: which they use; None: their own login
    """

    cluster: Cluster
    count: int
    cpus: int
    memory: int
    kept: int
    token: Token = field(default=None, repr=False)

    @classmethod
    def planned(cls, cluster: Cluster, holds: Needed, workers: int | None, token: Token) -> Self:
        """Find out how many processes the machines of a cluster hold.

        Args:
            holds: what each process holds
            workers: the most; None: as many as there is room for

        Raises:
            ClusterError: the cluster cannot be reached, or no machine holds even one.
        """
        machines = cluster.machines()
        cpus = min(CPUS, max((machine.cpus for machine in machines), default=CPUS))
        most = max((machine.memory for machine in machines), default=0)
        wanted = holds.least + int(holds.all_kept / SHARE_KEPT)
        memory = max(min(wanted, most), holds.least)
        check_size(Call(_FUNCTION, "", "a live model", cpus, memory), machines)
        room = sum(min(machine.cpus // cpus, machine.memory // memory) for machine in machines)
        return cls(cluster, workers or room or 1, cpus, memory, holds.kept(memory), token)


@dataclass
class ClusterWorkers:
    """Scores each job by a call to a cluster. A job whose call is lost is given to another process.

    Args:
        elsewhere: the processes
        search: what they score, see `as_text`
        cancel: set it to stop waiting
    """

    elsewhere: Elsewhere
    search: str
    cancel: threading.Event | None = None
    _jobs: dict[str, Job] = field(default_factory=dict)
    _losses: Counter[str] = field(default_factory=Counter)
    _found: deque[Scored] = field(default_factory=deque)
    _arrivals: Generator[list[Line], None, None] | None = None

    def __post_init__(self) -> None:
        self._calls = Calls(self.elsewhere.cluster, self.elsewhere.token, self._pulse, self._rest)

    @property
    def count(self) -> int:
        return self.elsewhere.count

    @property
    def running(self) -> int:
        return len(self._jobs) + len(self._found)

    def take(self, job: Job) -> None:
        text = json.dumps({"search": self.search, "job": _job_to_data(job)})
        self._jobs[text] = job
        self._calls.submit(Call(_FUNCTION, text, job.who, self.elsewhere.cpus, self.elsewhere.memory))

    def wait(self) -> Scored:
        try:
            while not self._found:
                self._look()
        except ClusterError as error:
            raise SearchError(error.problems) from error
        return self._found.popleft()

    def close(self) -> None:
        if self._arrivals is not None:
            self._arrivals.close()
        if self._jobs:
            self.elsewhere.cluster.cancel()

    def _look(self) -> None:
        """Take what has arrived."""
        if self._arrivals is None:
            self._arrivals = self._calls.arrivals()
        lines = next(self._arrivals, None)
        if lines is None:
            self._arrivals = None  # all calls have ended
        for line in lines or ():
            # What is lost after its line arrived is scored again.
            if self._jobs.pop(line.call.text, None):
                scored = from_data(json.loads(line.text))
                assert isinstance(scored, Scored)
                self._found.append(scored)

    def _pulse(self) -> None:
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled

    def _rest(self, lost: Call) -> Call | None:
        """What is left of a call that was lost: all of it, until its job has failed."""
        job = self._jobs.get(lost.text)
        if job is None:
            return None
        self._losses[lost.text] += 1
        losses = self._losses[lost.text]
        if losses < MOST_LOSSES:
            return lost
        del self._jobs[lost.text]
        self._found.append(lost_too_often(job, losses, self._losses.total(), self.count))
        return None


# -- what travels -------------------------------------------------------------------------------------------


def as_text(space: Space, objective: Objective, parents: Mapping[str, str], memory: int, kept: int) -> str:
    """What a machine has to know of a search, as JSON; it holds no token.

    Args:
        objective: whose folder all machines share, where goals or models are files
        parents: the version of each
        memory: bytes that are free for a live model
        kept: bytes of the parents' changes to keep at most
    """
    documents = {
        name: [[document.text, document.part] for document in found]
        for name, found in objective.data.documents.items()
    }
    found = {
        "space": space.text,
        "documents": documents,
        "folder": str(objective.folder.resolve()),
        "working": str(Path.cwd()),
        "parents": dict(parents),
        "memory": memory,
        "kept": kept,
    }
    return json.dumps(found)


def _job_to_data(job: Job) -> dict[str, Any]:
    recipe = {"text": job.recipe.text, "seed": job.recipe.seed}
    return {"who": job.who, "part": job.part, "recipe": recipe, "best": job.best}


# -- on a machine -------------------------------------------------------------------------------------------


def lines(text: str, token: Token, cpus: int) -> Iterator[str]:
    """What a machine does that is to score a job: yields what came of it, as JSON."""
    import torch

    torch.set_num_threads(cpus)
    what = json.loads(text)
    kept = _kept(what["search"], token)
    yield json.dumps(to_data(kept.scorer.score(kept.live, kept.job(what["job"]))), ensure_ascii=False)


_FUNCTION = f"{__name__}:{lines.__name__}"


class _Kept(NamedTuple):
    """What a process keeps from one job to the next."""

    scorer: Scorer
    live: LiveMerge
    parents: Mapping[str, Recipe]

    def job(self, data: Mapping[str, Any]) -> Job:
        """The job that `_job_to_data` wrote."""
        return Job(data["who"], data["part"], self._recipe(**data["recipe"]), _figures(data["best"]))

    def _recipe(self, text: str, seed: int) -> Recipe:
        # The text of a parent alone leaves out what the space says for all recipes.
        found = self.parents.get(text) or read_recipe(text)
        return replace(found, seed=seed)


@lru_cache(maxsize=1)
def _kept(search: str, token: Token) -> _Kept:
    """Open the live model of a search, in the process that scores it.

    Raises:
        MergeError: the parents are others than those that were planned.
    """
    what = json.loads(search)
    if Path(what["working"]).is_dir():
        os.chdir(what["working"])  # what names of folders are relative to
    space = read_space(what["space"])
    documents = {
        name: tuple(Document(text, part, digest(text)) for text, part in found)
        for name, found in what["documents"].items()
    }
    parents = space.parents()
    settings = space.settings
    taught = {goal.teacher: parents[goal.teacher] for goal in settings.goals if goal.teacher}
    objective = Objective(
        settings.goals, Data(documents), Path(what["folder"]), None, settings.shares, Teachers(taught)
    )
    live = LiveMerge(
        space.recipe(space.start), token=token, device="cpu", memory=what["memory"], keep=what["kept"]
    )
    here = versions(live.plan)
    if others := sorted(name for name, version in what["parents"].items() if here.get(name) != version):
        live.close()
        raise MergeError(Problem("machine-other-parents", {"names": others}))
    return _Kept(Scorer(lambda: live, objective), live, {one.text: one for one in parents.values()})


def _figures(data: Mapping[str, Any] | None) -> Figures | None:
    if data is None:
        return None
    return {name: tuple((row[0], row[1]) for row in rows) for name, rows in data.items()}
