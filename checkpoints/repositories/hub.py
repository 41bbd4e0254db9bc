"""A model on the Hub at one commit: files in this machine's Hugging Face cache are read there, others by HTTP ranges.

Nothing is stored. A file's address on the Hub redirects to a signed link on another host, which is valid for an hour
and not counted against the rate limit. So the link is kept, and asked for again when it no longer answers.

A read that fails continues at its last byte: after a pause, which the answer may ask for, on a fresh link where the
old one may be at fault, and through Xet when links fail again and again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from checkpoints.problems import Cancelled, CheckpointError, Problem
from checkpoints.repositories.cache import cached_commit, cached_files, files_of_snapshot
from checkpoints.repositories.hub_errors import gated, hub_errors
from checkpoints.repositories.open_files import OpenFiles
from checkpoints.repositories.repository import Location, Token, current_token
from checkpoints.repositories.retry import RETRIED, Retries, retry, retry_after
from checkpoints.repositories.xet import XetError, XetReader

# Failures in a row before a read of a running merge is given up: after about a minute.
READ_ATTEMPTS = 8
# Planning is interactive: give up connecting after a second or two.
ATTEMPTS_TO_CONNECT = 3
# Failures in a row after which reads change from links to Xet, or back.
SWITCH = 3
# Bytes after which a connection that breaks does not count as a failure.
PROGRESS = 1 << 20
CONNECTIONS = 32
# Seconds to connect, and seconds without a byte, before a request counts as stalled.
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 20.0
# A link that has expired answers one of these; so does one whose signature a CDN no longer likes.
LINK_GONE = {400, 401, 403, 404, 410}
REDIRECTS = {301, 302, 303, 307, 308}


class _WrongAnswerError(Exception):
    """Bytes came, and they are not those that were asked for."""


@cache
def _certificates() -> ssl.SSLContext:
    """Of the authorities to trust: loading them takes as long as some of the requests, so once will do."""
    return httpx2.create_ssl_context()


def find_on_hub(name: str, revision: str | None, token: Token) -> HubRepository:
    """Ask the Hub for the commit that a revision stands for, and for its files; with HF_HUB_OFFLINE, ask the cache.

    Raises:
        CheckpointError: there is no such model or revision for this token, it is gated, or the Hub is silent.
    """
    if constants.HF_HUB_OFFLINE:
        return _find_offline(name, revision, token)
    api = HfApi()

    def ask() -> Any:
        return api.model_info(
            name, revision=revision, files_metadata=True, timeout=30, token=current_token(token)
        )

    with hub_errors(name, revision):
        info = retry(ask, ATTEMPTS_TO_CONNECT)
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return HubRepository(name, info.sha, files, token)


def _find_offline(name: str, revision: str | None, token: Token) -> HubRepository:
    commit = cached_commit(name, revision)
    if commit is None:
        at = f"{name}@{revision}" if revision else name
        raise CheckpointError(Problem("not-cached", {"model": name, "revision": revision}, at))
    return HubRepository(name, commit, files_of_snapshot(name, commit), token)


class HubRepository:
    """The files of one commit of a model on the Hub.

    The cache does not record whose token a file came with. So only the machine's own login (`token` None) reads it
    freely. Any other token, or none at all, first has to be let in by the Hub, now, to this model at this commit.

    Args:
        name: `owner/name`
        version: the commit
        files: sizes in bytes by path
        token: whose access to use
    """

    is_folder = False

    def __init__(self, name: str, version: str, files: Mapping[str, int], token: Token):
        self.name = name
        self.version = version
        self.files = files
        self._token = token
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(CONNECT_TIMEOUT, read=READ_TIMEOUT),
            limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            follow_redirects=False,
            verify=_certificates(),
        )
        self._links: dict[str, str] = {}
        self._lock = threading.Lock()
        self._asking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._interrupted = threading.Event()
        self._cached = self._find_cached()
        self._open = OpenFiles()
        self._admitting = threading.Lock()
        self._is_admitted = token is None
        self._xet = XetReader(self._ask_for_xet)
        self._xet_hashes: dict[str, str] = {}
        self._by_xet = False
        self._failures = 0
        self.read_by: set[str] = set()
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()

    def _find_cached(self) -> dict[str, Path]:
        """The files that are in the cache."""
        return cached_files(self.name, self.version, self.files)

    def is_local(self, file: str) -> bool:
        return file in self._cached

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        if not len(buffer) or self._read_from_cache(file, start, buffer):
            return
        if constants.HF_HUB_OFFLINE:
            values = {"model": self.name, "file": file}
            raise CheckpointError(Problem("file-not-cached", values, self.name))
        self._read(file, start, buffer)

    def _read_from_cache(self, file: str, start: int, buffer: memoryview) -> bool:
        """Fill the buffer from the cache, if it has the file."""
        path = self._cached.get(file)
        if path is None or start + len(buffer) > self.files[file]:
            return False
        self._admit(file)
        try:
            self._open.read_into(str(path), start, buffer)
        except (OSError, EOFError):  # it was deleted in the meantime, or is damaged
            return False
        self.read_by.add("cache")
        return True

    def _admit(self, file: str) -> None:
        """Make sure that this login may read what is in the cache.

        Anyone may see the commit and the list of files of a gated model; only asking for a file shows who is let in.
        """
        with self._admitting:
            if self._is_admitted:
                return
            if not constants.HF_HUB_OFFLINE:
                self._repeat(file, (0, self.files[file]), lambda link: True)
            elif "SPACE_ID" in os.environ:
                raise CheckpointError(Problem("cache-closed", {"model": self.name}, self.name))
            self._is_admitted = True

    def _read(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill the buffer over the network."""
        done = 0

        def read_on(link: str) -> bool:
            nonlocal done
            if self._by_xet and file in self._xet_hashes:
                self._xet.read(self._xet_hashes[file], self.files[file], start + done, buffer[done:])
                came, way = len(buffer) - done, "Xet"
            else:
                came, way = self._fetch(link, file, start + done, buffer[done:]), "HTTP"
            done += came  # what came is kept; the rest is asked for
            if came:
                self.read_by.add(way)
            return came >= PROGRESS or done == len(buffer)

        self._repeat(file, (start, start + len(buffer)), read_on, lambda: done == len(buffer))

    def _repeat(
        self,
        file: str,
        place: tuple[int, int],
        attempt: Callable[[str], bool],
        is_done: Callable[[], bool] = lambda: True,
    ) -> None:
        """Attempt to read a file until that is done, with pauses after failures.

        Args:
            file: its path
            place: first and last offset, for messages
            attempt: reads by a link; returns whether it got far enough not to count as a failure
            is_done: whether there is nothing left to read after an attempt
        """
        retries = Retries(READ_ATTEMPTS, self._pause)
        while True:
            link = ""
            response = None
            try:
                link = self._link(file)
                if attempt(link):
                    retries.progress()
                    self._failures = 0
                if is_done():
                    return
                reason = "the answer was cut short"
            except httpx2.HTTPStatusError as error:
                response = error.response
                self._refuse(file, link, response, error)
                reason = f"status {response.status_code}"
            except httpx2.TransportError as error:
                self._forget(file, link)  # a fresh one may lead to a host that answers
                reason = type(error).__name__
            except (_WrongAnswerError, XetError) as error:
                self._forget(file, link)
                reason = str(error)
            if self._interrupted.is_set():
                raise Cancelled
            self._count_failure(file)
            if not retries.wait(response):
                raise self._unreadable(file, *place, reason, response)

    def _count_failure(self, file: str) -> None:
        """Change from links to Xet, or back, for all files when either fails again and again."""
        with self._lock:
            self._failures += 1
            if self._failures >= SWITCH and file in self._xet_hashes:
                self._failures = 0
                self._by_xet = not self._by_xet

    def _ask_for_xet(self) -> Mapping[str, Any]:
        """Access to Xet for a while: the Hub gives a token of its own for that."""
        url = self._xet_token_url()
        response = self._client.get(
            url, headers=self._headers(url), extensions={"trace": self._remember_stream}
        )
        response.raise_for_status()
        access: Mapping[str, Any] = response.json()
        return access

    def _xet_token_url(self) -> str:
        return f"{constants.ENDPOINT}/api/models/{self.name}/xet-read-token/{quote(self.version, safe='')}"

    def _file_url(self, file: str) -> str:
        return f"{constants.ENDPOINT}/{self.name}/resolve/{quote(self.version, safe='')}/{quote(file)}"

    def _pause(self, seconds: float) -> None:
        self._interrupted.wait(seconds)

    def _refuse(self, file: str, link: str, response: httpx2.Response, error: Exception) -> None:
        """Raise what an answer means, if no further attempt will help; else make ready for one."""
        if response.headers.get("X-Error-Code") == "GatedRepo":
            # A gated model's page and list of files are open; only its files are not.
            raise gated(self.name) from error
        if response.status_code in RETRIED:
            return
        if link and response.status_code in LINK_GONE:
            self._forget(file, link)
        elif response.status_code in (401, 403, 404):
            # It could be read when it was opened.
            values = {"model": self.name, "status": response.status_code}
            raise CheckpointError(Problem("access-lost", values, self.name)) from error
        else:
            raise self._unreadable(file, 0, self.files[file], f"status {response.status_code}") from error

    def _unreadable(
        self, file: str, start: int, end: int, reason: str, response: httpx2.Response | None = None
    ) -> CheckpointError:
        values = {
            "file": file,
            "start": start,
            "end": end,
            "reason": reason,
            "seconds": retry_after(response),
        }
        return CheckpointError(Problem("unreadable", values, self.name))

    def _link(self, file: str) -> str:
        """The address that answers with the file's bytes: its own, or the signed one it redirects to."""
        with self._lock:
            asking = self._asking[file]
        with asking:  # once for all who wait for it: these requests are limited
            with self._lock:
                link = self._links.get(file)
            if link is None:
                link = self._ask_for_link(file)
                with self._lock:
                    self._links[file] = link
            return link

    def _ask_for_link(self, file: str) -> str:
        url = self._file_url(file)
        for _ in range(5):
            response = self._client.head(
                url, headers=self._headers(url), extensions={"trace": self._remember_stream}
            )
            if response.status_code not in REDIRECTS:
                response.raise_for_status()
                return url
            if "X-Xet-Hash" in response.headers:
                self._found_xet(file, response.headers["X-Xet-Hash"])
            url = urljoin(url, response.headers["Location"])
            if not self._on_hub(url):
                # A signed link is made for GET; asking it for HEAD may fail.
                return url
        raise httpx2.TooManyRedirects("too many redirects", request=response.request)

    def _found_xet(self, file: str, xet_hash: str) -> None:
        """Remember by which hash Xet has a file."""
        if self._xet.is_available():
            self._xet_hashes[file] = xet_hash

    def _forget(self, file: str, link: str) -> None:
        with self._lock:
            if self._links.get(file) == link:
                del self._links[file]

    def _on_hub(self, url: str) -> bool:
        return urlsplit(url)[:2] == urlsplit(constants.ENDPOINT)[:2]

    def _headers(self, url: str) -> dict[str, str]:
        """The token goes to the Hub, and to no other host."""
        if not self._on_hub(url):
            return {"Accept-Encoding": "identity"}
        token = current_token(self._token)
        return {**build_hf_headers(token=token, library_name="alloy"), "Accept-Encoding": "identity"}

    def _fetch(self, link: str, file: str, start: int, buffer: memoryview) -> int:
        """Read one range into the buffer; returns how many bytes came."""
        if not len(buffer):
            return 0
        end = start + len(buffer)
        headers = {**self._headers(link), "Range": f"bytes={start}-{end - 1}"}
        done = 0
        extensions = {"trace": self._remember_stream}
        with self._client.stream("GET", link, headers=headers, extensions=extensions) as response:
            if response.status_code >= 300:
                response.read()
                response.raise_for_status()
            size = self.files[file]
            # Where the whole file is asked for, some hosts leave the range out.
            is_whole = response.status_code == 200 and start == 0 and len(buffer) == size
            given = response.headers.get("Content-Range", f"status {response.status_code}")
            if not is_whole and (response.status_code, given) != (206, f"bytes {start}-{end - 1}/{size}"):
                raise _WrongAnswerError(f"asked for bytes {start} to {end - 1}, the host answered {given}")
            try:
                for chunk in response.iter_raw():
                    if done + len(chunk) > len(buffer):
                        raise _WrongAnswerError("the host sent more than was asked for")
                    buffer[done : done + len(chunk)] = chunk
                    done += len(chunk)
            except httpx2.TransportError:
                return done
        return done

    def _remember_stream(self, event: str, details: Mapping[str, Any]) -> None:
        """Keep the connections of the client, for `interrupt`: called by it at each step of a request."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._streams.add(details["return_value"])
        if self._interrupted.is_set():
            self.interrupt()

    def location(self, files: Iterable[str]) -> Location:
        return Location(self.name, self.version, False, {file: self.files[file] for file in files})

    def interrupt(self) -> None:
        self._interrupted.set()
        for stream in list(self._streams):
            # A thread that waits for bytes does not notice when its socket is closed, only when it is shut down.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)
        self._xet.interrupt()  # after it: who reads through Xet may be waiting for the Hub

    def close(self) -> None:
        self._client.close()
        self._open.close()
