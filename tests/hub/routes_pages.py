"""Pages for people: a model with its card and its files."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from tests.hub.card import FRONT_MATTER
from tests.hub.repo import Repo
from tests.hub.request import Reply, Request, route

if TYPE_CHECKING:
    from tests.hub.hub import Hub

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{id}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; }}
:root {{ color-scheme: light dark; }} table {{ border-collapse: collapse; width: 100%; }}
td, th {{ padding: .3rem .6rem; border-bottom: 1px solid #8884; text-align: left; overflow-wrap: anywhere; }}
pre {{ overflow-x: auto; padding: .8rem; background: #8882; }} .about {{ opacity: .7; }}
</style>
<p class="about">The loopback Hub, a stand-in for the Hugging Face Hub on this machine</p>
<h1>{id}</h1><p>{visibility}, commit <code>{commit}</code>: {message}</p>
<h2>Files</h2><table><tr><th>file</th><th>bytes</th></tr>{files}</table>
<h2>Model card</h2>{card}
</html>"""


@route("GET", "/{repo}")
def model_page(hub: Hub, request: Request, repo: str) -> Reply:
    found: Repo = (
        hub.repos[repo] if hub.open_pages and repo in hub.repos else hub.store.readable(repo, request.viewer)
    )
    commit = found.history()[0]
    rows = (f"<tr><td>{escape(p)}</td><td>{e.size:,}</td></tr>" for p, e in sorted(commit.files.items()))
    card = commit.files.get("README.md")
    text = FRONT_MATTER.sub("", hub.store.blobs.read(card.sha256).decode()) if card else "There is none."
    page = PAGE.format(
        id=escape(found.id),
        visibility="private" if found.private else "public",
        commit=commit.id,
        message=escape(commit.title),
        files="".join(rows),
        card=MarkdownIt("js-default").render(text),  # a preset that lets no HTML through
    )
    return Reply.text(200, {"content-type": "text/html; charset=utf-8"}, page.encode())
