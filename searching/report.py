"""What a search found, judged on the report part: how the winner compares, and what to take."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from evaluation.as_json import as_json
from evaluation.harness import BENCHMARKS
from evaluation.remark import Remark
from evaluation.report import markdown_row
from merging.methods.parameters import Scalar
from searching.figures import Compared, Figures, compare, excess, figure, holm, score
from searching.goals import PARTS, Goal, Part
from searching.names import Phrase, named, short_name
from searching.plan import SearchPlan
from searching.records import Records, Scored

LEVEL = 0.05
# Over how many of the best trials the spread of each number is shown.
BEST = 5

Verdict = Literal["better", "worse", "none", "short"]
Say = Callable[[Remark], str]
Ending = Literal["better", "worse", "none", "short", "guards", "no-winner", "unfinished"]


@dataclass(frozen=True)
class Comparison:
    """The winner beside another recipe, on the report part.

    Args:
        other: `average`, `given`, or `parent` and its name
        difference: of the scores; below 0 the winner is better
        interval: its 95 % interval; None with too few documents
        p: of the two-sided test
        adjusted: the same after Holm's correction for all comparisons
        verdict: better or worse, if the adjusted p is below 0.05; none; short with too few documents
        detectable: the least true difference that documents like these mostly show
        by_goal: difference and interval of each goal, not corrected
    """

    other: str
    difference: float
    interval: tuple[float, float] | None
    p: float | None
    adjusted: float | None
    verdict: Verdict
    detectable: float | None
    by_goal: Mapping[str, tuple[float, tuple[float, float] | None]]

    @property
    def word(self) -> Remark:
        """The verdict, for a table."""
        return Remark(_WORDS[self.verdict])

    @property
    def is_lost_by_correction(self) -> bool:
        """Whether the interval, which is not corrected, leaves out 0, and the corrected p shows no difference."""
        return (
            self.verdict == "none"
            and self.interval is not None
            and min(self.interval) * max(self.interval) > 0
        )


@dataclass(frozen=True)
class SearchReport:
    """What a search found.

    Args:
        ending: what is to be said of it
        advice: whose recipe to take: `winner`, `average`, `given` or a parent; "" while it is not finished
        winner: the trial that won; None if none kept the guards
        point: its values
        recipe: its text
        comparisons: with all others
        figures: of each goal, by recipe and part
        gains: how much better than the plain average the winner scored on each part
        broken: by how much the winner breaks each guard on the report part, of those that it breaks
        seeds: scores of the winner on the report part with other seeds, for methods that draw at random
        spread: lowest and highest value of each number among the best five trials
        front: of several goals, the trials than which no other is better in all of them, with their figures on the
            search part
        documents: of each goal, by part
        benchmarks: questions that were searched on, by public benchmark
        trials: how many ended, were stopped early and failed
        seconds: spent on all of it
        about: digests and settings, so that it can be repeated
    """

    ending: Ending
    advice: str
    winner: str | None
    point: Mapping[str, Scalar]
    recipe: str
    comparisons: tuple[Comparison, ...]
    figures: Mapping[str, Mapping[str, Mapping[Part, float]]]
    gains: Mapping[Part, float]
    broken: Mapping[str, float]
    seeds: Mapping[str, float]
    spread: Mapping[str, tuple[Scalar, Scalar]]
    front: Mapping[str, Mapping[str, float]]
    documents: Mapping[str, Mapping[Part, int]]
    benchmarks: Mapping[str, int]
    trials: Mapping[str, int]
    seconds: float
    about: Mapping[str, Any]

    @property
    def verdict(self) -> Remark:
        """What it comes to."""
        return _verdict(self)

    @property
    def corrected(self) -> Remark:
        """What its p are corrected for."""
        return Remark("search-corrected", {"count": len(self.comparisons)})

    @property
    def gained(self) -> Remark:
        """How much better than the plain average the winner scored on each part."""
        return _gains(self)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        found: dict[str, Any] = json.loads(as_json(asdict(self)))
        return {**found, "verdict": str(self.verdict)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchReport:
        """The report of `to_dict`.

        Raises:
            KeyError, TypeError: the data is of another form.
        """
        given = {field.name: data[field.name] for field in fields(cls)}
        given["comparisons"] = tuple(_comparison(each) for each in data["comparisons"])
        given["spread"] = {name: tuple(values) for name, values in data["spread"].items()}
        return cls(**given)

    def markdown(self, say: Say = str) -> str:
        """For people.

        Args:
            say: a remark in their language
        """
        return _markdown(self, say)

    def card(self) -> str:
        """The same, short, for a model card."""
        said = " ".join(map(str, _how(self)))
        return f"## {Remark('search-heading-how')}\n\n{self.verdict}\n\n{said}\n"


def _comparison(data: Mapping[str, Any]) -> Comparison:
    """A comparison from JSON, where tuples are lists."""

    def interval(ends: Sequence[float] | None) -> tuple[float, float] | None:
        return (ends[0], ends[1]) if ends else None

    by_goal = {name: (difference, interval(ends)) for name, (difference, ends) in data["by_goal"].items()}
    return Comparison(**{**data, "interval": interval(data["interval"]), "by_goal": by_goal})


def make_report(plan: SearchPlan, records: Records, winner: str | None, *, finished: bool) -> SearchReport:
    """Judge what is in the records.

    Args:
        plan: of the search
        records: of all recipes
        winner: the trial that was chosen; None if there is none
        finished: whether the report part was scored
    """
    judge = _Judge(plan, records, winner)
    comparisons = judge.comparisons() if finished and winner else ()
    broken = judge.broken() if finished and winner else {}
    ending, advice = _ending(winner, comparisons, broken, finished=finished)
    trials = list(records.trials())
    by = plan.space.settings.by
    point = records.asked[int(winner.removeprefix("trial "))].point if winner else {}
    return SearchReport(
        ending,
        advice,
        winner,
        point,
        plan.space.recipe(point).text if winner else "",
        comparisons,
        judge.figures(),
        judge.gains(),
        broken,
        judge.seeds(),
        judge.spread(),
        judge.front(),
        plan.data.counts(),
        {goal.source: _questions(plan, goal) for goal in plan.space.settings.goals if _is_public(goal)},
        {
            "ended": len(trials),
            "stopped": sum(one.state == "stopped" for _, one in trials),
            "failed": sum(one.state == "failed" for _, one in trials),
        },
        records.seconds,
        {
            "by": "gradient" if by == "auto" and any(one.gradient for _, one in trials) else by,
            "seed": plan.space.settings.seed,
            "split": asdict(plan.space.settings.shares),
            "space": _digest(plan.space.text),
            "data": _digest(json.dumps(plan.data.to_dict())),
            "parents": plan.parents,
        },
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_public(goal: Goal) -> bool:
    return goal.kind == "task" and any(goal.source.startswith(name) for name in BENCHMARKS)


def _questions(plan: SearchPlan, goal: Goal) -> int:
    return len(plan.data.of(goal, "search")) + len(plan.data.of(goal, "choice"))


@dataclass(frozen=True)
class _Judge:
    plan: SearchPlan
    records: Records
    winner: str | None

    @property
    def goals(self) -> Sequence[Goal]:
        return self.plan.space.settings.goals

    def of(self, who: str | None, part: Part) -> Scored | None:
        """What was scored to the end."""
        found = self.records.scored.get((who, part)) if who else None
        return found if found and found.state == "done" else None

    def others(self) -> list[str]:
        """What the winner is compared with: each recipe once."""
        space = self.plan.space
        same = space.recipe(space.start) == space.average()
        named = ["average", *([] if same else ["given"]), *(f"parent {name}" for name in space.parents())]
        return [who for who in named if self.of(who, "report")]

    def comparisons(self) -> tuple[Comparison, ...]:
        own = self.of(self.winner, "report")
        if own is None:
            return ()
        rivals = {who: self.records.scored[who, "report"].figures for who in self.others()}
        found = {who: compare(own.figures, figures, self.goals) for who, figures in rivals.items()}
        adjusted = holm({who: one.p for who, one in found.items()})
        return tuple(
            Comparison(
                who,
                one.difference,
                one.interval,
                one.p,
                adjusted[who],
                _judged(one, adjusted[who]),
                one.detectable,
                self.by_goal(own.figures, rivals[who]),
            )
            for who, one in found.items()
        )

    def by_goal(self, own: Figures, other: Figures) -> dict[str, tuple[float, tuple[float, float] | None]]:
        """Difference and interval of each goal, in the goal's own sense."""
        found = {}
        for goal in self.goals:
            if goal.is_guard or not own.get(goal.name):
                continue
            one = compare(own, other, [goal])
            sign = -1 if goal.higher_is_better else 1
            ends = one.interval and tuple(sorted(sign * end for end in one.interval))
            found[goal.name] = (sign * one.difference, ends)
        return found  # type: ignore[return-value]

    def broken(self) -> dict[str, float]:
        own = self.of(self.winner, "report")
        if own is None:
            return {}
        references = self.records.references(self.goals, self.plan.space.base(), "report")
        return {name: over for name, over in excess(own.figures, references, self.goals).items() if over > 0}

    def figures(self) -> dict[str, dict[str, dict[Part, float]]]:
        """Of each goal, by recipe and part, in the goal's own sense."""
        space = self.plan.space
        names = [*([self.winner] if self.winner else []), "average", "given"]
        names += [f"parent {name}" for name in space.parents()]
        names += [who for who, part in self.records.scored if part == "search" and who.startswith("start ")]
        return {
            goal.name: {
                who: {
                    part: (-1 if goal.higher_is_better else 1) * figure(one.figures[goal.name])
                    for part in PARTS
                    if (one := self.of(who, part)) and one.figures.get(goal.name)
                }
                for who in names
            }
            for goal in self.goals
        }

    def gains(self) -> dict[Part, float]:
        """How much lower the winner's score is than the average's."""
        found: dict[Part, float] = {}
        for part in PARTS:
            own, average = self.of(self.winner, part), self.of("average", part)
            if own and average:
                found[part] = score(average.figures, self.goals) - score(own.figures, self.goals)
        return found

    def seeds(self) -> dict[str, float]:
        return {
            who: score(one.figures, self.goals)
            for (who, part), one in self.records.scored.items()
            if part == "report" and ", seed " in who and one.state == "done"
        }

    def front(self) -> dict[str, dict[str, float]]:
        counted = [goal for goal in self.goals if not goal.is_guard]
        if len(counted) < 2:
            return {}
        found = {
            one.who: [figure(one.figures[goal.name]) for goal in counted]
            for _, one in self.records.trials()
            if one.state == "done"
        }
        best = {who: own for who, own in found.items() if not any(_beats(one, own) for one in found.values())}
        signs = [-1 if goal.higher_is_better else 1 for goal in counted]
        return {
            who: {goal.name: sign * one for goal, sign, one in zip(counted, signs, own, strict=True)}
            for who, own in best.items()
        }

    def spread(self) -> dict[str, tuple[Scalar, Scalar]]:
        done = [(asked, one) for asked, one in self.records.trials() if one.state == "done"]
        best = sorted(done, key=lambda pair: score(pair[1].figures, self.goals))[:BEST]
        found: dict[str, tuple[Scalar, Scalar]] = {}
        for axis in self.plan.space.axes:
            values = [asked.point[axis.name] for asked, _ in best]
            if values and not axis.choices:
                found[axis.name] = min(values), max(values)
        return found


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether figures are better in one goal and worse in none."""
    return one != other and all(own <= beside for own, beside in zip(one, other, strict=True))


def _judged(found: Compared, adjusted: float | None) -> Verdict:
    if adjusted is None or math.isnan(found.difference):
        return "short"
    if adjusted >= LEVEL:
        return "none"
    return "better" if found.difference < 0 else "worse"


def _ending(
    winner: str | None,
    comparisons: Sequence[Comparison],
    broken: Mapping[str, float],
    *,
    finished: bool,
) -> tuple[Ending, str]:
    """What to say, and whose recipe to take: the simplest that the winner is not better than."""
    if not finished:
        return "unfinished", ""
    if winner is None:
        return "no-winner", "average"
    if broken:
        return "guards", "average"
    if not comparisons or any(one.verdict == "short" for one in comparisons):
        return "short", "average"
    worse = [one for one in comparisons if one.verdict == "worse"]
    if worse:
        return "worse", max(worse, key=lambda one: one.difference).other
    equal = [one for one in comparisons if one.verdict == "none"]
    if not equal:
        return "better", "winner"
    simple = [one.other for one in equal if one.other in ("average", "given")]
    return "none", simple[0] if simple else max(equal, key=lambda one: one.difference).other


# -- words -----------------------------------------------------------------------------------------------

_WORDS = {
    "better": "search-is-better",
    "worse": "search-is-worse",
    "none": "search-is-equal",
    "short": "search-is-short",
}
_PARTS = ("search-part-search", "search-part-choice", "search-part-report")
_GAINS = {"search": "search-gain-search", "choice": "search-gain-choice", "report": "search-gain-report"}


def _difference(report: SearchReport, one: Comparison) -> Phrase:
    low, high = one.interval or (None, None)
    values = {"value": one.difference, "low": low, "high": high}
    return Remark("search-difference", {**values, "p": one.adjusted, "count": len(report.comparisons)}).phrase


def _verdict(report: SearchReport) -> Remark:
    by_name = {one.other: one for one in report.comparisons}
    match report.ending:
        case "unfinished":
            return Remark("search-unfinished")
        case "no-winner":
            return Remark("search-no-winner")
        case "guards":
            limits = [
                Remark("search-limit", {"name": name, "over": over}).phrase
                for name, over in report.broken.items()
            ]
            return Remark("search-guards", {"limits": limits})
        case "short":
            return Remark("search-short")
        case "better":
            against = by_name.get("average") or report.comparisons[0]
            others = [named(one.other) for one in report.comparisons]
            values = {"other": named(against.other), "difference": _difference(report, against)}
            return Remark("search-better", {"others": others, **values})
        case "worse" | "none":
            one = by_name[report.advice]
            values = {"other": named(one.other), "difference": _difference(report, one)}
            if report.ending == "worse":
                return Remark("search-worse", values)
            if one.is_lost_by_correction:
                return Remark("search-none-corrected", {"count": len(report.comparisons), **values})
            return Remark("search-none", values)


def _how(report: SearchReport) -> list[Remark]:
    """How the recipe was found."""
    counts = {part: sum(found[part] for found in report.documents.values()) for part in PARTS}
    values = {"trials": report.trials["ended"], "by": report.about["by"], "seed": report.about["seed"]}
    ended = {"stopped": report.trials["stopped"], "failed": report.trials["failed"]}
    of = {"search": counts["search"], "choice": counts["choice"], "report": counts["report"]}
    said = [Remark("search-how", {**values, **ended, **of, "texts": ", ".join(report.documents)})]
    said += [
        Remark("search-benchmark", {"count": count, "name": name})
        for name, count in report.benchmarks.items()
    ]
    return said


def _gains(report: SearchReport) -> Remark:
    gains = [Remark(_GAINS[part], {"value": gain}).phrase for part, gain in report.gains.items()]
    return Remark("search-gains" if "report" in report.gains else "search-gains-so-far", {"gains": gains})


def _markdown(report: SearchReport, say: Say) -> str:
    lines = [f"# {say(Remark('search-heading'))}", "", say(report.verdict), ""]
    lines += [" ".join(map(say, _how(report))), ""]
    if report.comparisons:
        lines += _comparisons(report, say)
    for goal, rows in report.figures.items():
        lines += [f"## {goal}", "", *_columns(say, ["", *_PARTS])]
        for who, found in rows.items():
            values = [f"{found[part]:.4f}" if part in found else "" for part in PARTS]
            lines.append(markdown_row([_called(report, who, say), *values]))
        lines.append("")
    if report.gains:
        lines += [say(_gains(report)), ""]
    if report.seeds:
        seeds = ", ".join(f"{value:.4f}" for value in report.seeds.values())
        lines += [say(Remark("search-seeds", {"values": seeds})), ""]
    if report.spread:
        lines += _spread(report, say)
    if report.recipe:
        heading = say(Remark("search-heading-recipe"))
        lines += [f"## {heading}", "", "```yaml", report.recipe.strip(), "```", ""]
    return "\n".join(lines)


def _comparisons(report: SearchReport, say: Say) -> list[str]:
    """The table of the winner beside others."""
    columns = [
        "",
        "search-column-difference",
        "search-column-interval",
        "search-column-p",
        "search-column-verdict",
    ]
    lines = [f"## {say(Remark('search-heading-beside'))}", "", *_columns(say, columns)]
    for one in report.comparisons:
        ends = say(Remark("search-is-short"))
        if one.interval:
            ends = say(Remark("search-interval", {"low": one.interval[0], "high": one.interval[1]}))
        p = "" if one.adjusted is None else f"{one.adjusted:.2g}"
        who = _called(report, one.other, say)
        lines.append(markdown_row([who, f"{one.difference:+.4f}", ends, p, say(one.word)]))
    lines += ["", say(report.corrected)]
    known = [one.detectable for one in report.comparisons if one.detectable]
    if known:
        lines += ["", say(Remark("search-shows", {"value": max(known)}))]
    return [*lines, ""]


def _spread(report: SearchReport, say: Say) -> list[str]:
    """The table of the numbers that were searched."""
    columns = ["", "recipe-best", "search-column-five"]
    lines = [f"## {say(Remark('search-heading-numbers'))}", "", *_columns(say, columns)]
    for name, (low, high) in report.spread.items():
        own = report.point.get(name)
        shown = f"{own:.4g}" if isinstance(own, float) else str(own)
        ends = say(Remark("search-ends", {"low": f"{low:.4g}", "high": f"{high:.4g}"}))
        lines.append(markdown_row([short_name(name), shown, ends]))
    return [*lines, ""]


def _called(report: SearchReport, who: str, say: Say) -> str:
    return say(Remark("search-named", {"who": named("best" if who == report.winner else who)}))


def _columns(say: Say, codes: Sequence[str]) -> list[str]:
    """The head of a table; figures are on the right."""
    heads = [say(Remark(code)) if code else "" for code in codes]
    return [markdown_row(heads), "|---|" + "--:|" * (len(codes) - 1)]
