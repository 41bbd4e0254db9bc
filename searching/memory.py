"""What a process of a search holds in memory, estimated from the plan of its merge."""

from __future__ import annotations

from typing import NamedTuple

from evaluation.perplexity import held_by_logits
from merging import Plan
from searching.live_merge import held, room_to_keep

# Libraries that score, beside those that merge, measured with models of 1 and of 135 M weights.
LIBRARIES = 300_000_000
# Float32 tensors as wide as the logits that exist at once: these, and their gradient by way of their softmax.
LOGITS, LOGITS_OF_DERIVATIVES = 2, 4


class Needed(NamedTuple):
    """Bytes that a process needs.

    Args:
        least: in any case
        all_kept: besides, if all of the parents' changes are kept, so that none is read again
        derivatives: of `least`, what steps by gradient take
    """

    least: int
    all_kept: int
    derivatives: int

    def kept(self, free: int) -> int:
        """Bytes of the parents' changes that are kept where `free` bytes are free."""
        return min(self.all_kept, room_to_keep(free, self.least))


def needed(plan: Plan, *, heads: int = 0, tokens: int = 0, derivatives: bool = False) -> Needed:
    """What a process needs.

    Args:
        plan: of the merge
        heads: of teachers that are kept
        tokens: that go through the model together at most
        derivatives: whether it takes them
    """
    holds = held(plan)
    largest = 4 * max((tensor.elements for tensor in plan.tensors), default=0)
    passing = 4 * tokens * max(_widths(plan).values(), default=0)
    # A head has a row for each token.
    rows = max((tensor.shape[0] for tensor in plan.tensors if len(tensor.shape) == 2), default=0)
    logits = held_by_logits(tokens, rows, "cpu")
    scoring = LIBRARIES + LOGITS * logits + passing + heads * largest
    extra = 0
    if derivatives:
        # A gradient lives until its dot products are taken.
        extra = 4 * tokens * sum(_widths(plan).values()) + largest + (LOGITS_OF_DERIVATIVES - LOGITS) * logits
        # Changes that are not kept are read for their dot products, tensor by tensor.
        extra += holds.largest
    return Needed(holds.least + scoring + extra, holds.kept, extra)


def _widths(plan: Plan) -> dict[int, int]:
    """By layer, how many numbers of each token a backward pass needs, about: what goes into each matrix, and what comes
    out of it."""
    found: dict[int, int] = {}
    for tensor in plan.tensors:
        if tensor.layer is not None and len(tensor.shape) == 2:
            found[tensor.layer] = found.get(tensor.layer, 0) + sum(tensor.shape)
    return found
