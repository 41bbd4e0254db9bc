"""What is known of a model's layers, and how far a training is, as pictures and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from ui.languages.translate import remark_words, t
from ui.server.heal_state import HealState
from ui.server.heals import Candidate, LayersFound
from ui.widgets.html import (
    Content,
    alert,
    bar,
    column,
    duration,
    figure,
    html,
    part,
    quiet,
    scrolling,
    table,
    table_row,
    tag,
)

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 440, 150, 48, 24, 10


def layers_found_card(found: LayersFound) -> Markup:
    """A bar for each layer, and the cuts that were tried."""
    picture = tag.svg(
        list(_bars(found)), class_="alloy-trials", role="img", viewBox=f"0 0 {WIDTH} {HEIGHT}",
        aria_label=t("heal.layers.label", model=found.model, values=_in_words(found.by_layer)),
    )  # fmt: skip
    return html(part(t("heal.layers", model=found.model)), scrolling(picture, focusable=True), _tried(found))


def _in_words(values: Sequence[float]) -> str:
    return ", ".join(f"{number}: {value:.2f}" for number, value in enumerate(values))


def _bars(found: LayersFound) -> Iterator[Markup]:
    """Influence, by its square root: the first layer's is tens of times that of most others."""
    best = set(found.tried[0].dropped) if found.tried else set()
    room = (WIDTH - LEFT) / max(len(found.by_layer), 1)
    most = max([*found.by_layer, 1e-9]) ** 0.5
    yield tag.path(class_="axis", d=f"M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH}")
    for number, value in enumerate(found.by_layer):
        tall = round((HEIGHT - BOTTOM - TOP) * max(value, 0.0) ** 0.5 / most, 1)
        said = tag.title(t("heal.layer", number=number, value=f"{value:.3f}"))
        x, y = round(LEFT + number * room + 1, 1), round(HEIGHT - BOTTOM - tall, 1)
        kind = "layer dropped" if number in best else "layer"
        yield tag.rect(said, class_=kind, x=x, y=y, width=round(room - 2, 1), height=tall)
        if number % 5 == 0:
            yield tag.text(str(number), x=x, y=HEIGHT - 8)
    yield tag.text(
        t("heal.influence"), x=WIDTH - 6, y=TOP + 8, text_anchor="end"
    )  # the first bar is the tallest


def _tried(found: LayersFound) -> Content:
    if found.whole is None:
        return quiet(t("heal.trying"))
    columns = [
        column(t("heal.left_out")),
        column(t("heal.perplexity"), of_figures=True),
        column(t("heal.cost"), of_figures=True),
    ]
    rows = [table_row(t("heal.nothing"), figure(f"{found.whole:.2f}"), figure(""))]
    rows += [table_row(one.name, figure(f"{one.perplexity:.2f}"), figure(_cost(one))) for one in found.tried]
    shown = scrolling(table(columns, rows, caption=t("heal.tried.caption")), focusable=True)
    return [shown, quiet(t("heal.tried.meaning"))]


def _cost(one: Candidate) -> str:
    return "-" if one.low is None or one.high is None else f"{one.low:.3f} – {one.high:.3f}"


def heal_progress(title: str, found: HealState) -> Markup:
    """A running training: a bar, the loss, and the time that is left."""
    numbers = [t(f"jobs.phase.{found.phase}")]
    if found.losses:
        numbers.append(t("heal.step", number=len(found.losses), of=found.steps))
        numbers.append(t("heal.loss", loss=f"{found.losses[-1]:.4f}"))
    if found.seconds_left:
        numbers.append(t("jobs.left", time=duration(found.seconds_left)))
    done = round(100 * len(found.losses) / max(found.steps, 1))
    filled = bar(min(done, 99), t("jobs.progress", title=title))
    return html(filled, tag.div(map(tag.span, numbers), class_="alloy-numbers"), loss_curve(found.losses))


def healed(found: HealState) -> Markup:
    """A finished training: whether it helped, before beside after, and the loss."""
    if found.result is None:
        said: Content = alert(t("heal.not_healed"))
    else:
        said = tag.p(t("heal.healed" if found.healed else "heal.kept"), class_="alloy-result")
    columns = [
        column(t("heal.model")),
        column(t("heal.perplexity"), of_figures=True),
        column(t("heal.bits"), of_figures=True),
    ]
    rows = [
        table_row(t(f"heal.{name}"), figure(f"{perplexity:.2f}"), figure(f"{bits:.4f}"))
        for name, perplexity, bits in found.scores
    ]
    words = [quiet(remark_words(remark)) for remark in found.remarks]
    return html(said, scrolling(table(columns, rows), focusable=True), words, loss_curve(found.losses))


def loss_curve(losses: Sequence[float]) -> Markup:
    """The loss of each step; nothing before the second."""
    if len(losses) < 2:
        return Markup("")
    low, high = min(losses), max(losses)
    spread = (high - low) or 1.0

    def at(number: int, loss: float) -> str:
        x = LEFT + (WIDTH - LEFT - 6) * number / (len(losses) - 1)
        y = TOP + (HEIGHT - BOTTOM - TOP) * (high - loss) / spread
        return f"{x:.1f} {y:.1f}"

    line = "L".join(at(number, loss) for number, loss in enumerate(losses))
    shapes = [
        tag.path(class_="axis", d=f"M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH}"),
        tag.text(f"{high:.3f}", x=LEFT - 5, y=TOP + 6, text_anchor="end"),
        tag.text(f"{low:.3f}", x=LEFT - 5, y=HEIGHT - BOTTOM, text_anchor="end"),
        tag.text(t("heal.steps.axis"), x=WIDTH - 6, y=HEIGHT - 8, text_anchor="end"),
        tag.path(class_="best", d=f"M{line}"),
    ]
    label = t("heal.curve.label", count=len(losses), first=f"{losses[0]:.4f}", last=f"{losses[-1]:.4f}")
    return scrolling(
        tag.svg(shapes, class_="alloy-trials", role="img", aria_label=label, viewBox=f"0 0 {WIDTH} {HEIGHT}"),
        focusable=True,
    )
