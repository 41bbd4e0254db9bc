"""How similar the models of a recipe are, before anything is merged: from a few rows of every matrix."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from markupsafe import Markup

from checkpoints import Token
from checkpoints.problems import Problem
from evaluation import Cancelled, EvaluationError
from evaluation.tensor_stats import TensorStats
from evaluation.weights import Weights, WeightsReport, inspect_weights, open_weights
from merging import Plan
from ui.hub.account import Account
from ui.languages.translate import t
from ui.server.internal_error import log_unexpected
from ui.server.model_process import MODELS
from ui.server.work import watched
from ui.widgets.heat_map import heat_map
from ui.widgets.html import html, quiet, status

# A few rows from either half give cosines of large matrices to about a hundredth; each place is a request.
SAMPLE, PLACES, READERS = 1 << 14, 2, 8


def compared(
    names: Sequence[str], begins_with_base: bool, token: Token, allow_folders: bool
) -> Iterator[tuple[int, int] | WeightsReport | None]:
    """Compare the matrices of models; yields how many are done, and the report."""

    def read(report: Callable[[tuple[int, int]], None], cancel: threading.Event) -> WeightsReport:
        first, *rest = [
            _matrices(open_weights(name, token=token, allow_folders=allow_folders)) for name in names
        ]
        return inspect_weights(
            first, rest, base=first if begins_with_base else None, sample=SAMPLE, places=PLACES, readers=READERS,
            on_progress=lambda *done_and_total: report(done_and_total), cancel=cancel,
        )  # fmt: skip

    return watched(read)


def similarity(plan: Plan, base: str | None, who: Account, allow_folders: bool) -> Iterator[Markup]:
    """Compare the models of a plan.

    Args:
        plan: without problems
        base: of the recipe, whose changes are then compared too
        who: reads
        allow_folders: whether models may be folders of this machine

    Yields:
        A line while it reads, and in the end the pictures.

    Raises:
        EvaluationError: a model cannot be read so, or there is nothing to compare.
    """
    names = dict.fromkeys(
        model.name if model.commit is None else f"{model.name}@{model.version}" for model in plan.parents
    )
    if len(names) < 2:
        raise EvaluationError(Problem("one-model"))
    base_model = next((model for model in plan.parents if model.name == base), None)
    known = next((name for name in names if base_model and name.partition("@")[0] == base_model.name), None)
    ordered = [known] if known else []
    ordered += [name for name in names if name != known]

    line = status(t("alike.opening"))
    yield line
    try:
        asked = (ordered, known is not None, who.for_hub, allow_folders)
        with closing(MODELS.stream(compared, *asked)) as reading:
            for news in reading:
                if isinstance(news, WeightsReport):
                    yield alike_card(news, subtracted=known is not None)
                    return
                if news is not None:
                    line = status(t("alike.reading", done=news[0], total=news[1]))
                yield line
    except Cancelled:
        return
    except EvaluationError:
        raise
    except Exception as error:
        raise EvaluationError(Problem("defect", {"error": log_unexpected(error, who.token)})) from None


def alike_card(found: WeightsReport, *, subtracted: bool) -> Markup:
    """What was found, picture by picture.

    Args:
        found: of the base against the models; or of the first model against the others
        subtracted: whether it is the base
    """
    parents = list(dict.fromkeys(name for tensor in found.tensors for name in tensor.against))
    meaning = quiet(t("alike.meaning" if subtracted else "alike.meaning.plain"))
    if subtracted:
        pictures = [*_of_pairs(found), *(_size_of_change(found, parent) for parent in parents)]
    else:
        pictures = [_cosine(found, parent) for parent in parents]
    lacking = sum(len(names) for names in found.lacking.values())
    return html(meaning, pictures, quiet(t("alike.lacking", count=lacking)) if lacking else None)


def _of_pairs(found: WeightsReport) -> Iterator[Markup]:
    """Two pictures for each two changes."""
    for pair in dict.fromkeys(pair for tensor in found.tensors for pair in tensor.between):
        one, two = map(_short, pair.split(" | "))
        for key, figure in (("alike.task_cosine", "task_cosine"), ("alike.conflict", "sign_conflict")):
            yield heat_map(t(key, one=one, two=two), found.heat_map(partial(_of_pair, pair, figure)))


def _size_of_change(found: WeightsReport, parent: str) -> Markup:
    title = t("alike.norm", model=_short(parent))
    return heat_map(title, found.heat_map(partial(_of_parent, parent, "change")))


def _cosine(found: WeightsReport, parent: str) -> Markup:
    title = t("alike.cosine", one=_short(found.model), two=_short(parent))
    return heat_map(title, found.heat_map(partial(_of_parent, parent, "cosine")))


def _of_pair(pair: str, figure: str, tensor: TensorStats) -> float | None:
    """A figure of two changes; None where one of the two changed nothing, and there is no direction to compare."""
    one, two = pair.split(" | ")
    if pair not in tensor.between or not (tensor.against[one].change and tensor.against[two].change):
        return None
    found: float | None = getattr(tensor.between[pair], figure)
    return found


def _of_parent(parent: str, figure: str, tensor: TensorStats) -> float | None:
    found: float | None = getattr(tensor.against[parent], figure) if parent in tensor.against else None
    return found


def _matrices(weights: Weights) -> Weights:
    """The matrices alone: vectors are many requests for few weights."""
    tensors = {name: it for name, it in weights.structure.tensors.items() if len(it.shape) > 1}
    return replace(weights, structure=replace(weights.structure, tensors=tensors))


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].partition("@")[0]
