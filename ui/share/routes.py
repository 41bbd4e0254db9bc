"""Addresses beside Gradio's page: the landing of a shared link, its picture, and the badge."""

from __future__ import annotations

import functools
from collections.abc import Callable

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from ui.gallery.hub_merges import HubBusyError, HubMerges
from ui.gallery.sketch import sketch
from ui.host import Host
from ui.hub.recipes import QUERY, page_address, query_of, recipe_of
from ui.languages.translate import speaking, spoken, t
from ui.share.badge import badge
from ui.share.landing import Shared, landing, no_landing
from ui.share.picture import picture

MERGE = "merge"
SECONDS_OF_A_PICTURE = 3600
LONGEST_QUERY = 50_000
# The page has no scripts, and asks for nothing from anywhere.
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def share_routes(host: Host, merges: HubMerges) -> list[Route]:
    """The routes, for the server of the page."""
    find = functools.partial(_shared, merges)

    def show(request: Request) -> Response:
        with speaking(spoken(request.headers.get("accept-language", ""))):
            try:
                shared = find(request)
            except HubBusyError:
                return _page(no_landing(t("gallery.silent")), 503)
            if shared is None:
                return _page(no_landing(t("share.nothing")), 404)
            return _page(landing(shared, page_address(host, request.headers, request.url.scheme)))

    def draw(request: Request) -> Response:
        try:
            shared = find(request)
        except HubBusyError:
            return Response(status_code=503)
        if shared is None:
            return Response(status_code=404)
        return _picture(picture(shared.pictured()), "image/png")

    def show_badge(_: Request) -> Response:
        return _picture(str(badge()).encode(), "image/svg+xml")

    pages: list[tuple[str, Callable[[Request], Response]]] = [
        ("/share", show), ("/share/picture.png", draw), ("/share/badge.svg", show_badge),
    ]  # fmt: skip
    return [Route(path, answer, methods=["GET"]) for path, answer in pages]


def _shared(merges: HubMerges, request: Request) -> Shared | None:
    """What a link is about; None if that is nothing that everyone may see.

    Raises:
        HubBusyError: the Hub does not answer.
    """
    if len(request.url.query) > LONGEST_QUERY:
        return None
    name = request.query_params.get(MERGE, "")
    if name:
        found = merges.merge(name)
        if found is None:
            return None
        remix = query_of(found.recipe) if found.recipe else ""
        return Shared(f"{MERGE}={found.model.name}", remix, found.recipe, found.sketch, found)
    recipe = recipe_of(f"{QUERY}={request.query_params.get(QUERY, '')}")
    if not recipe or not recipe.strip():
        return None
    query = query_of(recipe)
    return Shared(query, query, recipe, sketch(recipe))


def _page(content: Markup, status: int = 200) -> Response:
    return HTMLResponse(str(content), status, HEADERS)


def _picture(content: bytes, kind: str) -> Response:
    keep = {"cache-control": f"public, max-age={SECONDS_OF_A_PICTURE}"}
    # An SVG that is opened by itself is a document.
    return Response(content, media_type=kind, headers={**HEADERS, **keep})
