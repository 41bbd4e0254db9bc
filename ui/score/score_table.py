"""The perplexities of a merge and its parents as a table, with what can be said of them."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from evaluation import Difference, Perplexity
from ui.languages.translate import remark_words, t
from ui.score.reading import TextRow
from ui.widgets.html import card, column, figure, scrolling, size, table, table_row, tag

# With fewer tokens, differences of a few percent are noise.
MIN_TOKENS = 1000


def score_table(
    rows: Sequence[TextRow], length: int, differences: Sequence[Difference] = (), notes: Sequence[str] = ()
) -> Markup:
    """The differences of the rows in words, the rows as a table, and the warnings that the numbers call for.

    Args:
        rows: a model each
        length: of the text in bytes
        differences: of the first model to others
        notes: more to say
    """
    scores = [row.score for row in rows if row.score]
    best = min((score.bits_per_byte for score in scores), default=None) if len(scores) > 1 else None
    same_tokens = len({score.tokens for score in scores}) <= 1
    keys = ("score.perplexity", "score.bits", "score.tokens", "score.seconds")
    columns = [column(t("score.model")), *(column(t(key), of_figures=True) for key in keys)]
    body = [_row(row, best, same_tokens) for row in rows]
    caption = t("score.caption", count=len(rows), bytes=size(length))
    verdicts = [" ".join(map(remark_words, found.remarks)) for found in differences]
    # A difference says by itself that its tokenizers differ.
    said = [*notes, *_warnings(scores, same_tokens or bool(differences))]
    shown = scrolling(table(columns, body, caption=caption, style="alloy-scores"))
    return card([map(tag.p, verdicts), shown, map(tag.p, said)])


def _row(row: TextRow, best: float | None, same_tokens: bool) -> Markup:
    """Perplexities are compared only between models that split the text into the same tokens."""
    if row.trouble:
        return table_row(row.name, tag.td(f"{t('score.failed')}: {row.trouble}", colspan=4))
    if row.score is None:
        state = t("score.waiting") if row.done is None else f"{t('score.working')} {row.done:.0%}"
        return table_row(row.name, tag.td(state, colspan=4, class_="alloy-quiet"))
    score = row.score
    mark = " best" if score.bits_per_byte == best else ""
    return table_row(
        row.name,
        tag.td(f"{score.perplexity:.3f}", class_="number" + (mark if same_tokens else "")),
        tag.td(f"{score.bits_per_byte:.4f}", class_=f"number{mark}"),
        figure(score.tokens),
        figure(f"{score.seconds:.1f}"),
    )


def _warnings(scores: Sequence[Perplexity], same_tokens: bool) -> list[str]:
    if not scores:
        return []
    said = []
    fewest = min(score.tokens for score in scores)
    if fewest < MIN_TOKENS:
        said.append(t("score.short", tokens=fewest))
    if not same_tokens:
        said.append(t("score.tokenizers"))
    return [*said, _how(scores)]


def _how(scores: Sequence[Perplexity]) -> str:
    """Windows and BOS: what a reader needs to get the same numbers."""
    windows = dict.fromkeys((score.context, score.stride) for score in scores)
    said = [t("score.window", context=context, stride=stride) for context, stride in windows]
    with_bos = [score.model for score in scores if score.bos]
    if with_bos and len(with_bos) < len(scores):
        said.append(t("score.bos.some", names=", ".join(with_bos)))
    else:
        said.append(t("score.bos.all" if with_bos else "score.bos.none"))
    return " ".join(said)
