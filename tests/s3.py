"""An S3 on loopback: moto's server, in an environment of its own, since it pins libraries that others need newer."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
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


def _started(*options: str) -> tuple[subprocess.Popen[str], str] | None:
    """The server and its address, once it listens; None where it cannot be started."""
    command = [uv.find_uv_bin(), "tool", "run", *options, "--python", sys.executable, "--from", MOTO]
    server = subprocess.Popen(
        [*command, "moto_server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert server.stderr
    for line in server.stderr:
        if listens := re.search(r"Running on (http://127\.0\.0\.1:\d+)", line):
            # Its log is read on, so that it does not block.
            threading.Thread(target=deque, args=(server.stderr, 0), daemon=True).start()
            return server, listens[1]
    return None


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a server: from uv's cache, else from the package index."""
    started = _started("--offline") or _started()
    assert started, f"uv cannot run {MOTO}: it is not in its cache, and the package index cannot be reached"
    server, endpoint = started
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
