"""Runs a search: baselines, trials, a choice among the best, and one report on data that was never used.

Everything that was scored is in the folder's records, and nothing in them is scored again.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from checkpoints.problems import Cancelled, MergeError, Problem, RecipeError
from evaluation import EvaluationError
from merging import Recipe
from searching.backup import Backup
from searching.descent import PENALTY, Descent
from searching.figures import Figures, excess, figure, score
from searching.goals import DESCENTS, Part
from searching.gradient import Loss
from searching.learning import Optimizer, Pace, descend
from searching.optimiser import Optimiser, SearchError, optimiser
from searching.plan import FINALISTS, Measured, SearchPlan, has_gradient, measured
from searching.records import Asked, Records, Scored
from searching.report import SearchReport, make_report
from searching.shared_study import SharedStudy, Storage
from searching.space import Point
from searching.starters import greedy_soup, lm_cocktail
from searching.workers import Job, ThisProcess, Workers

# LM-Cocktail weighs models by nats per token. Bits per byte times this are that, with four bytes to a token.
NATS_PER_TOKEN = 4 * math.log(2)
_RECORDS = "trials.jsonl"


@dataclass(frozen=True)
class SearchProgress:
    """Where a search is.

    Args:
        phase: "baselines", "trials", "choice" or "report"
        done: trials that have ended
        trials: the most there will be
        scored: what has just been scored
        value: its score; None if it has none
        best: the best score so far on the search part
        average: that of the plain average
        seconds_left: an estimate; None before the first trial
        measured: what the search will cost and can show; None before the baselines were scored
    """

    phase: str
    done: int
    trials: int
    scored: Scored
    value: float | None
    best: float | None
    average: float | None
    seconds_left: float | None
    measured: Measured | None


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        best: the recipe that was chosen; None where no trial kept the guards
        report: how it compares, on the report part
        folder: that holds everything
    """

    best: Recipe | None
    report: SearchReport
    folder: Path


def run_search(
    plan: SearchPlan,
    folder: str | Path,
    *,
    finish: bool = False,
    storage: str | None = None,
    backup: str | None = None,
    on_trial: Callable[[SearchProgress], None] | None = None,
    cancel: threading.Event | None = None,
) -> SearchResult:
    """Search, or continue a search.

    Args:
        plan: from `plan_search`, without problems
        folder: for the records and the result; one that holds an unfinished search of the same plan continues it
        finish: score no further trial: choose among those that have ended, and report
        storage: URL of a database whose study other machines may join, see `join_search`; None for a search of this
            machine alone
        backup: `hf://owner/name`, a private repository that a copy of the records is kept in until the search ends;
            the same search continues from there in another folder, on any machine. None for no copy
        on_trial: called after each recipe that was scored
        cancel: set it from another thread to stop; what was scored is kept, and a report without the report part is
            written

    Raises:
        SearchError: the plan has problems, the folder holds another search, another process uses it, or the database
            cannot be used.
        MergeError: the parents can no longer be read, or the Hub refuses the repository of the copy.
        Cancelled: `cancel` was set.
    """
    shared = Storage(storage) if storage else None
    with _opened(plan, Path(folder), shared, on_trial, cancel, backup) as search:
        return search.run(finish=finish)


def join_search(
    plan: SearchPlan,
    folder: str | Path,
    storage: str,
    *,
    on_trial: Callable[[SearchProgress], None] | None = None,
    cancel: threading.Event | None = None,
) -> int:
    """Score trials of a search that another machine began with `run_search`, until that takes no more.

    The machine that began it gets their figures, chooses among all and writes the report.

    Args:
        plan: of the same space, parents and data
        folder: for the records of this machine
        storage: URL of the database
        on_trial, cancel: see `run_search`

    Returns:
        How many trials were scored here.

    Raises:
        SearchError, MergeError, Cancelled: see `run_search`; or there is no such search in the database.
    """
    with _opened(plan, Path(folder), Storage(storage, joins=True), on_trial, cancel) as search:
        return search.join()


@contextmanager
def _opened(
    plan: SearchPlan,
    folder: Path,
    storage: Storage | None,
    on_trial: Callable[[SearchProgress], None] | None,
    cancel: threading.Event | None,
    backup: str | None = None,
) -> Iterator[_Search]:
    """A search that no other process runs in the same folder."""
    if not plan.ok:
        raise SearchError(plan.problems)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise SearchError(Problem("destination-is-file", {"path": str(folder)})) from error
    lock = FileLock(folder / ".lock")
    try:
        with lock.acquire(timeout=0):
            check_folder(plan, folder)
            with _backed_up(folder / _RECORDS, backup, _digest(plan)) as on_record:
                search = _Search(plan, folder, storage, on_trial, cancel or threading.Event(), on_record)
                try:
                    yield search
                finally:
                    search.close()
    except Timeout:
        raise SearchError(Problem("search-in-use", {"folder": str(folder)})) from None


@contextmanager
def _backed_up(records: Path, place: str | None, key: str) -> Iterator[Callable[[], None] | None]:
    """What copies the records of a search while it runs; None for no copy. The copy is removed when the search ends."""
    if place is None:
        yield None
        return
    backup = Backup(records, place, key)
    backup.open()
    try:
        yield backup.copy
    except BaseException:
        backup.copy(now=True)
        raise
    backup.remove()


def check_folder(plan: SearchPlan, folder: Path) -> None:
    """Write what the search is of; or compare it with what the folder holds.

    Raises:
        SearchError: the space, the parents or the data are others.
    """
    texts = _identity(plan)
    there = {name: folder / name for name in texts}
    if not (folder / _RECORDS).exists():
        for name, text in texts.items():
            there[name].write_text(text, encoding="utf-8")
        (folder / _RECORDS).touch()
        return
    for name, text in texts.items():
        before = there[name].read_text(encoding="utf-8") if there[name].exists() else ""
        if before != text:
            what, changed = _changed(name, before, text)
            values = {"what": what, "names": changed, "folder": str(folder)}
            raise SearchError(Problem("other-search", values))


def _identity(plan: SearchPlan) -> dict[str, str]:
    """What a search is of, as texts by the name of their file."""
    return {
        "space.yaml": plan.space.text,
        "parents.json": json.dumps(plan.parents, indent=2, ensure_ascii=False),
        "data.json": json.dumps(plan.data.to_dict(), ensure_ascii=False),
    }


def _digest(plan: SearchPlan) -> str:
    """The same for searches of the same space, parents and data."""
    return hashlib.sha256("\n".join(_identity(plan).values()).encode()).hexdigest()


def _changed(name: str, before: str, now: str) -> tuple[str, list[str]]:
    """What changed: a phrase, and the names of parents or texts."""
    if name == "space.yaml":
        return "changed-space", []
    try:
        old = dict(json.loads(before or "{}"))
    except (ValueError, TypeError):  # was changed by hand
        old = {}
    new = json.loads(now)
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return ("changed-parents" if name == "parents.json" else "changed-data"), changed


def _key(recipe: Recipe, part: Part) -> Hashable:
    """Equal for recipes that are scored alike."""
    return recipe.text, recipe.seed, part


class _Search:
    """One run of a search.

    Args:
        plan: what to search
        folder: for the records
        storage: of a study that machines share; None for one of this process
        on_trial: called after each recipe that was scored
        cancel: stops it
        on_record: called after each line of the records
    """

    def __init__(
        self,
        plan: SearchPlan,
        folder: Path,
        storage: Storage | None,
        on_trial: Callable[[SearchProgress], None] | None,
        cancel: threading.Event,
        on_record: Callable[[], None] | None = None,
    ):
        self.plan = plan
        self.space = plan.space
        self.settings = plan.space.settings
        self.goals = self.settings.goals
        self.folder = folder
        self.storage = storage
        self.records = Records(folder / _RECORDS, on_record)
        self.on_trial = on_trial
        self.cancel = cancel
        # When the first recipe began to be scored: until then models are loaded.
        self.began: float | None = None
        self.before = self.records.seconds_here
        # The recipe as it was given, the plain average, and each parent.
        self.baselines = {"given": self.space.recipe(self.space.start), "average": self.space.average()}
        self.baselines |= {f"parent {name}": one for name, one in self.space.parents().items()}
        self.base = self.space.base()
        # Who was scored on which part with which recipe.
        self.known: dict[Hashable, str] = {}
        # Points that a look at each parent suggests, by the names under which they were scored.
        self.looked: dict[str, Point] = {}
        for (who, part), scored in self.records.scored.items():
            if scored.state != "failed" and (who in self.baselines or re.fullmatch(r"trial \d+", who)):
                self.known.setdefault(_key(self.recipe_of(who), part), who)
        self._workers: Workers | None = None
        self._optimiser: Optimiser | None = None
        self._study = None if storage is None else self.shared_study(storage)
        self.told = 0

    # -- phases ----------------------------------------------------------------------------------------

    def run(self, *, finish: bool) -> SearchResult:
        try:
            self.score_baselines()
            if not self.is_reported:
                if not finish:
                    self.find_starts()
                    self.trials()
                self.end_study()
            winner = self.chosen()
            self.report_part(winner)
        except (Cancelled, KeyboardInterrupt):
            self.write(make_report(self.plan, self.records, self.chosen_so_far(), finished=False))
            raise
        return self.write(make_report(self.plan, self.records, winner, finished=True))

    def end_study(self) -> None:
        """Let no other machine begin a trial, and take over what they have scored."""
        if self._study is not None:
            self._study.end()
            if self._optimiser is None:
                self._study.match(self.records)
            self.take_over()

    def join(self) -> int:
        """Score trials of a search that another machine began; returns how many."""
        self.score_baselines()
        self.trials()
        return sum(not asked.elsewhere for asked, _ in self.records.trials())

    @property
    def is_reported(self) -> bool:
        """Whether the report part has been used: then no trial may follow."""
        return any(part == "report" for _, part in self.records.scored)

    def score_baselines(self) -> None:
        """Score the recipe as it was given, and raise what failed: nothing else would do better; then the others."""
        first, *others = (Job(who, "search", one) for who, one in self.baselines.items())
        self.score_all("baselines", [first])
        if problem := self.records.scored[first.who, "search"].problem:
            raise SearchError(problem)
        self.score_all("baselines", others)

    def find_starts(self) -> None:
        """Score what a look at each parent suggests: LM-Cocktail weights, and a greedy soup."""
        models = self.space.weighted_models()
        alone = [self.score_of(f"parent {name}") for name in models]
        if not any(map(math.isfinite, alone)):
            return

        def scored(who: str, weights: Sequence[float]) -> float:
            self.looked[who] = self.space.weighted(dict(zip(models, weights, strict=True)))
            recipe = self.recipe_of(who)
            self.known.setdefault(_key(recipe, "search"), who)
            self.score_all("baselines", [Job(who, "search", recipe)])
            return self.score_of(who)

        def soup(weights: Sequence[float]) -> float:
            members = [str(number) for number, weight in enumerate(weights, 1) if weight]
            return scored(f"soup {'+'.join(members)}", weights)

        if "lm_cocktail" in self.settings.starts:
            scored("start lm_cocktail", lm_cocktail([NATS_PER_TOKEN * score for score in alone]))
        if "greedy_soup" in self.settings.starts:
            scored("start greedy_soup", greedy_soup(alone, soup).weights)

    def score_of(self, who: str) -> float:
        """A score on the search part; infinite if there is none."""
        found = self.records.scored[who, "search"]
        return math.inf if found.state == "failed" else self.penalised(found)

    def score_at(self, start: Point) -> float:
        """The score of a point to start from."""
        who = next((who for who, point in self.looked.items() if point == start), "given")
        return self.score_of(who)

    @property
    def starts(self) -> list[Point]:
        """Points to start from: the recipe as it was given, and what a look at each parent suggests."""
        suggested = [point for who, point in self.looked.items() if who.startswith("start ")]
        return [self.space.start, *suggested]

    def trials(self) -> None:
        descent = self.descent()
        if descent is None:
            self.run_jobs("trials", self.trial_jobs())
        else:
            self.go_down(descent)

    def descent(self) -> Descent | None:
        """The descent of a search by gradient; None for another, and where "auto" finds no derivative."""
        by = self.settings.by
        alone = self.plan.is_alone and self._study is None
        if by not in ("auto", *DESCENTS) or (by == "auto" and not (alone and has_gradient(self.space))):
            return None
        assert isinstance(self.workers, ThisProcess)  # see `plan_search`
        try:
            best = min(self.starts, key=self.score_at)
            return Descent(self.plan, self.records, self.workers.live, self.references("search"), best)
        except Cancelled:
            raise
        except MergeError as error:
            if by in DESCENTS:
                raise SearchError(error.problems) from error
            return None

    def go_down(self, descent: Descent) -> None:
        """Go down the gradient, until the choice part says that it no longer helps."""
        names: list[str] = []

        def at(values: Sequence[float]) -> Loss:
            self.stop_if_cancelled()
            names.append(f"trial {len(names)}")
            if (names[-1], "search") not in self.records.scored:
                asked, scored = descent.trial(len(names) - 1, values)
                if asked.ask not in self.records.asked:
                    self.records.add(asked)
                self.enter("trials", scored)
            scored = self.records.scored[names[-1], "search"]
            if scored.problem is not None:
                raise EvaluationError(scored.problem)
            return descent.loss(scored)

        def judged() -> float:
            who = names[-1]
            self.score_all("trials", [Job(who, "choice", self.recipe_of(who))])
            scored = self.records.scored[who, "choice"]
            return math.inf if scored.state == "failed" else self.penalised(scored)

        with suppress(EvaluationError):  # a step that failed is in the records, and the last one
            optimizer: Optimizer = "lbfgs" if self.settings.by == "lbfgs" else "adam"
            pace = Pace(optimizer, steps=self.settings.trials, seconds=self.seconds_left())
            descend(descent.numbers, at, judged, pace)

    def seconds_left(self) -> float | None:
        """Until no trial may begin any more, so that the best is judged when the time is up; None for no limit."""
        if self.settings.minutes is None:
            return None
        here = time.monotonic() - self.began if self.began is not None else 0.0
        spent = self.before / self.plan.workers + here
        measured = self.measured()
        return 60 * self.settings.minutes - spent - (measured.judging if measured else 0.0)

    def trial_jobs(self) -> Iterator[Job]:
        """Jobs of the trials, each asked for when a worker is free."""
        self._optimiser = self.rebuilt()
        for asked in self.records.pending():
            if job := self.job_of(asked):
                yield job
        while self.wants_more():
            point = self._optimiser.ask(self.first_point(len(self.records.asked)))
            if point is None:
                return
            number = self._study.number if self._study else None
            asked = Asked(len(self.records.asked), self.told, point, number)
            self.records.add(asked)
            if job := self.job_of(asked):
                yield job

    def wants_more(self) -> bool:
        """Whether another trial may begin, after what other machines have scored meanwhile."""
        self.take_over()
        # The first two were scored as baselines.
        few = len(self.records.asked) < 2
        if len(self.records.asked) < self.settings.trials and (few or not self.is_over()):
            return self._study is None or not self._study.is_ended
        return False

    def take_over(self) -> None:
        """Add to the records what other machines have scored."""
        if self._study is None:
            return
        for asked, scored in self._study.elsewhere(len(self.records.asked)):
            self.records.add(asked)
            self.records.add(scored)
            self.known.setdefault(_key(self.recipe_of(scored.who), "search"), scored.who)
            self.told += 1
            if self.on_trial:
                self.on_trial(self.progress("trials", scored))

    def shared_study(self, storage: Storage) -> SharedStudy:
        """The study of this search in a database; another space, parent or text has another study."""
        name = f"alloy-{_digest(self.plan)[:16]}"
        return SharedStudy(self.space, self.settings.by, storage, name)

    def rebuilt(self) -> Optimiser:
        """The optimiser, after all that was asked of it and told to it."""
        if self._study is not None:
            self._study.match(self.records)
            return self._study
        exact = self.repeated(exact=True)
        return exact or self.repeated(exact=False)  # type: ignore[return-value]

    def repeated(self, *, exact: bool) -> Optimiser | None:
        """Repeat all asks and tells; None where, `exact`, another point is asked than was."""
        made = optimiser(self.space, self.settings.by, self.settings.trials)
        ended = list(self.records.trials())
        self.told = 0
        for number, asked in sorted(self.records.asked.items()):
            for told, scored in ended[self.told : asked.after]:
                made.tell(told.ask, scored.told)
            self.told = max(self.told, asked.after)
            point = made.ask(self.first_point(number) if exact else asked.point)
            if exact and point != dict(asked.point):
                return None
        for told, scored in ended[self.told :]:
            made.tell(told.ask, scored.told)
        self.told = len(ended)
        return made

    def first_point(self, number: int) -> Point | None:
        """The first trials are the recipe as it was given, the plain average where it is in the space, and what a look
        at each parent suggests."""
        if self.settings.by == "grid" or (self.storage and self.storage.joins):
            return None
        average = self.space.average_point()
        averages = [average] if self.space.holds(average) else []
        first = [self.space.start, *averages, *self.starts[1:]]
        unique = [point for place, point in enumerate(first) if point not in first[:place]]
        return unique[number] if number < len(unique) else None

    def job_of(self, asked: Asked) -> Job | None:
        """The job of a trial; None where the answer is known already."""
        who = f"trial {asked.ask}"
        try:
            recipe = self.space.recipe(asked.point)
        except RecipeError as error:
            self.enter("trials", Scored(who, "search", "failed", {}, problem=error.problems[0]))
            return None
        job = Job(who, "search", recipe, self.best_figures())
        return None if self.is_answered("trials", job) else job

    def is_answered(self, phase: str, job: Job) -> bool:
        """Whether the same recipe was scored on the same part under another name; then that is its score."""
        first = self.known.setdefault(_key(job.recipe, job.part), job.who)
        same = self.records.scored.get((first, job.part))
        if same is None or same.state == "failed":
            return False
        self.enter(phase, replace(same, who=job.who, seconds=0.0, making=0.0, told=()))
        return True

    def chosen(self) -> str | None:
        """Score the best trials on the choice part; the best of them there, if any keeps the guards."""
        finalists = self.finalists()
        if not self.is_reported:
            jobs = [Job(who, "choice", self.recipe_of(who)) for who in finalists]
            jobs.append(Job("average", "choice", self.baselines["average"]))
            self.score_all("choice", jobs)
        return self.chosen_so_far()

    def chosen_so_far(self) -> str | None:
        """The best of the finalists on the choice part, or before that on the search part."""
        parts: tuple[Part, ...] = ("choice", "search")
        for part in parts:
            scored = {who: self.records.scored.get((who, part)) for who in self.finalists()}
            values = {who: self.penalised(one) for who, one in scored.items() if one and one.state == "done"}
            kept = {who: value for who, value in values.items() if self.keeps_guards(who, part)}
            if kept:
                return min(kept, key=lambda who: kept[who])
        return None

    def finalists(self) -> list[str]:
        """The best trials on the search part that keep the guards; of a descent, all steps."""
        done = [scored for _, scored in self.records.trials() if scored.state == "done"]
        if any(scored.gradient for scored in done):
            return [scored.who for scored in done]
        kept = [one for one in done if self.keeps_guards(one.who, "search")]
        ordered = sorted(kept, key=self.penalised)
        unique = {json.dumps(self.asked(one.who).point, sort_keys=True): one.who for one in reversed(ordered)}
        return list(reversed(unique.values()))[:FINALISTS]

    def report_part(self, winner: str | None) -> None:
        """Score the winner and all that it is compared with on the report part, once."""
        jobs = [Job(who, "report", one) for who, one in self.baselines.items()]
        if winner is not None:
            recipe = self.recipe_of(winner)
            jobs.insert(0, Job(winner, "report", recipe))
            if recipe.method.is_random:
                jobs += [
                    Job(f"{winner}, seed {seed}", "report", replace(recipe, seed=seed))
                    for seed in (recipe.seed + 1, recipe.seed + 2)
                ]
        self.score_all("report", jobs)

    # -- scoring ---------------------------------------------------------------------------------------

    def score_all(self, phase: str, jobs: Sequence[Job]) -> None:
        """Score what has not been scored."""
        missing = (job for job in jobs if (job.who, job.part) not in self.records.scored)
        self.run_jobs(phase, (job for job in missing if not self.is_answered(phase, job)))

    def run_jobs(self, phase: str, jobs: Iterator[Job]) -> None:
        while True:
            job: Job | None = None
            while self.workers.running < self.workers.count and (job := next(jobs, None)):
                self.stop_if_cancelled()
                self.workers.take(job)
            if not self.workers.running:
                return
            self.enter(phase, self.workers.wait())

    @property
    def workers(self) -> Workers:
        if self._workers is None:
            self._workers = self.plan.open_workers(self.cancel)
        return self._workers

    def enter(self, phase: str, scored: Scored) -> None:
        """Record what was scored, and tell the optimiser and the caller."""
        if self.began is None and scored.seconds:
            self.began = time.monotonic() - scored.seconds
        is_trial = self._optimiser is not None and scored.part == "search" and scored.who.startswith("trial ")
        if is_trial:
            scored = replace(scored, told=self.values(scored))
        self.records.add(scored)
        if self._study and is_trial:
            self._study.publish(self.asked(scored.who).ask, scored)
        if self._optimiser and is_trial:
            self._optimiser.tell(self.asked(scored.who).ask, scored.told)
            self.told += 1
        if self.on_trial:
            self.on_trial(self.progress(phase, scored))

    def stop_if_cancelled(self) -> None:
        if self.cancel.is_set():
            raise Cancelled

    def is_over(self) -> bool:
        """Whether the time is up."""
        left = self.seconds_left()
        return left is not None and left <= 0

    def close(self) -> None:
        if self._workers is not None:
            self._workers.close()

    # -- values ----------------------------------------------------------------------------------------

    def asked(self, who: str) -> Asked:
        return self.records.asked[int(who.removeprefix("trial "))]

    def recipe_of(self, who: str) -> Recipe:
        if who in self.baselines:
            return self.baselines[who]
        return self.space.recipe(self.looked[who] if who in self.looked else self.asked(who).point)

    def references(self, part: Part) -> Figures:
        """The figures that relative limits move with."""
        return self.records.references(self.goals, self.base, part)

    def broken(self, scored: Scored) -> float:
        """By how much the guards are broken, in all; 0 where nothing is known of them."""
        return sum(excess(scored.figures, self.references(scored.part), self.goals).values())

    def keeps_guards(self, who: str, part: Part) -> bool:
        return self.broken(self.records.scored[who, part]) == 0

    def penalised(self, scored: Scored) -> float:
        """The score, with a penalty for broken guards."""
        return score(scored.figures, self.goals) + PENALTY * self.broken(scored)

    def values(self, scored: Scored) -> tuple[float, ...]:
        """What the optimiser is told of a trial: nothing if it failed; an estimate if it was stopped early."""
        if scored.state == "failed":
            return ()
        if scored.state == "stopped":
            best = self.best_figures() or {}
            some = {name: best[name][: len(rows)] for name, rows in scored.figures.items()}
            return (score(best, self.goals) + score(scored.figures, self.goals) - score(some, self.goals),)
        if self.settings.by == "nsga2":
            broken = PENALTY * self.broken(scored)
            return tuple(figure(scored.figures[g.name]) + broken for g in self.goals if not g.is_guard)
        return (self.penalised(scored),)

    def best_figures(self) -> Figures | None:
        """Those of the best trial so far; None before there is one, and where trials are not stopped early."""
        if self.settings.by == "nsga2":
            return None
        done = [one for _, one in self.records.trials() if one.state == "done" and self.broken(one) == 0]
        return min(done, key=lambda one: score(one.figures, self.goals)).figures if done else None

    def measured(self) -> Measured | None:
        two = ("average", list(self.baselines)[-1])
        scored = [self.records.scored.get((who, "search")) for who in two]
        done = [one for one in scored if one is not None and one.state == "done"]
        return measured(self.plan, done) if len(done) == 2 else None

    def progress(self, phase: str, scored: Scored) -> SearchProgress:
        ended = list(self.records.trials())
        scores = [score(one.figures, self.goals) for _, one in ended if one.state == "done"]
        average = self.records.scored.get(("average", "search"))
        spent = [one.seconds for _, one in ended if one.seconds]
        left = max(self.settings.trials - len(ended), 0)
        seconds = sum(spent) / len(spent) * left / self.plan.workers if spent else None
        limit = self.seconds_left()
        if seconds is not None and limit is not None:
            seconds = max(min(seconds, limit), 0.0)
        return SearchProgress(
            phase,
            len(ended),
            self.settings.trials,
            scored,
            score(scored.figures, self.goals) if scored.state == "done" else None,
            min(scores, default=None),
            score(average.figures, self.goals) if average and average.state == "done" else None,
            seconds,
            self.measured(),
        )

    # -- the end ---------------------------------------------------------------------------------------

    def write(self, report: SearchReport) -> SearchResult:
        """Write the report and the best recipe."""
        best = self.recipe_of(report.winner) if report.winner else None
        files: Mapping[str, Any] = {
            "report.json": json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n",
            "report.md": report.markdown(),
            "card.md": report.card(),
            **({"best.yaml": best.text} if best else {}),
        }
        for name, text in files.items():
            (self.folder / name).write_text(text, encoding="utf-8")
        return SearchResult(best, report, self.folder)
