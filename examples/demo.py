"""The demo: a Hub on loopback full of real models, and the app against it: `python -m examples.demo`.

It needs no account, no GPU and no network. What it builds and stores stays in the cache folder (ALLOY_CACHE,
else `~/.cache/alloy`); merges that land on the demo's Hub are there again at the next start.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

# Before huggingface_hub is imported, which reads them then. The loopback Hub stores by LFS.
os.environ |= {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"])),
}

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import logging

from examples.models import ADAPTER_NAMES, MODELS, OWNER, cache_folder, model_folder, repository
from tests.hub import Hub

USER = "demo"
FIRST_PORT = 7860
APP_STARTS_WITHIN = 300  # seconds: a busy machine takes its time to import torch and Gradio
APP_STOPS_WITHIN = 10


def push_models(endpoint: str, token: str, names: Sequence[str] = (*MODELS, *ADAPTER_NAMES)) -> None:
    """Push models and adapters to a Hub with the real client, which sends only what the Hub does not hold.

    Args:
        endpoint: the Hub's address
        token: of a user who may write for OWNER
        names: some of MODELS and ADAPTER_NAMES; what the cache lacks is built now
    """
    api = HfApi(endpoint=endpoint, token=token)
    for name in names:
        repo_id, files = f"{OWNER}/{name}", repository(name)
        with _timed(f"Pushing {repo_id}"):
            api.create_repo(repo_id, exist_ok=True)
            operations = [CommitOperationAdd(path, file) for path, file in files.items()]
            api.create_commit(repo_id, operations, commit_message="Add the demo's model")


@contextmanager
def hub_with_models(folder: Path | None, port: int = 0) -> Iterator[tuple[Hub, str]]:
    """A loopback Hub that holds the demo's models and adapters.

    Args:
        folder: where the Hub keeps what it holds; None: in memory
        port: on 127.0.0.1; 0 takes a free one

    Yields:
        the Hub, and a token of its user `demo`, who may write for OWNER
    """
    for name in MODELS:
        with _timed(f"Making {name} ready"):
            model_folder(name)
    with Hub(folder=folder, port=port) as hub:
        hub.open_pages = True
        token = hub.add_user(USER, orgs=[OWNER])
        push_models(hub.endpoint, token)
        yield hub, token


@contextmanager
def app(endpoint: str, token: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The app against a Hub, as a process of its own that answers when this begins and is gone when it ends.

    Args:
        endpoint: the Hub's address
        token: the app acts for its user
        port: a free one of 127.0.0.1

    Yields:
        the process

    Raises:
        SystemExit: the app did not start
    """
    print("Starting the app", flush=True)
    with _running(["app.py"], endpoint, token, GRADIO_SERVER_PORT=str(port)) as process:
        _wait_for(process, f"http://127.0.0.1:{port}")
        yield process


def gallery(endpoint: str, token: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Fill the Hub's gallery beside the app, in a process of its own; it continues at the next start.

    Args:
        endpoint: the Hub's address
        token: of a user who may write for OWNER
    """
    return _running(["-m", "examples.gallery"], endpoint, token)


@contextmanager
def _running(
    arguments: Sequence[str], endpoint: str, token: str, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Python with these arguments, against a Hub; it is gone when this ends."""
    environment = os.environ | {
        "ALLOY_DEMO": "1",
        "ALLOY_RESULTS": str(cache_folder() / "results"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache_folder() / "huggingface"),
        "HF_TOKEN": token,
        **variables,
    }
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH", "SPACE_ID", "OAUTH_CLIENT_ID"):
        environment.pop(name, None)
    # In a session of its own, so that Ctrl-C reaches this process alone, which then stops that one.
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=Path(__file__).parent.parent,
        env=environment,
        stdout=subprocess.DEVNULL,  # Gradio's own greeting; errors come on stderr
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(APP_STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + APP_STARTS_WITHIN
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"The app ended with exit code {process.returncode} before it answered.")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"The app did not answer on {address} within {APP_STARTS_WITHIN} seconds.")


def free_port(ports: Sequence[int]) -> int:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SystemExit(f"Port {ports[0]} is taken. Name a free one with --port or --hub-port.")


@contextmanager
def _timed(what: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"{what} ...", end=" ", flush=True)
    yield
    print(f"{time.monotonic() - started:.1f} s", flush=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two demos would overwrite each other's Hub."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(
                f"The demo is running already, with the cache {folder}. Stop it, or set ALLOY_CACHE to another folder."
            ) from None
        yield


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description="Alloy on a loopback Hub full of real models.")
    parser.add_argument("--port", type=int, help=f"of the app; default: the first free from {FIRST_PORT}")
    parser.add_argument("--hub-port", type=int, default=0, help="of the Hub; default: any free one")
    arguments = parser.parse_args()
    port = free_port([arguments.port] if arguments.port else range(FIRST_PORT, FIRST_PORT + 100))
    hub_port = free_port([arguments.hub_port])
    logging.set_verbosity_error()  # else every push that has nothing to send says so
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        with (
            _alone(cache_folder()),
            hub_with_models(cache_folder() / "hub", hub_port) as (hub, token),
            app(hub.endpoint, token, port) as process,
            gallery(hub.endpoint, token),
        ):
            print(f"\n  Alloy is ready: http://127.0.0.1:{port}", flush=True)
            print(f"  Its Hub: {hub.endpoint}   Ctrl-C ends both.", flush=True)
            print("  At the first start, its gallery is filled meanwhile.\n", flush=True)
            raise SystemExit(f"The app ended with exit code {process.wait()}.")
    except KeyboardInterrupt:
        print("\nStopped.")


if __name__ == "__main__":
    main()
