"""The one table of the Score tab: all that was found about a model, beside the others, below what it shows in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from evaluation.benchmarked import with_error
from ui.languages.translate import label, remark_words, t
from ui.score.benchmarks import DIGITS, BenchmarkAnswers
from ui.score.chat_check import Talked
from ui.score.findings import Finding, Findings
from ui.score.sizes import MeasuredModels
from ui.score.text import ScoredTexts
from ui.score.weights import Looked
from ui.widgets.html import Content, breakable, card, column, heading, scrolling, table, table_row, tag

# A row: its name, and what each model has there.
_Row = tuple[str, Mapping[str, Content]]


def overview(about: Findings) -> Markup:
    """The verdicts with their intervals, then a table with a column for each model and a part for each finding."""
    has_text = "text" in about.parts
    found = {kind: _rows(finding, has_text) for kind, finding in about.parts.items()}
    parts = {kind: rows for kind, rows in found.items() if rows}
    measured = [name for rows in parts.values() for _, cells in rows for name in cells]
    names = dict.fromkeys([about.name, *measured])
    verdicts = [verdict for finding in about.parts.values() for verdict in _verdicts(finding)]
    columns = [tag.td(), *(column(breakable(name), of_figures=True) for name in names)]
    body = [
        [
            _part(t(f"home.kind.{kind}"), len(names) + 1) if len(parts) > 1 else None,
            [_row(name, cells, names) for name, cells in rows],
        ]
        for kind, rows in parts.items()
    ]
    shown = scrolling(table(columns, body, style="alloy-scores"), focusable=True)
    title = heading(t("home.heading", model=about.name), 2)
    return card([title, [tag.p(words, class_="alloy-verdict") for words in verdicts], shown])


def _part(title: str, wide: int) -> Markup:
    return tag.tr(tag.th(title, colspan=wide, scope="colgroup", class_="alloy-quiet"))


def _row(name: str, cells: Mapping[str, Content], models: Mapping[str, None]) -> Markup:
    return table_row(name, (tag.td(cells.get(model, "–"), class_="number") for model in models))


def _verdicts(finding: Finding) -> list[str]:
    """What can be said of the differences to other models, with intervals."""
    match finding:
        case ScoredTexts():
            return [" ".join(map(remark_words, one.remarks)) for one in finding.differences]
        case BenchmarkAnswers():
            return [" ".join(map(remark_words, one.remarks)) for one in finding.pairs]
        case Looked() if not finding.found.sound:
            return [t("weights.unsound", model=finding.found.model)]
    return []


def _rows(finding: Finding, has_text: bool) -> list[_Row]:
    """The rows of a finding; with scores of a text, those of the same text beside sizes are left out."""
    match finding:
        case ScoredTexts():
            scores = finding.scores
            best = min(score.bits_per_byte for score in scores) if len(scores) > 1 else None
            bits = t("score.bits"), {one.model: _marked(one.bits_per_byte, best) for one in scores}
            if len({one.tokens for one in scores}) > 1:
                return [bits]  # perplexities of other tokens do not compare
            return [(t("score.perplexity"), {one.model: f"{one.perplexity:.3f}" for one in scores}), bits]
        case BenchmarkAnswers():
            return [
                (
                    f"{totals[0].name}, {totals[0].metric}",
                    {
                        one.model: with_error(total, DIGITS)
                        for one, total in zip(finding.found, totals, strict=True)
                    },
                )
                for totals in zip(*(one.totals for one in finding.found), strict=True)
            ]
        case Talked():
            counts = {one.model: sum(map(bool, (it.faults for it in one.answers))) for one in finding.checks}
            return [(t("overview.faults", count=len(finding.checks[0].answers)), counts)]
        case Looked():
            return [(t("weights.signal.change"), _changes(finding))]
        case MeasuredModels():
            names = [one.name for one in finding.report.footprints]
            return [
                (label(f"report.{code}"), dict(zip(names, cells, strict=True)))
                for code, *cells in finding.report.rows(remark_words)
                if not (has_text and code in ("perplexity", "bits_per_byte"))
            ]
    return []


def _marked(bits: float, best: float | None) -> Content:
    words = f"{bits:.4f}"
    return tag.b(words) if bits == best else words


def _changes(looked: Looked) -> dict[str, str]:
    """By parent, how far the model's tensors are from those of the parent: the mean over tensors."""
    found = looked.found
    held: dict[str, Sequence[float]] = {
        parent: [one.against[parent].change for one in found.tensors if parent in one.against]
        for parent in found.lacking
    }
    return {parent: f"{sum(changes) / len(changes):.4f}" for parent, changes in held.items() if changes}
