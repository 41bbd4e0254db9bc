"""How alike the models of a recipe are, before anything is merged: from a few rows of every matrix."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from evaluation import Cancelled, EvaluationError
from evaluation.weights import TensorLook, Weights, WeightsLook, look, open_weights
from merging import Plan
from ui.hub.account import Account
from ui.languages.translate import t
from ui.merge.start import line_of
from ui.server.internal_error import log_unexpected
from ui.widgets.heat_map import heat_map
from ui.widgets.html import text

# A few rows from either half tell cosines of large matrices to about a hundredth; each place is a request.
SAMPLE, PLACES, READERS = 1 << 14, 2, 8
HEARTBEAT = 0.5  # seconds after which a page that has gone is noticed


def similarity(plan: Plan, base: str | None, who: Account, allow_folders: bool) -> Iterator[str]:
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
        model.name if model.is_folder else f"{model.name}@{model.version}" for model in plan.parents
    )
    base_model = next((model for model in plan.parents if model.name == base), None)
    known = next((name for name in names if base_model and name.partition("@")[0] == base_model.name), None)
    others = [name for name in names if name != known]
    if len(names) < 2:
        raise EvaluationError(t("alike.one"))
    news: queue.SimpleQueue[tuple[int, int] | WeightsLook | Exception] = queue.SimpleQueue()
    cancel = threading.Event()

    def read() -> None:
        try:
            opened = {
                name: _matrices(open_weights(name, token=who.for_hub, allow_folders=allow_folders))
                for name in names
            }
            first = opened[known or others[0]]
            rest = [opened[name] for name in (others if known else others[1:])]
            found = look(
                first, rest, base=first if known else None, sample=SAMPLE, places=PLACES, readers=READERS,
                on_progress=lambda done, total: news.put((done, total)), cancel=cancel,
            )  # fmt: skip
            news.put(found)
        except Exception as error:
            news.put(error)

    yield line_of(t("alike.opening"))
    threading.Thread(target=read, name="similarity", daemon=True).start()
    try:
        while True:
            try:
                said = news.get(timeout=HEARTBEAT)
            except queue.Empty:
                yield line_of(t("alike.opening"))
                continue
            match said:
                case (done, total):
                    if news.empty():
                        yield line_of(t("alike.reading", done=done, total=total))
                case WeightsLook():
                    yield alike_card(said, subtracted=known is not None)
                    return
                case Cancelled():
                    return
                case EvaluationError():
                    raise said
                case Exception():
                    raise EvaluationError(t("unexpected", error=log_unexpected(said, who.token)))
    finally:
        cancel.set()


def alike_card(found: WeightsLook, *, subtracted: bool) -> str:
    """What was found, picture by picture.

    Args:
        found: of the base against the models; or of the first model against the others
        subtracted: whether it is the base
    """
    parents = list(dict.fromkeys(name for tensor in found.tensors for name in tensor.against))
    pairs = list(dict.fromkeys(pair for tensor in found.tensors for pair in tensor.between))
    parts = [
        f'<p class="alloy-quiet">{text(t("alike.meaning" if subtracted else "alike.meaning.plain"))}</p>'
    ]
    for pair in pairs if subtracted else ():
        one, two = map(_short, pair.split(" | "))
        parts.append(
            heat_map(
                t("alike.task_cosine", one=one, two=two),
                found.heat_map(partial(_of_pair, pair, "task_cosine")),
            )
        )
        parts.append(
            heat_map(
                t("alike.conflict", one=one, two=two),
                found.heat_map(partial(_of_pair, pair, "sign_conflict")),
            )
        )
    for parent in parents:
        if subtracted:
            title = t("alike.norm", model=_short(parent))
            parts.append(heat_map(title, found.heat_map(partial(_of_parent, parent, "change"))))
        else:
            title = t("alike.cosine", one=_short(found.model), two=_short(parent))
            parts.append(heat_map(title, found.heat_map(partial(_of_parent, parent, "cosine"))))
    lacking = sum(len(names) for names in found.lacking.values())
    if lacking:
        parts.append(f'<p class="alloy-quiet">{text(t("alike.lacking", count=lacking))}</p>')
    return "".join(parts)


def _of_pair(pair: str, figure: str, tensor: TensorLook) -> float | None:
    """A figure of two changes; None where one of the two changed nothing, and there is no direction to compare."""
    one, two = pair.split(" | ")
    if pair not in tensor.between or not (tensor.against[one].change and tensor.against[two].change):
        return None
    found: float | None = getattr(tensor.between[pair], figure)
    return found


def _of_parent(parent: str, figure: str, tensor: TensorLook) -> float | None:
    found: float | None = getattr(tensor.against[parent], figure) if parent in tensor.against else None
    return found


def _matrices(weights: Weights) -> Weights:
    """The matrices alone: vectors are many requests for few weights."""
    tensors = {name: it for name, it in weights.structure.tensors.items() if len(it.shape) > 1}
    return replace(weights, structure=replace(weights.structure, tensors=tensors))


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].partition("@")[0]
