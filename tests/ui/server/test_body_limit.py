"""Requests that are too large end at the door, whether they state their length or not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.middleware import Middleware

from ui.server.body_limit import MAX_BODY, BodyLimit

UPLOADS = MAX_BODY + 5


@pytest.fixture
def client() -> TestClient:
    app = FastAPI(middleware=[Middleware(BodyLimit, uploads=UPLOADS)])

    @app.post("/{path:path}")
    async def length(request: Request) -> int:
        return len(await request.body())

    return TestClient(app)


def pieces(size: int) -> Iterator[bytes]:
    """A body that states no length."""
    for start in range(0, size, 1 << 20):
        yield b"x" * min(1 << 20, size - start)


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/upload"])
def test_what_is_too_large_is_refused_in_words(client: TestClient, path: str) -> None:
    most = UPLOADS if path.endswith("upload") else MAX_BODY

    for body in (b"x" * most, pieces(most)):
        assert client.post(path, content=body).json() == most
    for body in (b"x" * (most + 1), pieces(most + 1)):
        refused = client.post(path, content=body, headers={"accept-language": "ko-KR,en"})
        assert refused.status_code == 413
        assert "8 MB까지" in refused.json()["detail"]
