"""The merges on the Hub: listed in pages, without a login, remembered for a while, and within the Hub's limits.

Nothing is stored here. Anonymous requests see what everyone may see, so that what is remembered can be shown to all.
Only a model that a visitor names, and that is not public, is read with their own login, and it is not remembered.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
from huggingface_hub import constants, get_session

from checkpoints.names import hub_id
from merging import MergeError
from ui.gallery.hub_merge import EXPANDED, HubMerge
from ui.gallery.sketch import Sketch, sketch
from ui.hub.account import Account
from ui.hub.recipes import recipe_in, text_file
from ui.hub.timed_cache import TimedCache

Tag: TypeAlias = Literal["alloy", "mergekit"]
TAGS: tuple[Tag, ...] = ("alloy", "mergekit")
Order: TypeAlias = Literal["likes", "createdAt"]
ORDERS: tuple[Order, ...] = ("likes", "createdAt")
# Models of a request, requests for a page of the gallery, and models that are enough for one.
MODELS_OF_A_REQUEST, REQUESTS_OF_A_PAGE, ENOUGH = 24, 4, 12
SECONDS_TO_WAIT = 8
# The Hub allows an address some hundred anonymous requests in five minutes. All visitors together stay well below.
MAX_REQUESTS, SECONDS_OF_REQUESTS = 240, 300.0
SECONDS_KEPT, MAX_KEPT, MAX_RECIPES = 300.0, 200, 2000
MAX_ANSWER = 8_000_000
# Of a file in which a recipe is looked for.
LONGEST_FILE = 60_000
_LINK = re.compile(r'<([^<>]{1,4000})>\s*;\s*rel="next"')
_CURSOR = re.compile(r"[\w+/=.~%-]{1,1000}")
NOBODY = Account("nobody")


class HubBusyError(Exception):
    """The Hub does not answer, or the requests that the gallery may make in five minutes are used up."""


@dataclass(frozen=True)
class Wanted:
    """Which merges to list.

    Args:
        tag: None lists those of Alloy, then those of mergekit
        base: a model that they are made from; empty: any
        licence, language: as the Hub's tags spell them; empty: any
        method: a merge method's name, or `sketch.EXPERTS`; empty: any
        smallest, largest: numbers of parameters; largest 0: no limit
        order: by what to sort
    """

    tag: Tag | None = None
    base: str = ""
    licence: str = ""
    language: str = ""
    method: str = ""
    smallest: int = 0
    largest: int = 0
    order: Order = "likes"

    @property
    def tags(self) -> tuple[Tag, ...]:
        return (self.tag,) if self.tag else TAGS

    @property
    def filters(self) -> tuple[str, ...]:
        """What the Hub can sort out by itself."""
        return tuple(
            filter(
                None,
                [
                    f"base_model:{self.base}" if self.base else "",
                    f"license:{self.licence}" if self.licence else "",
                    self.language,
                ],
            )
        )

    def takes(self, one: GalleryMerge) -> bool:
        """Whether a merge has the method and the size, which the Hub does not know."""
        if self.method and (one.sketch is None or one.sketch.method != self.method):
            return False
        if not (self.smallest or self.largest):
            return True
        size = one.model.parameters
        return size >= max(self.smallest, 1) and (not self.largest or size < self.largest)


@dataclass(frozen=True)
class PageCursor:
    """Where the list continues: which of the tags, and the Hub's cursor in its list."""

    tag: int = 0
    cursor: str = ""


@dataclass(frozen=True)
class GalleryMerge:
    """A merge with its recipe.

    Args:
        model: what the Hub says
        recipe: its text; empty if it cannot be read
        sketch: the recipe in short; None if it is not one that Alloy reads
    """

    model: HubMerge
    recipe: str = ""
    sketch: Sketch | None = None

    @property
    def parents(self) -> tuple[str, ...]:
        """What it is made from: as the recipe says, else as the card does."""
        return self.sketch.models if self.sketch and self.sketch.models else self.model.parents


@dataclass(frozen=True)
class Listed:
    """A page of the gallery.

    Args:
        merges: that were found
        following: where the next page begins; None after the last
        silent: the Hub did not answer, or not to all requests
    """

    merges: tuple[GalleryMerge, ...]
    following: PageCursor | None = None
    silent: bool = False


class HubMerges:
    """Lists merges, and remembers what the Hub answered."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: deque[float] = deque()
        self._kept = TimedCache[tuple[list[HubMerge], str]](SECONDS_KEPT, MAX_KEPT, clock)
        # By name and commit, which never changes.
        self._recipes = TimedCache[str](math.inf, MAX_RECIPES, clock)

    def page(self, wanted: Wanted, place: PageCursor = PageCursor()) -> Listed:
        """Merges from a place on; it asks the Hub until there are enough, or several times."""
        found: dict[str, GalleryMerge] = {}
        at: PageCursor | None = place
        for _ in range(REQUESTS_OF_A_PAGE):
            if at is None or at.tag >= len(wanted.tags) or len(found) >= ENOUGH:
                break
            tag = wanted.tags[at.tag]
            try:
                models, at = self._models(wanted, at)
                for one in self._with_recipes(models):
                    if wanted.takes(one) and (one.sketch or tag == "alloy"):
                        found[one.model.name] = one
            except HubBusyError:
                return Listed(tuple(found.values()), at, silent=True)
        return Listed(tuple(found.values()), at)

    def merge(self, name: str, who: Account = NOBODY) -> GalleryMerge | None:
        """One merge, as everyone may see it, else as this visitor may; None if they may not, or there is none.

        Raises:
            HubBusyError: the Hub does not answer.
        """
        if not hub_id(name) or "/" not in name:
            return None
        model = self._model(name, NOBODY)
        if model is not None:
            return next(iter(self._with_recipes([model])), None)
        model = self._model(name, who) if who.token else None
        if model is None:
            return None
        text = text_file(name, model.commit, model.recipe_file, who) if model.recipe_file else None
        return _with_recipe(model, _recipe_in(text))

    def _models(self, wanted: Wanted, place: PageCursor) -> tuple[list[HubMerge], PageCursor | None]:
        """The models of one request, and where the next one begins."""
        tag = wanted.tags[place.tag]
        asked = [
            ("filter", tag),
            *(("filter", one) for one in wanted.filters),
            ("sort", wanted.order),
            ("direction", "-1"),
            ("limit", str(MODELS_OF_A_REQUEST)),
            *(("cursor", place.cursor) for _ in [0] if place.cursor),
            *(("expand", one) for one in EXPANDED),
        ]
        key = json.dumps(asked)
        kept = self._kept.get(key)
        if kept is None:
            answer, cursor = self._ask("", asked, NOBODY)
            entries = [one for one in answer if isinstance(one, dict)] if isinstance(answer, list) else []
            listed = [model for one in entries if (model := HubMerge.listed(one)) and not model.private]
            kept = listed, cursor
            self._kept.keep(key, kept)
        models, cursor = kept
        if cursor and cursor != place.cursor:
            return models, replace(place, cursor=cursor)
        return models, PageCursor(place.tag + 1) if place.tag + 1 < len(wanted.tags) else None

    def _model(self, name: str, who: Account) -> HubMerge | None:
        key = f"/{name}"
        if who is NOBODY and (kept := self._kept.get(key)) is not None:
            return next(iter(kept[0]), None)
        answer, _ = self._ask(f"/{quote(name)}", [("expand", one) for one in EXPANDED], who)
        model = HubMerge.listed(answer) if isinstance(answer, dict) else None
        if who is NOBODY:
            model = None if model is None or model.private else model
            self._kept.keep(key, ([model] if model else [], ""))
        return model

    def _with_recipes(self, models: Sequence[HubMerge]) -> list[GalleryMerge]:
        with ThreadPoolExecutor(8) as pool:
            return [*pool.map(lambda model: _with_recipe(model, self._recipe(model)), models)]

    def _recipe(self, model: HubMerge) -> str:
        """The recipe of a public model; empty if it has none, or the Hub does not answer."""
        if not model.recipe_file:
            return ""
        key = model.name, model.commit
        if (known := self._recipes.get(key)) is not None:
            return known
        try:
            self._count()
            text = text_file(model.name, model.commit, model.recipe_file, NOBODY)
        except (HubBusyError, MergeError):
            return ""
        recipe = _recipe_in(text)
        self._recipes.keep(key, recipe)
        return recipe

    def _count(self) -> None:
        """Count a request.

        Raises:
            HubBusyError: there were too many already.
        """
        with self._lock:
            now = self._clock()
            while self._asked and self._asked[0] <= now - SECONDS_OF_REQUESTS:
                self._asked.popleft()
            if len(self._asked) >= MAX_REQUESTS:
                raise HubBusyError
            self._asked.append(now)

    def _ask(self, path: str, asked: Sequence[tuple[str, str]], who: Account) -> tuple[Any, str]:
        """The Hub's answer and the cursor of the next page; None for what this account may not see.

        Raises:
            HubBusyError: it does not answer, or not with JSON of a sensible length.
        """
        self._count()
        headers = {"authorization": f"Bearer {who.token}"} if who.token else {}
        params: Any = list(asked)
        try:
            with get_session().stream(
                "GET", f"{constants.ENDPOINT}/api/models{path}", params=params, headers=headers,
                timeout=SECONDS_TO_WAIT, follow_redirects=False,
            ) as response:  # fmt: skip
                if path and response.status_code in (301, 302, 307, 308, 401, 403, 404):
                    return None, ""
                response.raise_for_status()
                body = b""
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > MAX_ANSWER:
                        raise HubBusyError
                return json.loads(body), _cursor(response.headers.get("link", ""))
        except (httpx2.HTTPError, OSError, ValueError) as error:
            raise HubBusyError from error


def _cursor(link: str) -> str:
    """The cursor in a `Link` header; of the address in it nothing else is used."""
    match = _LINK.search(link)
    cursor = parse_qs(urlsplit(match[1]).query).get("cursor", [""])[0] if match else ""
    return cursor if _CURSOR.fullmatch(cursor) else ""


def _with_recipe(model: HubMerge, recipe: str) -> GalleryMerge:
    return GalleryMerge(model, recipe, sketch(recipe) if recipe else None)


def _recipe_in(text: str | None) -> str:
    return recipe_in((text or "")[:LONGEST_FILE]) or ""
