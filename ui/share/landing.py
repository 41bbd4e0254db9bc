"""What a shared link opens: a page of its own that says what the recipe or the merge is, with a button to remix it.

It is plain HTML without scripts, so that it is there at once, and that other sites find its title and picture.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from merging.licences import Parent
from ui.gallery.card import chips, drawn, method_title, origin, sample_of, scores
from ui.gallery.figures import Gain
from ui.gallery.hub_merges import GalleryMerge
from ui.gallery.sketch import LONGEST_RECIPE, Sketch
from ui.languages.translate import current_language, speaking, t
from ui.merge.lineage import lineage
from ui.share.picture import LONGEST_NAME, TALL, WIDE, Pictured, cut
from ui.widgets.html import Content, folded, html, tag


@dataclass(frozen=True)
class Shared:
    """What a link is about.

    Args:
        query: of the link, which leads to the picture as well
        remix: the query that opens the recipe in the editor; empty without a recipe
        recipe: the text
        sketch: the recipe in short; None if Alloy does not read it
        merge: the merge on the Hub; None for a recipe alone
    """

    query: str
    remix: str
    recipe: str
    sketch: Sketch | None
    merge: GalleryMerge | None = None

    @property
    def title(self) -> str:
        """The merge's name, or what a recipe makes, without the owners of its models."""
        if self.merge:
            return self.merge.model.name
        models = self.sketch.models if self.sketch else ()
        return " + ".join(name.rpartition("/")[2] for name in models[:3]) or t("share.recipe")

    @property
    def parents(self) -> tuple[str, ...]:
        if self.merge:
            return self.merge.parents
        return self.sketch.models if self.sketch else ()

    @property
    def gain(self) -> Gain | None:
        return self.merge.model.gain if self.merge else None

    def pictured(self) -> Pictured:
        """What its picture shows; in English, whose letters the picture has."""
        with speaking("en"):
            result = self.merge.model.name.rpartition("/")[2] if self.merge else t("share.your_merge")
            lines = tuple(self.sketch.lines.items()) if self.sketch else ()
            method = method_title(self.sketch)
            return Pictured(self.title, method, self.parents, lines, result, _gain_lines(self.gain))


def _gain_lines(gain: Gain | None) -> tuple[str, ...]:
    """The verdict, and the figure; nothing without a gain."""
    if gain is None:
        return ()
    verdict = t(f"gallery.gain.{gain.verdict}", name=cut(gain.other.rpartition("/")[2], LONGEST_NAME))
    data = cut(gain.data, LONGEST_NAME)  # so that the figure after it is on the picture
    return verdict, t(f"gallery.gain.{gain.kind}", value=f"{gain.value:+.3f}", data=data)


_STYLE = Markup("""
:root { color-scheme: light dark; --ink: #1c1917; --quiet: #57534e; --paper: #fafaf9; --box: #fff; --line: #d6d3d1;
  --bronze: #a85220; --light: #87401b; }
@media (prefers-color-scheme: dark) { :root { --ink: #f5f5f4; --quiet: #a8a29e; --paper: #0c0a09; --box: #1c1917;
  --line: #44403c; --bronze: #a85220; --light: #eab080; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5; word-break: keep-all;
  font-family: Inter, Pretendard, ui-sans-serif, system-ui, "Noto Sans", "Noto Sans KR", sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 1.2rem 1rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .4rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 1.4rem 0 .3rem; } p { margin: .3rem 0; }
a { color: var(--light); } .top { color: var(--quiet); font-weight: 600; text-decoration: none; }
.made { color: var(--light); font-weight: 650; font-size: 1.1rem; }
.alloy-quiet, figcaption, details { color: var(--quiet); font-size: .9rem; }
.go { display: inline-block; margin: 1.2rem .6rem 0 0; padding: .6rem 1.4rem; border-radius: .5rem;
  border: 1px solid var(--bronze); text-decoration: none; font-weight: 650; }
.go.first { background: var(--bronze); color: #fff; }
:focus-visible { outline: 2px solid var(--light); outline-offset: 2px; }
details { margin-top: 1.2rem; }
.alloy-scroll { overflow-x: auto; } figure { margin: .4rem 0; }
svg { max-width: 100%; height: auto; } .alloy-lineage { display: block; min-width: 280px; }
.alloy-lineage text { font-size: 12.5px; fill: var(--ink); }
.alloy-lineage rect { fill: var(--box); stroke: #8a8580; } .alloy-lineage .result rect { stroke: var(--bronze);
  stroke-width: 2; }
.alloy-lineage path { fill: none; stroke: #8a8580; stroke-width: 1.5; }
.alloy-curve { width: 18rem; } .alloy-curve path { fill: none; stroke: var(--light); stroke-width: 1.5; }
.alloy-curve .line-attention { stroke-dasharray: 5 2; } .alloy-curve .line-mlp { stroke-dasharray: 1.5 2; }
.alloy-stairs { display: block; width: 100%; height: 9rem; background: var(--box); }
.m0 { fill: #c76d2f; background: #c76d2f; } .m1 { fill: #3f7fa6; background: #3f7fa6; }
.m2 { fill: #2f8f4e; background: #2f8f4e; } .m3 { fill: #8a8580; background: #8a8580; }
.alloy-legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; }
.alloy-legend i { display: inline-block; width: .7rem; height: .7rem; margin-right: .4rem; }
.alloy-chips { display: flex; flex-wrap: wrap; gap: .3rem; font-size: .85rem; }
.alloy-chips span { padding: .05rem .5rem; border: 1px solid var(--line); border-radius: 1rem; }
.alloy-mark { display: inline-block; width: .6rem; height: .6rem; border-radius: 50%; margin-right: .45rem;
  background: #8a8580; }
.alloy-good .alloy-mark { background: #2f8f4e; } .alloy-bad .alloy-mark { background: #c8372d; }
blockquote { margin: .4rem 0; padding: .3rem .8rem; border-left: 3px solid var(--bronze); overflow-wrap: anywhere; }
blockquote p + p { font-weight: 600; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; }
""")


def landing(shared: Shared, page: str) -> Markup:
    """The whole page.

    Args:
        shared: what the link is about
        page: the address of Alloy's page, without a slash at its end, for the picture that other sites fetch
    """
    title = shared.title
    about = t("share.about", method=method_title(shared.sketch))
    picture = f"{page}/share/picture.png?{shared.query}"
    model = shared.merge
    kind = t("share.merge") if model else t("share.recipe")
    buttons = [
        tag.a(t("share.remix"), href=f"./?{shared.remix}", class_="go first") if shared.remix else None,
        tag.a(t("share.result"), href=f"./?{shared.query}", class_="go") if model else None,
    ]
    drawing = origin(model) if model else _lineage(shared)
    sample = model.model.sample if model else None
    body = [
        tag.a("Alloy", href="./", class_="top"),
        tag.p(kind, class_="alloy-quiet"),
        tag.h1(title),
        tag.p(method_title(shared.sketch), class_="made"),
        drawing,
        drawn(shared.sketch),
        [tag.h2(t("share.scores")), scores(model), chips(model)] if model else None,
        [tag.h2(t("share.sample")), sample_of(sample, t("share.sample.source"))] if sample else None,
        tag.div(buttons),
        folded(t("recipe.fold"), tag.pre(shared.recipe[:LONGEST_RECIPE])) if shared.recipe else None,
    ]
    return _document(title, about, body, picture)


def no_landing(words: str) -> Markup:
    """The page for a link that leads to nothing."""
    body = [
        tag.a("Alloy", href="./", class_="top"),
        tag.h1(words),
        tag.a(t("share.begin"), href="./", class_="go first"),
    ]
    return _document(words, "", body)


def _lineage(shared: Shared) -> Markup | None:
    parents = shared.parents
    return lineage([Parent(name) for name in parents], t("share.your_merge")) if parents else None


def _document(title: str, about: str, body: Content, picture: str = "") -> Markup:
    card = [
        ("og:type", "website"), ("og:site_name", "Alloy"), ("og:title", title), ("og:description", about),
        ("og:image", picture), ("og:image:width", str(WIDE)), ("og:image:height", str(TALL)),
        ("og:image:alt", title), ("twitter:card", "summary_large_image"),
    ]  # fmt: skip
    facts = [_meta("property", name, content) for name, content in card if content and picture]
    return html(
        Markup("<!doctype html>"),
        Markup('<html lang="{}">').format(current_language() or "en"),
        Markup('<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'),
        tag.title(f"{title} · Alloy"),
        _meta("name", "description", about),
        facts,
        tag.style(_STYLE),
        Markup("</head><body>"),
        tag.main(body),
        Markup("</body></html>"),
    )


def _meta(kind: str, name: str, content: str) -> Markup:
    return Markup('<meta {}="{}" content="{}">').format(kind, name, content)
