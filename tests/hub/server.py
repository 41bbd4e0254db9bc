"""HTTP: one thread that reads requests, finds their handlers and sends the replies."""

from __future__ import annotations

import asyncio
import inspect
import socket
import struct
import threading
import traceback
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import uvicorn

from tests.hub import (  # noqa: F401  (they register)
    routes_buckets,
    routes_files,
    routes_jobs,
    routes_models,
    routes_pages,
    routes_repos,
    routes_uploads,
    routes_xet,
)
from tests.hub.faults import Fault
from tests.hub.line import Line
from tests.hub.log import Exchange
from tests.hub.request import RefusalError, Reply, Request, find_route
from tests.hub.store import Token

if TYPE_CHECKING:
    from tests.hub.hub import Hub

CHUNK = 1 << 20
HOST = "127.0.0.1"
FILE_HOST = "localhost"  # the same server under another name: a client has to drop its token on the way there


class Server:
    """Answers for a Hub on ``port`` of 127.0.0.1 (0: a free one)."""

    def __init__(self, hub: Hub, port: int) -> None:
        self._hub = hub
        # The protocol has to be named, else asyncio leaves TCP_NODELAY unset and a request takes 40 ms.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((HOST, port))
        self._socket.listen(256)
        self.port: int = self._socket.getsockname()[1]
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                self._answer,
                interface="asgi3",  # uvicorn takes a bound method for ASGI 2
                http="h11",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                log_level="critical",  # a body cut on demand is not worth a line
                timeout_keep_alive=75,  # longer than any client's, else both ends race
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(
            target=self._uvicorn.run, args=([self._socket],), name="hub", daemon=True
        )

    def start(self) -> None:
        """Begin to answer; requests that come a moment too early wait in the socket."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what is being answered, at most a second of it, and close."""
        self._uvicorn.should_exit = True
        self._thread.join()
        self._socket.close()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        method = scope["method"]
        path = scope["raw_path"].decode()  # in scope["path"], %2F could not be told from a slash
        host = headers.get("host", "").partition(":")[0]
        auth, port = "authorization" in headers, scope["client"][1]
        exchange = Exchange(method, path, host, headers.get("range", ""), auth, port)
        self._hub.log.append(exchange)
        chunks = _chunks(receive, exchange, self._hub.up)
        request = Request(method, path, scope["query_string"].decode(), headers, chunks)
        fault = self._hub.faults.meet(method, path)
        await asyncio.sleep(fault.delay)
        if fault.reset:
            _reset(receive)
            return
        try:
            reply = await self._reply(request, exchange, fault)
        except ConnectionAbortedError:
            return
        reply.headers |= fault.headers
        await _send(reply, exchange, fault, self._hub.down, receive, send)

    async def _reply(self, request: Request, exchange: Exchange, fault: Fault) -> Reply:
        try:
            if fault.status is not None:
                raise RefusalError(fault.status, "A fault on demand", headers=dict(fault.headers))
            return await self._handle(request, exchange)
        except RefusalError as refusal:
            return refusal.reply
        except ConnectionAbortedError:
            raise
        except Exception as error:
            traceback.print_exc()
            return RefusalError(500, f"The loopback Hub failed: {error!r}").reply
        finally:
            async for _ in request.chunks:  # else the client sees a broken pipe in place of the refusal
                pass

    async def _handle(self, request: Request, exchange: Exchange) -> Reply:
        cdn, store = exchange.host == FILE_HOST, self._hub.store
        route, fields = find_route(request.method, request.path, cdn=cdn)
        if cdn and exchange.auth:
            raise RefusalError(400, "InvalidArgument: Only one auth mechanism allowed")
        request.viewer = None if route.xet else self._viewer(request)
        if not route.raw:
            request.body = b"".join([chunk async for chunk in request.chunks])
        with store.lock:
            reply = route.handler(self._hub, request, **fields)
        if inspect.isawaitable(reply):
            reply = await reply
        if request.method not in ("GET", "HEAD"):
            with store.lock:
                store.save()
        return reply

    def _viewer(self, request: Request) -> Token | None:
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if sent and sent not in self._hub.store.tokens:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return self._hub.store.tokens.get(sent)


def _reset(receive: Any) -> None:
    """Cut the connection with a reset instead of a farewell. ASGI has no word for it, so this asks uvicorn's own."""
    transport = receive.__self__.transport
    linger_on, no_time = 1, 0
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", linger_on, no_time)
    )
    transport.abort()


async def _chunks(receive: Any, exchange: Exchange, line: Line) -> AsyncIterator[bytes]:
    """The request's body as it comes."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionAbortedError("the client went away in the middle of its request")
        more = message.get("more_body", False)
        exchange.bytes_in += len(message["body"])
        await line.carry(len(message["body"]))
        yield message["body"]


async def _send(reply: Reply, exchange: Exchange, fault: Fault, line: Line, receive: Any, send: Any) -> None:
    """Send a reply. The log is written before the bytes go: whoever has them finds them there."""
    headers = {"content-length": str(reply.size)} | reply.headers
    exchange.status = reply.status
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    size = 0 if exchange.method == "HEAD" else reply.size
    end = min(limit for limit in (size, fault.truncate, fault.stall) if limit is not None)
    step = CHUNK if fault.rate is None else max(1, min(CHUNK, int(fault.rate / 20)))
    gone = asyncio.ensure_future(receive())  # ends when the client does
    with reply.file as file:
        file.seek(reply.start)
        while not gone.done() and (data := file.read(min(step, end - exchange.bytes_out))):
            exchange.bytes_out += len(data)
            await asyncio.sleep(0 if fault.rate is None else len(data) / fault.rate)  # let others in, too
            await line.carry(len(data))
            await send({"type": "http.response.body", "body": data, "more_body": True})
    if fault.stall is not None:
        await gone
    if exchange.bytes_out == size:  # else uvicorn closes the connection, which is how a body is cut
        await send({"type": "http.response.body", "body": b""})
    gone.cancel()
