"""ZeroGPU on loopback: the four addresses that the client of `spaces` asks, and a page that believes in them.

As a script it serves a page on a Space with ZeroGPU, but for the GPU itself: `python -m tests.ui.zero_gpu PORT`.
"""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

GRANTED = json.dumps({"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "allow"})


@dataclass
class ZeroGpu:
    """What the platform would say.

    Attributes:
        url: of its API
        answer: status and body of the next `/schedule`
        granted: how many calls are answered so, before `later` is the answer
        asked: what each `/schedule` asked for, by name
        calls: the addresses that were asked
    """

    url: str = ""
    answer: tuple[int, str] = (200, GRANTED)
    granted: int = sys.maxsize
    later: tuple[int, str] = (200, GRANTED)
    asked: list[dict[str, str]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def grant(self) -> None:
        self.answer, self.granted = (200, GRANTED), sys.maxsize

    def refuse(self, *, left: int, wait: int) -> None:
        """Too little quota, with seconds to wait; a negative wait means that no quota would be enough."""
        self.answer = 429, json.dumps({"left": left, "wait": wait})

    def refuse_after(self, *, calls: int, left: int, wait: int) -> None:
        """Grant some calls first."""
        self.grant()
        self.granted = len(self.asked) + calls
        self.later = 429, json.dumps({"left": left, "wait": wait})

    def fail(self, status: int) -> None:
        self.answer = status, "{}"


@contextmanager
def zero_gpu() -> Iterator[ZeroGpu]:
    """The platform, answering."""
    platform = ZeroGpu()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            address = urlsplit(self.path)
            platform.calls.append(address.path)
            status, body = 200, "{}"
            if address.path == "/schedule":
                platform.asked.append({name: value[0] for name, value in parse_qs(address.query).items()})
                late = len(platform.asked) > platform.granted
                status, body = platform.later if late else platform.answer
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    platform.url = f"http://127.0.0.1:{server.server_port}"
    yield platform
    server.shutdown()


def main(port: int) -> None:
    # Without torch in sight `spaces` puts nothing in CUDA's place, and makes no GPU ready in its workers.
    sys.modules["torch"] = None  # type: ignore[assignment]
    import spaces  # noqa: F401

    del sys.modules["torch"]

    from ui.host import Host
    from ui.page import build_page, launch_settings
    from ui.server import gpu

    # So that a short text takes many calls.
    gpu.GpuCall.seconds_left = lambda call: 0.0 if call._end < math.inf else math.inf  # type: ignore[method-assign]
    host = Host.from_environment()
    page = build_page(host)
    page.queue(max_size=64, default_concurrency_limit=4)
    page.launch(server_port=port, quiet=True, **launch_settings(page, host))


if __name__ == "__main__":
    main(int(sys.argv[1]))
