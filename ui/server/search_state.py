"""What a search has found so far, as its visitor may see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searching import SearchReport


@dataclass(frozen=True)
class SearchState:
    """A search at one moment. Scores are of the search part; lower is better.

    Args:
        phase: "start", "baselines", "trials", "choice" or "report"
        trials: the most there will be
        values: the score of each trial that ended; None for one that was stopped early or failed
        baselines: scores by name: `given`, `average`, or `parent` and the model
        recipe: the best so far, and in the end the one that the report advises; empty before the first trial
        coefficients: its searched numbers by name; several of one name are a gradient over the layers
        layers: of the models
        seconds_left: an estimate; None before the first trial
        least: the least difference that the report part mostly shows; None while unknown
        report: once the report part was scored
    """

    phase: str = "start"
    trials: int = 0
    values: tuple[float | None, ...] = ()
    baselines: Mapping[str, float] = field(default_factory=dict)
    recipe: str = ""
    coefficients: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    layers: int = 0
    seconds_left: float | None = None
    least: float | None = None
    report: SearchReport | None = None

    @property
    def best(self) -> float | None:
        """The best score so far."""
        return min((value for value in self.values if value is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        plain = {key: value for key, value in vars(self).items() if key != "report"}
        report = self.report.to_dict() if self.report else None
        return {**asdict(SearchState(**plain)), "best": self.best, "report": report}
