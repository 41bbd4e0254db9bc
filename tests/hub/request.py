"""A request, a reply, a refusal, and the table of addresses."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qs, unquote

if TYPE_CHECKING:
    from tests.hub.store import Token


@dataclass
class Request:
    """One HTTP request. ``path`` is as it was sent: ``refs%2Fpr%2F1`` is one segment of it."""

    method: str
    path: str
    query_string: str
    headers: dict[str, str]
    chunks: AsyncIterator[bytes]
    body: bytes = b""
    viewer: Token | None = None

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.query_string, keep_blank_values=True)

    def one(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[-1]

    def flag(self, name: str) -> bool:
        return self.one(name).lower() in ("1", "true")

    def json(self) -> Any:
        try:
            return json.loads(self.body or b"{}")
        except ValueError as error:
            raise RefusalError(400, f"The body is not JSON: {error}") from None

    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.body.decode())


@dataclass
class Reply:
    """An answer: ``size`` bytes of ``file`` from ``start`` on."""

    status: int
    headers: dict[str, str]
    file: BinaryIO
    size: int
    start: int = 0

    @classmethod
    def text(cls, status: int, headers: dict[str, str], body: bytes) -> Reply:
        return cls(status, headers, io.BytesIO(body), len(body))

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
        body = json.dumps(value, default=str).encode()
        return cls.text(status, {"content-type": "application/json; charset=utf-8"} | (headers or {}), body)


class RefusalError(Exception):
    """An error answer; ``code`` becomes X-Error-Code, which is what the client decides on."""

    def __init__(
        self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        one_line = " ".join(message.split()).encode("ascii", "replace").decode()
        headers = (headers or {}) | {"X-Error-Message": one_line}
        if code:
            headers["X-Error-Code"] = code
        self.reply = Reply.json({"error": message} | more, status, headers)


def span(request: Request, size: int) -> tuple[int, int] | None:
    """The first byte that the Range header asks for and the one after the last; None without one, or for several.

    Raises:
        RefusalError: it begins after the end
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if match is None or match[1] == match[2] == "":
        return None
    if match[1]:
        start, end = int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)
    else:
        start, end = max(size - int(match[2]), 0), size
    if start >= end:
        raise RefusalError(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return start, end


Handler = Callable[..., "Reply | Awaitable[Reply]"]


@dataclass(frozen=True)
class Route:
    """An address of the Hub, of its file host when ``cdn``, or of the store behind it when ``xet``, which has tokens
    of its own; ``raw`` handlers read the body themselves."""

    methods: tuple[str, ...]
    pattern: re.Pattern[str]
    handler: Handler
    cdn: bool
    raw: bool
    xet: bool


ROUTES: list[Route] = []
FIELDS = {"repo": "[^/]+/[^/]+", "path": ".+"}


def route(
    methods: str, template: str, *, cdn: bool = False, raw: bool = False, xet: bool = False
) -> Callable[[Handler], Handler]:
    """Register a handler, e.g. for ``"GET HEAD", "/{repo}/resolve/{rev}/{path}"``.

    The handler is called with the Hub, the request and the unquoted fields. ``{repo}`` spans two segments,
    ``{path}`` all that follows, any other field one.
    """
    pattern = re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{FIELDS.get(m[1], '[^/]+')})", template)

    def register(handler: Handler) -> Handler:
        ROUTES.append(Route(tuple(methods.split()), re.compile(pattern), handler, cdn, raw, xet))
        return handler

    return register


def find_route(method: str, path: str, *, cdn: bool) -> tuple[Route, dict[str, str]]:
    """The route of a raw path and the unquoted values of its fields."""
    for candidate in ROUTES:
        if (
            candidate.cdn == cdn
            and method in candidate.methods
            and (match := candidate.pattern.fullmatch(path))
        ):
            return candidate, {name: unquote(value) for name, value in match.groupdict().items()}
    raise RefusalError(404, f"The loopback Hub has no {method} {path}" + (" on its file host" if cdn else ""))
