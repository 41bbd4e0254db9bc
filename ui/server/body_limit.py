"""How much of a request the server reads.

Requests are JSON, and are read into memory before anything looks at them. So one that is too large is refused at the
door, by its length where it states one, else by what has arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.languages.translate import speaking, spoken, t

# Bytes: two hundred votes with their answers, which a browser keeps and sends, are 7 MB in Korean.
MAX_BODY = 8_000_000


class BodyLimit:
    """Refuses requests whose body is too large; ASGI middleware.

    Args:
        app: answers the others
        uploads: bytes of a request to the address that takes files
    """

    def __init__(self, app: ASGIApp, uploads: int) -> None:
        self._app, self._uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._uploads if scope["path"].endswith("/upload") else MAX_BODY
        headers = dict(scope["headers"])
        stated = headers.get(b"content-length", b"")
        if stated.isdigit() and int(stated) > most:
            answer = JSONResponse({"detail": _sentence(headers, most)}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            await answer(scope, receive, send)
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > most:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _sentence(headers, most))
            return message

        await self._app(scope, counted, send)


def _sentence(headers: Mapping[bytes, bytes], most: int) -> str:
    """What the sender of a request is told, in their language."""
    with speaking(spoken(headers.get(b"accept-language", b"").decode("latin-1"))):
        return t("page.too_large", most=most // 1_000_000)
