"""Merges of the Hub as cards: where each comes from, how it was made, and whether it is better than its parents."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import constants
from markupsafe import Markup

from merging.licences import Parent
from ui.gallery.figures import Gain, less_is_better
from ui.gallery.hub_merge import Sample
from ui.gallery.hub_merges import GalleryMerge, Listed
from ui.gallery.sketch import EXPERTS, Sketch
from ui.languages.translate import t
from ui.merge.lineage import lineage
from ui.merge.staircase import stairs_picture
from ui.recipe.drawn_curves import Points
from ui.widgets.html import Content, alert, count, html, link, quiet, tag

# The picture of a curve.
WIDE, TALL, EDGE = 120, 36, 3
MOST_FIGURES = 3
# Says which button of which card was pressed.
PRESSED = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-merge]");
  if (button) trigger("click", {merge: button.dataset.merge, what: button.dataset.what});
});
"""


def gallery_cards(merges: Sequence[GalleryMerge], listed: Listed | None = None) -> Markup:
    """All of them, and what is to be said of the last request."""
    said: list[Content] = []
    if listed and listed.silent:
        said.append(alert(t("gallery.silent")))
    elif not merges:
        said.append(
            quiet(t("gallery.none") if listed and listed.following is None else t("gallery.none.yet"))
        )
    return html(tag.div(map(_card, merges), class_="alloy-gallery"), said)


def method_title(found: Sketch | None) -> str:
    """The method's name for people."""
    if found is None:
        return t("gallery.method.unknown")
    return t("experts.title") if found.method == EXPERTS else found.title


def drawn(found: Sketch | None) -> Markup | None:
    """How the numbers run over the layers, or where the layers come from; None if neither says anything."""
    if found is None:
        return None
    if found.stack:
        return stairs_picture(found.stack)
    if not found.lines:
        return None
    label = t("gallery.curve", name=found.curve)
    paths = [tag.path(d=_path(points), class_=f"line-{name}") for name, points in found.lines.items()]
    picture = tag.svg(paths, class_="alloy-curve", role="img", aria_label=label, viewBox=f"0 0 {WIDE} {TALL}")
    legend = ", ".join(str(t(f"gallery.curve.{name}")) for name in found.lines)
    return tag.figure(picture, tag.figcaption(label, f" ({legend})" if len(found.lines) > 1 else None))


def origin(one: GalleryMerge) -> Markup | None:
    """The drawing of parents and result; None if no parent is known."""
    parents = one.parents
    return lineage([Parent(name) for name in parents], one.model.name) if parents else None


def gain_line(gain: Gain) -> Markup:
    """How much better it is than its best parent: the verdict first, then the figure with its interval."""
    mood = {"better": "alloy-good", "worse": "alloy-bad", "open": "alloy-idle"}[gain.verdict]
    name = gain.other.rpartition("/")[2]
    verdict = tag.b(t(f"gallery.gain.{gain.verdict}", name=name))
    interval = ""
    if gain.interval:
        interval = t("gallery.interval", low=f"{gain.interval[0]:+.3f}", high=f"{gain.interval[1]:+.3f}")
    number = t(f"gallery.gain.{gain.kind}", value=f"{gain.value:+.3f}", data=gain.data)
    mark = tag.span(class_="alloy-mark", aria_hidden="true")
    return tag.p(mark, verdict, " ", tag.span(number, " ", interval), class_=f"alloy-gain {mood}")


def scores(one: GalleryMerge) -> Markup:
    """The difference to the best parent, and scores, as its card states them."""
    gain = one.model.gain
    figures = [
        tag.li(
            t("gallery.figure", name=figure.name, data=figure.data, value=f"{figure.value:.4g}"),
            " ",
            t("gallery.interval", low=f"{figure.interval[0]:.3f}", high=f"{figure.interval[1]:.3f}")
            if figure.interval
            else None,
            t("gallery.less") if less_is_better(figure.kind) else None,
        )
        for figure in one.model.figures[:MOST_FIGURES]
    ]
    if not gain and not figures:
        return quiet(t("gallery.unmeasured"))
    return html(gain_line(gain) if gain else None, tag.ul(figures, class_="alloy-lines") if figures else None)


def chips(one: GalleryMerge) -> Markup:
    """Licence, size, languages and likes, as far as the Hub knows them."""
    model = one.model
    words = [
        model.licence or t("gallery.licence.none"),
        count(model.parameters) if model.parameters else "",
        *model.languages,
        f"♥ {model.likes}" if model.likes else "",
        model.created,
    ]
    return tag.p([tag.span(word) for word in words if word], class_="alloy-chips")


def sample_of(sample: Sample, source: str) -> Markup:
    """A message and the answer, and where both are from."""
    return html(
        tag.blockquote(tag.p(sample.message), tag.p(sample.answer), class_="alloy-sample"), quiet(source)
    )


def _card(one: GalleryMerge) -> Markup:
    name = one.model.name
    buttons = [
        _button("open", name),
        _button("remix", name) if one.recipe else None,
        _button("chat", name) if one.model.has_weights else None,
    ]
    return tag.article(
        tag.h2(link(f"{constants.ENDPOINT}/{name}", name)),
        origin(one),
        tag.p(tag.b(method_title(one.sketch)), class_="alloy-made"),
        drawn(one.sketch),
        scores(one),
        chips(one),
        tag.div(buttons, class_="alloy-choices"),
        class_="alloy-card",
    )


def _button(what: str, name: str) -> Markup:
    words = t(f"gallery.{what}")
    return tag.button(words, type="button", data_merge=name, data_what=what, aria_label=f"{words}: {name}")


def _path(points: Points) -> str:
    """A line through points from 0 to 1, or straight across for one of them."""
    values = points if len(points) > 1 else points * 2
    step = (WIDE - 2 * EDGE) / (len(values) - 1)
    corners = [
        f"{EDGE + step * place:.1f} {EDGE + (1 - value) * (TALL - 2 * EDGE):.1f}"
        for place, value in enumerate(values)
    ]
    return "M" + "L".join(corners)
