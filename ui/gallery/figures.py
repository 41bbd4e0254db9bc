"""What a model card's `model-index` says of a merge: its scores, and how it differs from its parents.

Whoever wrote the card may have written anything: what has no finite number or an odd form is left out, and text is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Of one model: entries of each list that are read, figures that are kept, and characters of a name.
MOST_ENTRIES, MOST_FIGURES, MOST_CHARACTERS = 100, 12, 80
# Of these, less is better; of anything else more is.
_LESS_IS_BETTER = ("perplexity", "bits_per_byte", "bits_per_byte_difference", "loss", "ppl", "wer")
_DIFFERENCES = ("bits_per_byte_difference", "score_difference")


@dataclass(frozen=True)
class Figure:
    """A score.

    Args:
        kind: the type of the metric, as the card names it
        name: of the metric, for people
        data: what it was measured on
        value: a finite number
        interval: its 95 % interval; None if the card states none
    """

    kind: str
    name: str
    data: str
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Gain:
    """How much better a merge is than another model on the same data.

    Args:
        other: the other model
        kind: "bits_per_byte" or "score"
        data: what both were measured on
        value: above 0 if the merge is better
        interval: the 95 % interval of the value; None if the card states none
    """

    other: str
    kind: Literal["bits_per_byte", "score"]
    data: str
    value: float
    interval: tuple[float, float] | None = None

    @property
    def verdict(self) -> Literal["better", "worse", "open"]:
        """What the interval allows to say."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "open"
        return "better" if self.value > 0 else "worse"


def figures_of(index: object) -> tuple[tuple[Figure, ...], tuple[Gain, ...]]:
    """The scores of a `model-index`, and the differences to other models."""
    figures: dict[tuple[str, str], Figure] = {}
    gains: dict[tuple[str, str, str], Gain] = {}
    for data, metric in _metrics(index):
        kind, value = _text(metric.get("type")), _number(metric.get("value"))
        if value is None:
            continue
        found = metric.get("args")
        how = found if isinstance(found, dict) else {}
        interval = _interval(how.get("interval_95"))
        if kind in _DIFFERENCES:
            gain = _gain(kind, data, value, interval, _text(how.get("other")))
            if gain:
                gains.setdefault((gain.kind, data, gain.other), gain)
        else:
            name = _text(metric.get("name")) or kind
            figures.setdefault((name, data), Figure(kind, name, data, value, interval))
    return tuple(figures.values())[:MOST_FIGURES], tuple(gains.values())[:MOST_FIGURES]


def over_best_parent(gains: Sequence[Gain], parents: Sequence[str]) -> Gain | None:
    """The difference to the best of the parents, on the data for which most parents have one; None without any."""
    of_parents = [gain for gain in gains if gain.other.partition("@")[0] in parents]
    on: dict[tuple[str, str], list[Gain]] = {}
    for gain in of_parents:
        on.setdefault((gain.kind, gain.data), []).append(gain)
    most = max(on.values(), key=len, default=[])
    return min(most, key=lambda gain: gain.value, default=None)


def less_is_better(kind: str) -> bool:
    """Whether a metric of this type falls as a model gets better."""
    return kind.lower() in _LESS_IS_BETTER


def _gain(
    kind: str, data: str, value: float, interval: tuple[float, float] | None, other: str
) -> Gain | None:
    """A difference as a gain: bits fall as a model gets better."""
    if not other:
        return None
    if kind == "score_difference":
        return Gain(other, "score", data, value, interval)
    turned = (-interval[1], -interval[0]) if interval else None
    return Gain(other, "bits_per_byte", data, -value, turned)


def _metrics(index: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of the data and the metric, for each metric of a `model-index`."""
    for entry in _mappings(index):
        for result in _mappings(entry.get("results")):
            about = result.get("dataset")
            dataset = about if isinstance(about, dict) else {}
            data = _text(dataset.get("name")) or _text(dataset.get("type"))
            for metric in _mappings(result.get("metrics")):
                yield data, metric


def _mappings(value: object) -> list[dict[str, Any]]:
    return [one for one in value[:MOST_ENTRIES] if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value.strip()[:MOST_CHARACTERS] if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _interval(value: object) -> tuple[float, float] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = map(_number, value)
    return (low, high) if low is not None and high is not None and low <= high else None
