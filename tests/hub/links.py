"""Signed links to the file host: they need no token and work for a while."""

from __future__ import annotations

import hmac
import secrets
import time

from tests.hub.request import RefusalError, Request


class Links:
    """Makes and checks links.

    Attributes:
        ttl: seconds for which a new link works; 0 makes links that are expired at once.
    """

    def __init__(self) -> None:
        self.ttl = 3600.0
        self._key = secrets.token_bytes(32)

    def make(self, method: str, host: str, path: str) -> str:
        """A link to ``host`` and ``path`` for one method."""
        expires = f"{time.time() + self.ttl:.3f}"
        return f"{host}{path}?expires={expires}&signature={self._sign(method, path, expires)}"

    def check(self, method: str, request: Request) -> None:
        """Refuse a request whose link was not made here, was for another method, or has expired."""
        expires = request.one("expires", "0")
        if not hmac.compare_digest(request.one("signature"), self._sign(method, request.path, expires)):
            raise RefusalError(403, "SignatureDoesNotMatch")
        if time.time() >= float(expires):
            raise RefusalError(403, "AccessDenied: Request has expired")

    def _sign(self, method: str, path: str, expires: str) -> str:
        return hmac.new(self._key, f"{method} {path} {expires}".encode(), "sha256").hexdigest()
