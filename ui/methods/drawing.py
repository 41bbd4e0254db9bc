"""A 2-D demo as a drawing: the models, where the merge is, and its path as one parameter changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from markupsafe import Markup

from ui.languages.translate import t
from ui.methods.demo import BASE, Demo, Point
from ui.widgets.html import html, note, tag

SIZE, MARGIN = 440, 14
# The plane is drawn from minus to plus this much.
MIN_VIEW, MAX_VIEW = 1.6, 6.0


def drawing(demo: Demo) -> Markup:
    """The plane with the models, the result, and its path as a parameter changes."""
    at = _scale(demo)
    x, y = at((0.0, 0.0))
    shapes = [
        tag.path(class_="axis", d=f"M0 {y}H{SIZE}M{x} 0V{SIZE}"),
        *_vectors(demo, at),
        _path(demo, at),
        *_models(demo, at),
        *_results(demo, at),
    ]
    where = "; ".join(f"({x:.2f}, {y:.2f})" for x, y in demo.results[:4])
    label = t("methods.drawing", where=where)
    shown = tag.svg(shapes, class_="alloy-demo", role="img", aria_label=label, viewBox=f"0 0 {SIZE} {SIZE}")
    return html(shown, note(_legend(demo)))


def _scale(demo: Demo) -> Callable[[Point], Point]:
    """Where a point of the plane is in the drawing, which shows every model and result."""
    reach = max(abs(x) for point in (*demo.models.values(), *demo.results) for x in point)
    far = min(max((abs(x) for point in demo.path for x in point), default=0.0), 2 * MIN_VIEW)
    scale = (SIZE / 2 - MARGIN) / min(max(MIN_VIEW, 1.15 * reach, far), MAX_VIEW)
    return lambda point: (round(SIZE / 2 + point[0] * scale, 1), round(SIZE / 2 - point[1] * scale, 1))


def _vectors(demo: Demo, at: Callable[[Point], Point]) -> Iterator[Markup]:
    """From the base to each model."""
    x0, y0 = at(demo.models.get(BASE, (0.0, 0.0)))
    for name, point in demo.models.items():
        if name != BASE:
            x, y = at(point)
            yield tag.path(class_="vector", d=f"M{x0} {y0}L{x} {y}")


def _path(demo: Demo, at: Callable[[Point], Point]) -> Markup | None:
    if not _shows_path(demo):
        return None
    return tag.polyline(class_="path", points=" ".join(f"{x},{y}" for x, y in map(at, demo.path)))


def _shows_path(demo: Demo) -> bool:
    """Whether the result moves as the parameter changes, and not at random."""
    return len(set(demo.path)) > 1 and len(demo.results) == 1


def _models(demo: Demo, at: Callable[[Point], Point]) -> Iterator[Markup]:
    for name, point in demo.models.items():
        x, y = at(point)
        yield tag.circle(class_="base" if name == BASE else "model", cx=x, cy=y, r=5)
        yield tag.text(t("methods.point.base") if name == BASE else name, x=x + 8, y=y - 8)


def _results(demo: Demo, at: Callable[[Point], Point]) -> Iterator[Markup]:
    radius = 6.5 if len(demo.results) == 1 else 4
    for x, y in map(at, demo.results):
        yield tag.circle(class_="result", cx=x, cy=y, r=radius)


def _legend(demo: Demo) -> str:
    drawn = len(demo.results)
    legend = t("methods.legend" if drawn == 1 else "methods.legend.random", count=drawn)
    if not _shows_path(demo):
        return legend
    low, high = demo.ends
    return f"{legend} " + t("methods.legend.way", name=name_of(*demo.swept), low=f"{low:g}", high=f"{high:g}")


def name_of(parameter: str, model: str) -> str:
    """A parameter's name, with the model's if each model has its own value."""
    return t("methods.of", name=parameter, model=model) if model else parameter
