"""What the Hub allows an account, as its documentation says (October 2026): a merge that would meet a limit says so
before it begins.

https://huggingface.co/docs/hub/rate-limits, https://huggingface.co/docs/hub/storage-limits
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from checkpoints.problems import Problem
from checkpoints.repositories.repository import HUB_SCHEME
from merging.plan import Plan

# Bytes of a file that the Hub takes, and that it advises.
MOST_BYTES, ADVISED_BYTES = 500_000_000_000, 200_000_000_000
# Large files in a commit that it advises.
ADVISED_FILES = 100
# Seconds in which it counts the requests to its API. Downloads and uploads are not among them.
WINDOW = 300
# Requests that an output file takes: where it goes, a link, that it arrived, and a commit to the journal; and those of
# a whole merge besides.
REQUESTS_A_FILE, OTHER_REQUESTS = 4, 30


@dataclass(frozen=True)
class HubLimits:
    """What an owner of repositories is allowed.

    Args:
        requests: to the API in a window
        private_bytes: of private files; None: not known
    """

    requests: int
    private_bytes: int | None


FREE, PRO = HubLimits(1_000, 100_000_000_000), HubLimits(2_500, 1_000_000_000_000)


def limits_of(account: Mapping[str, Any], owner: str) -> HubLimits:
    """The limits of one who is signed in, for repositories of an owner.

    Args:
        account: as the Hub's `whoami` describes it
        owner: the account itself, or an organization; what one of these may store depends on its contract, which the
            Hub does not tell
    """
    limits = PRO if account.get("isPro") else FREE
    is_own = str(account["name"]).lower() == owner.lower()
    return limits if is_own else HubLimits(limits.requests, None)


def requests(plan: Plan) -> int:
    """Requests to the API that sending the result of a plan takes, about."""
    return REQUESTS_A_FILE * len(plan.shards) + OTHER_REQUESTS


def seconds_waiting(count: int, limits: HubLimits, seconds: float) -> float:
    """How long a merge waits for the Hub to answer again.

    Args:
        count: requests that it makes
        seconds: that it takes without waiting
    """
    windows = math.ceil(count / limits.requests)
    return max(0.0, (windows - 1) * WINDOW - seconds)


def refusals(plan: Plan, repo: str) -> list[Problem]:
    """The files of a plan's result that the Hub does not take."""
    return [
        Problem(
            "hub-file-too-large",
            {"file": shard.filename, "size": shard.bytes, "most": MOST_BYTES},
            HUB_SCHEME + repo,
        )
        for shard in plan.shards
        if shard.bytes > MOST_BYTES
    ]


def warnings(plan: Plan, repo: str, limits: HubLimits) -> Iterator[Problem]:
    """What the Hub advises against in a merge, what makes it wait, and what it may have no room for."""
    where = HUB_SCHEME + repo
    files = len(plan.shards)
    largest = max(plan.shards, key=lambda shard: shard.bytes, default=None)
    if largest and ADVISED_BYTES < largest.bytes <= MOST_BYTES:
        values = {"file": largest.filename, "size": largest.bytes, "most": ADVISED_BYTES}
        yield Problem("hub-file-large", values, where)
    if files > ADVISED_FILES:
        yield Problem("hub-many-files", {"files": files, "most": ADVISED_FILES}, where)
    count = requests(plan)
    if waiting := seconds_waiting(count, limits, plan.seconds):
        values = {"requests": count, "most": limits.requests, "minutes": math.ceil(waiting / 60)}
        yield Problem("hub-requests", values, where)
    if limits.private_bytes is not None and plan.bytes_out > limits.private_bytes:
        yield Problem("hub-private-room", {"size": plan.bytes_out, "most": limits.private_bytes}, where)
