"""A study in a database, by which several machines search together: Optuna's storage, by its URL.

Each machine keeps records of its own, and these stay the truth: what they have and the study lacks is added to the
study. What another machine scored comes with its figures, and is then in the records here too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from checkpoints.problems import Problem
from searching.goals import DESCENTS, Way
from searching.optimiser import OptunaOptimiser, SearchError
from searching.records import Asked, Records, Scored, from_data, to_data
from searching.space import Axis, Point, Space

# What a trial, and a study, hold besides what Optuna keeps of them.
SCORED, ENDED = "alloy_scored", "alloy_ended"
# Seconds to wait while another process writes to a file of SQLite.
WAIT = 60
# Ways whose points follow each other in one order.
ALONE: tuple[Way, ...] = (*DESCENTS, "grid")


class Storage(NamedTuple):
    """Where a study is.

    Args:
        url: of the database, as SQLAlchemy takes it, such as `postgresql://user:password@host/name`
        joins: whether this machine scores trials of a search that another one began, and leaves the report to that
    """

    url: str
    joins: bool = False


class SharedStudy(OptunaOptimiser):
    """An optimiser that machines share.

    Args:
        space: whose points it chooses
        way: the sampler
        storage: where the study is
        name: of the study: the same for the same space, parents and data

    Raises:
        SearchError: the database cannot be reached, there is no search to join, or points of this way are not shared.
    """

    def __init__(self, space: Space, way: Way, storage: Storage, name: str):
        if way in ALONE:
            raise SearchError(Problem("storage-way", {"by": way}))
        self._storage = storage
        self._name = name
        # Numbers, in the study, of the trials that are in the records here.
        self._known: set[int] = set()
        super().__init__(space, way)

    def _opened(self, objectives: int, sampler: Any) -> Any:
        import optuna

        url, joins = self._storage
        place = {"connect_args": {"timeout": WAIT}} if url.startswith("sqlite") else {}
        with _guarded(url):
            storage = optuna.storages.RDBStorage(url, engine_kwargs=place)
            if joins and self._name not in optuna.study.get_all_study_names(storage):
                raise SearchError(Problem("no-shared-search"))
            if joins:
                sampler.reseed_rng()  # or it would draw the points that the first machine draws
            return optuna.create_study(
                storage=storage,
                sampler=sampler,
                study_name=self._name,
                directions=["minimize"] * objectives,
                load_if_exists=True,
            )

    # -- trials of this machine --------------------------------------------------------------------------

    def ask(self, point: Point | None = None) -> Point | None:
        with _guarded(self._storage.url):
            found = super().ask(point)
        self._known.add(self.number)
        return found

    @property
    def number(self) -> int:
        """That of the last trial of the records, in the study."""
        found: int = self._trials[-1].number
        return found

    def tell(self, number: int, values: Sequence[float]) -> None:
        with _guarded(self._storage.url):
            state = None if values else self._failed
            # The machine that began the search may have ended it meanwhile.
            self._study.tell(self._trials[number], list(values) or None, state, skip_if_finished=True)

    def publish(self, number: int, scored: Scored) -> None:
        """Add its figures to a trial that is about to be told."""
        with _guarded(self._storage.url):
            self._trials[number].set_user_attr(SCORED, json.dumps(to_data(scored)))

    def match(self, records: Records) -> None:
        """Add to the study what it lacks of the records, and ask again for trials that have not ended.

        A trial that was asked for and not told by a process that is gone has failed in the study.
        """
        with _guarded(self._storage.url):
            there = {trial.number: trial for trial in self._study.get_trials(deepcopy=False)}
            for _, asked in sorted(records.asked.items()):
                trial = there.get(-1 if asked.shared is None else asked.shared)
                self._match(asked, trial, records.scored.get((f"trial {asked.ask}", "search")))
                self._known.add(self.number)
                if self.number != asked.shared:
                    records.add(replace(asked, shared=self.number))

    def _match(self, asked: Asked, trial: Any, scored: Scored | None) -> None:
        """Find the study's trial of a record, or add one."""
        same = trial is not None and trial.params == dict(asked.point)
        if same and not trial.state.is_finished():
            self._study.tell(trial.number, state=self._failed)
            same = False
        if not scored:
            self.ask(asked.point)
        elif same:
            self._trials.append(trial)
        else:
            self._add(asked.point, scored)

    def _add(self, point: Point, scored: Scored) -> None:
        """Add a trial that has ended."""
        import optuna

        held = json.dumps(to_data(scored))
        self._study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState.COMPLETE if scored.told else self._failed,
                values=list(scored.told) or None,
                params=dict(point),
                distributions={axis.name: _distribution(axis) for axis in self._space.axes},
                user_attrs={SCORED: held},
            )
        )
        trials = reversed(self._study.get_trials(deepcopy=False))
        self._trials.append(next(trial for trial in trials if trial.user_attrs.get(SCORED) == held))

    # -- the other machines ------------------------------------------------------------------------------

    def elsewhere(self, first: int) -> Iterator[tuple[Asked, Scored]]:
        """Trials that other machines scored since this was last asked, as records.

        Args:
            first: number of the first of them in the records
        """
        with _guarded(self._storage.url):
            trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._known and SCORED in trial.user_attrs:
                self._known.add(trial.number)
                self._trials.append(trial)
                scored = from_data(json.loads(trial.user_attrs[SCORED]))
                assert isinstance(scored, Scored)
                asked = Asked(first, first, dict(trial.params), trial.number, elsewhere=True)
                yield asked, replace(scored, who=f"trial {first}")
                first += 1

    @property
    def is_ended(self) -> bool:
        """Whether the machine that began the search takes no more trials."""
        with _guarded(self._storage.url):
            return ENDED in self._study.user_attrs

    def end(self) -> None:
        """Take no more trials."""
        with _guarded(self._storage.url):
            self._study.set_user_attr(ENDED, True)


def _distribution(axis: Axis) -> Any:
    from optuna import distributions

    if axis.choices:
        return distributions.CategoricalDistribution(axis.choices)
    assert axis.low is not None and axis.high is not None
    if axis.integer:
        return distributions.IntDistribution(int(axis.low), int(axis.high))
    return distributions.FloatDistribution(axis.low, axis.high)


@contextmanager
def _guarded(url: str) -> Iterator[None]:
    """Make errors of the database problems, without its password."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (ImportError, OptunaError, SQLAlchemyError, ValueError) as error:
        try:
            place = make_url(url)
        except (SQLAlchemyError, ValueError):
            raise SearchError(Problem("storage-url")) from None
        # After the first line there may be a statement with its values.
        said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".replace(url, "")
        said = said.replace(str(place.password), "***") if place.password else said
        values = {"url": place.render_as_string(hide_password=True), "error": said[:300]}
        raise SearchError(Problem("storage-failed", values)) from None
