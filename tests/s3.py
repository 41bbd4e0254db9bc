"""An S3 on loopback: moto's server, in an environment of its own, since it pins libraries that others need newer."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from urllib.error import URLError
from urllib.request import Request, urlopen

import obstore
import pytest
import uv

from checkpoints.object_store import connect

MOTO = "moto[server]==5.2.5"
ACCESS_KEY, SECRET_KEY = "AKIAMARKEROFATEST", "a-secret-marker-of-a-test"
_NUMBERS = itertools.count()


class Bucket:
    """A bucket, and what is in it."""

    def __init__(self, name: str):
        self.address = f"s3://{name}"

    def put(self, files: Mapping[str, bytes], folder: str = "") -> None:
        for path, data in files.items():
            obstore.put(connect(self.address), f"{folder}/{path}" if folder else path, data)

    def read(self, folder: str) -> dict[str, bytes]:
        """All objects of a folder, hidden ones too."""
        store = connect(f"{self.address}/{folder}")
        found = [entry["path"] for chunk in obstore.list(store) for entry in chunk]
        return {path: bytes(obstore.get(store, path).bytes()) for path in found}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(endpoint: str) -> bool:
    try:
        with urlopen(endpoint, timeout=5):
            return True
    except (URLError, OSError):
        return False


def _started(endpoint: str, *options: str) -> subprocess.Popen[bytes] | None:
    """The server, once it answers; None where it cannot be started."""
    port = endpoint.rpartition(":")[2]
    command = [uv.find_uv_bin(), "tool", "run", *options, "--python", sys.executable, "--from", MOTO]
    server = subprocess.Popen(
        [*command, "moto_server", "-H", "127.0.0.1", "-p", port],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while server.poll() is None:
        if _answers(endpoint):
            return server
    return None


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a server: from uv's cache, else from the package index."""
    endpoint = f"http://127.0.0.1:{_free_port()}"
    server = _started(endpoint, "--offline") or _started(endpoint)
    assert server, f"uv cannot run {MOTO}: it is not in its cache, and the package index cannot be reached"
    yield endpoint
    os.killpg(server.pid, signal.SIGTERM)
    server.wait()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A new bucket, which the environment's credentials open."""
    variables = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{next(_NUMBERS)}"
    with urlopen(Request(f"{s3_endpoint}/{name}", method="PUT")):
        return Bucket(name)
