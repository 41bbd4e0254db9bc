"""What was asked of the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Exchange:
    """One request and its answer.

    Attributes:
        path: as sent, without the query (which holds signatures).
        host: ``127.0.0.1`` is the Hub, ``localhost`` its file host.
        status: None until the answer starts.
        bytes_in, bytes_out: of the bodies; counted as they pass.
        range: the Range header, or "".
        auth: whether an Authorization header was sent.
        port: the client's port: requests that share it share a connection.
    """

    method: str
    path: str
    host: str
    range: str
    auth: bool
    port: int
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0


class Log:
    """All exchanges since the last ``clear``, in the order in which they began."""

    def __init__(self) -> None:
        self._exchanges: list[Exchange] = []

    def __iter__(self) -> Iterator[Exchange]:
        return iter(list(self._exchanges))

    def __len__(self) -> int:
        return len(self._exchanges)

    def append(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)

    def clear(self) -> None:
        self._exchanges = []

    def find(
        self, method: str = "", path: str = "", *, status: int | None = None, host: str = ""
    ) -> list[Exchange]:
        """The exchanges that match all that is given; ``path`` is a regular expression, searched for."""
        return [
            exchange
            for exchange in self
            if (not method or exchange.method == method)
            and re.search(path, exchange.path)
            and (status is None or exchange.status == status)
            and (not host or exchange.host == host)
        ]

    def bytes_out(self, path: str = "") -> int:
        """Bytes of body that the Hub sent for paths that match."""
        return sum(exchange.bytes_out for exchange in self.find(path=path))

    def bytes_in(self, path: str = "") -> int:
        """Bytes of body that the Hub received for paths that match."""
        return sum(exchange.bytes_in for exchange in self.find(path=path))
