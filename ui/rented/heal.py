"""A training on a rented machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from huggingface_hub import HfApi

from checkpoints.names import is_in_bucket, model_name
from checkpoints.problems import PlanError
from checkpoints.repositories.repository import HUB_SCHEME
from evaluation.remark import Remark
from evaluation.remark_texts import REMARKS
from healing import price
from merging import MergeError, Problem
from merging.rented_machines import Needs
from ui.hub.account import Account
from ui.rented.job import JobWatch, known, packed, rent
from ui.rented.result import verified_result
from ui.server.heal_state import HealState
from ui.server.heals import HealService
from ui.server.jobs import HealWork, MergeRequest, Rented

# A constant: what varies is in the environment, or in "$@". A model that did not heal is no failure of the machine.
SCRIPT = """cd "$(mktemp -d)"
echo "$CHAIN" | base64 -d | gunzip > chain.yaml
alloy heal run chain.yaml --to "$TO" --progress jsonl "$@" || [ $? -eq 3 ]
"""


def needs_of(heals: HealService, chain: str, who: Account, visitor: str) -> Needs:
    """What a training takes.

    Raises:
        MergeError: it cannot be planned.
    """
    plan = heals.plan(chain, who, visitor, elsewhere=True)
    if not plan.ok:
        raise PlanError(plan.problems)
    return price.needs_of(plan)


def begin(
    heals: HealService,
    chain: str,
    to: str,
    who: Account,
    visitor: str,
    machine: str,
    seconds: float,
    *,
    private: bool = True,
) -> str:
    """Begin a training on a rented machine, and follow it as a job of this server; the job's id.

    Args:
        chain: a recipe and a document with `train:`
        to: destination on the Hub
        visitor: who it counts for
        machine, seconds: see `rent`

    Raises:
        MergeError: it cannot be trained; see `rent`; or the visitor has too many already.
    """
    board = heals.service.board
    board.check_room_for_rented(visitor, to)
    if not to.startswith(HUB_SCHEME) or is_in_bucket(to):
        raise MergeError(Problem("rented-heal-elsewhere"))
    plan = heals.plan(chain, who, visitor, elsewhere=True)
    if not plan.ok:
        raise PlanError(plan.problems)
    rented = rent(
        SCRIPT,
        plan.key[:32],
        who,
        machine,
        seconds,
        options=[] if private else ["--public"],
        environment={"CHAIN": packed(chain), "TO": to},
        extras=["healing"],
        work="heal",
    )
    request = MergeRequest(
        plan.training.recipe_text,
        to,
        private,
        seconds=seconds,
        rented=rented,
        training=plan.training.document,
    )
    models = (plan.teacher, *(model.name for model in plan.merge.parents))
    named = tuple(dict.fromkeys(filter(None, models)))
    state = HealState(steps=plan.training.arguments.max_steps)
    return board.submit(visitor, model_name(to), named, follow(request, who), request, state)


def follow(request: MergeRequest, who: Account) -> HealWork:
    """The work of watching a rented machine to its end, for the board of jobs."""
    rented = request.rented
    assert rented

    def work(report: Callable[[Any], None], cancel: Any) -> HealState:
        return _HealWatch(rented, request.to, HfApi(token=who.token), report).until_end(cancel)

    return work


class _HealWatch(JobWatch[HealState]):
    def __init__(self, rented: Rented, to: str, api: HfApi, report: Callable[[Any], None]):
        super().__init__(rented, api, report)
        self._to = to
        self._state = HealState()
        self._began: float | None = None
        self._done: Mapping[str, Any] | None = None

    def heard(self, data: Mapping[str, Any]) -> None:
        if data["phase"] == "done":
            self._done = data
            return
        step, steps, loss = int(data["step"]), int(data["of"]), float(data["loss"])
        now = time.monotonic()
        self._began = self._began or now
        left = (now - self._began) / (step - 1) * (steps - step) if step > 1 else None
        self._state = HealState("training", steps, (*self._state.losses, loss), left)
        self.report(self._state)

    def outcome(self, seconds: float) -> HealState:
        done = self._done
        if done is None:
            raise MergeError(self.failed(""))
        try:
            state = HealState(
                "judged",
                self._state.steps,
                tuple(map(float, done["losses"])),
                0.0,
                bool(done["healed"]),
                tuple((str(name), float(one), float(bits)) for name, one, bits in done["scores"]),
                tuple(known(_remark, done["remarks"], REMARKS)),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise MergeError(self.failed(type(error).__name__)) from error
        if not isinstance(done.get("result"), dict):
            return state
        result = verified_result(self.api, self._to, done["result"], 0, seconds)
        return replace(state, result=result)


def _remark(data: Any) -> Remark:
    return Remark(str(data["code"]), dict(data["values"]))
