"""A search on a rented machine. What it found comes back in its log, since nothing else of the machine is left; its
records are copied to the repository of the program, from where the job's second attempt continues.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from huggingface_hub import HfApi

from merging import MergeError
from merging.rented_machines import Needs
from ui.hub.account import Account
from ui.rented.code import REPOSITORY
from ui.rented.job import JobWatch, packed, rent
from ui.server.jobs import JobStatus, MergeRequest, Rented, SearchWork
from ui.server.search_state import SearchState
from ui.server.searches import MAX_SPACE, SearchService, advised, found_at

# A constant: what varies is in the environment.
SCRIPT = """cd "$(mktemp -d)"
echo "$SPACE" | base64 -d | gunzip > space.yaml
echo "$TEXTS" | base64 -d | gunzip > texts.json
alloy search run space.yaml --to found --texts texts.json --backup "hf://$OWNER/$BACKUP" --progress jsonl
"""


def needs_of(
    searches: SearchService, text: str, texts: Mapping[str, Sequence[str]], who: Account, visitor: str
) -> Needs:
    """What a search takes.

    Raises:
        MergeError: it cannot be searched.
    """
    _, plan = searches.plan(text, texts, who, visitor)
    return Needs.lasting(plan.memory_bytes, 60 * (plan.space.settings.minutes or 60))


def begin(
    searches: SearchService,
    text: str,
    texts: Mapping[str, Sequence[str]],
    who: Account,
    visitor: str,
    machine: str,
    seconds: float,
) -> str:
    """Begin a search on a rented machine, and follow it as a job of this server; the job's id.

    Args:
        text, texts: see `SearchService.start`
        visitor: who it counts for
        machine, seconds: see `rent`

    Raises:
        MergeError: it cannot be searched; see `rent`; or the visitor has too many already.
    """
    board = searches.service.board
    board.check_room_for_rented(visitor)
    merge, plan = searches.plan(text, texts, who, visitor)
    space = plan.space
    asked = {"SPACE": packed(space.text), "TEXTS": packed(json.dumps(texts, ensure_ascii=False))}
    key = hashlib.sha256("".join(asked.values()).encode()).hexdigest()[:32]
    environment = {**asked, "BACKUP": REPOSITORY}
    rented = rent(
        SCRIPT, key, who, machine, seconds, environment=environment, extras=["search"], work="search"
    )
    names = tuple(model.name for model in merge.parents)
    request = MergeRequest(merge.recipe, seconds=seconds, rented=rented)
    state = SearchState(trials=space.settings.trials)
    title = " + ".join(name.rpartition("/")[2] for name in names)
    return board.submit(visitor, title, names, follow(searches, rented, who, visitor), request, state)


def found_again(searches: SearchService, job: JobStatus, who: Account, visitor: str) -> JobStatus | None:
    """Follow a search that an earlier server began; None if that is not possible.

    Args:
        job: from what the browser kept, with its rented machine
    """
    rented = job.request.rented
    if who.token is None or rented is None:
        return None
    work, board = follow(searches, rented, who, visitor), searches.service.board
    try:
        board.submit(visitor, job.title, job.models, work, job.request, SearchState(), job_id=job.id)
    except MergeError:
        return None
    return board.status(job.id)


def follow(searches: SearchService, rented: Rented, who: Account, visitor: str) -> SearchWork:
    """The work of watching a rented machine to its end, for the board of jobs."""
    api = HfApi(token=who.token)

    def work(report: Callable[[Any], None], cancel: Any) -> SearchState:
        found = _SearchWatch(rented, api, report).until_end(cancel)
        # The log is all that is known of it: what it advises has to be a merge that can be made.
        checked = searches.service.plan(found.recipe, None, who, visitor)
        if found.recipe and not checked.ok:
            raise MergeError(checked.problems)
        if found.report and found.recipe:
            searches.service.found.add(visitor, found.recipe, found.report.card())
        return replace(found, layers=max((model.layers for model in checked.parents), default=0))

    return work


def _unpacked(text: str) -> str:
    """The text of a space in a variable of the environment.

    Raises:
        ValueError, zlib.error: it is none.
    """
    # A small archive can hold gigabytes.
    found = zlib.decompressobj(wbits=31).decompress(base64.b64decode(text), 4 * MAX_SPACE + 1)
    if len(found) > 4 * MAX_SPACE:
        raise ValueError
    return found.decode()


class _SearchWatch(JobWatch[SearchState]):
    def __init__(self, rented: Rented, api: HfApi, report: Callable[[Any], None]):
        super().__init__(rented, api, report)
        self._state = SearchState()
        self._done: Mapping[str, Any] | None = None
        self._values: dict[int, float | None] = {}  # by trial: a second attempt may score one again

    def heard(self, data: Mapping[str, Any]) -> None:
        if data["phase"] == "done":
            self._done = data["report"]
            return
        who, value, state = str(data["who"]), _number(data["value"]), self._state
        if data["part"] == "search" and who.startswith("trial "):
            self._values[int(who.removeprefix("trial "))] = value
            state = replace(state, values=tuple(self._values.values()))
        elif data["part"] == "search" and value is not None:
            state = replace(state, baselines={**state.baselines, who: value})
        least = _number(data["least"])
        self._state = replace(
            state,
            phase=str(data["phase"]),
            trials=int(data["trials"]),
            seconds_left=_number(data["seconds_left"]),
            least=state.least if least is None else least,
        )
        self.report(self._state)

    def outcome(self, seconds: float) -> SearchState:
        from searching import SearchReport, read_space

        try:
            space = read_space(_unpacked(self.variables["SPACE"]))
            report = SearchReport.from_dict(self._done or {})
            state = found_at(space, report.point, self._state) if report.winner else self._state
            str(report.verdict)  # it has words here
            recipe = advised(space, report, state)
        except (KeyError, TypeError, ValueError, IndexError, zlib.error) as error:
            raise MergeError(self.failed(type(error).__name__)) from error
        return replace(state, phase="report", seconds_left=0.0, recipe=recipe, report=report)


def _number(value: object) -> float | None:
    """A number; None for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
