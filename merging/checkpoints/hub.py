"""A model on the Hub, at one commit, read by HTTP ranges; nothing is stored on the way.

A file's address on the Hub redirects to a signed link on another host, which holds for an hour and is not
counted against the rate limit. So the link is kept, and asked for again when it no longer answers.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from merging.checkpoints.repository import Token, current_token
from merging.problems import CheckpointError, Problem

T = TypeVar("T")

ATTEMPTS = 6
CONNECTIONS = 32
# A link that has expired answers one of these; so does one whose signature a CDN no longer likes.
LINK_GONE = {400, 401, 403, 404, 410}
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
REDIRECTS = {301, 302, 303, 307, 308}


def hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id: `owner/name`, or `name` alone for a few old models."""
    part = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
    return (
        len(name) <= 96 + 1 + 96 and re.fullmatch(f"{part}(/{part})?", name) is not None and ".." not in name
    )


def patiently(call: Callable[[], T], pause: Callable[[float], object] = time.sleep) -> T:
    """Call the Hub, and once more after a pause while it answers that it is busy or not at all."""
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except (httpx2.TransportError, HfHubHTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if attempt == ATTEMPTS - 1 or (status is not None and status not in TRY_AGAIN):
                raise
            pause(_wait(attempt, getattr(error, "response", None)))
    raise AssertionError("unreachable")


def _wait(attempt: int, response: Any) -> float:
    """Seconds to wait: what the answer asks for, else 0.5, 1, 2, ..."""
    headers = response.headers if response is not None else {}
    limit = re.search(r"\bt=(\d+)", headers.get("RateLimit", "")) if response is not None else None
    if limit and response.status_code == 429:
        return float(limit[1]) + 1
    asked = headers.get("Retry-After", "")
    return float(asked) if asked.isdigit() else 0.5 * 2**attempt


class HubRepository:
    """The files of one commit of a model on the Hub.

    Raises:
        CheckpointError: there is no such model or revision for this token, it is gated, or the Hub is silent.
    """

    is_remote = True

    def __init__(self, name: str, revision: str | None, token: Token):
        self.name = name
        self._token = token
        info = self._info(revision)
        self.version: str = info.sha
        self.files: Mapping[str, int] = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(30, read=60),
            limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            follow_redirects=False,
        )
        self._links: dict[str, str] = {}
        self._lock = threading.Lock()

    def _info(self, revision: str | None) -> Any:
        api = HfApi()

        def ask() -> Any:
            return api.model_info(
                self.name,
                revision=revision,
                files_metadata=True,
                timeout=30,
                token=current_token(self._token),
            )

        at = f"{self.name}@{revision}" if revision else self.name
        try:
            return patiently(ask)
        except GatedRepoError as error:
            raise self._gated() from error
        except RevisionNotFoundError as error:
            message = f"{self.name} has no revision '{revision}'."
            raise _error("no-revision", message, "Name a branch, a tag or a commit of it.", at) from error
        except RepositoryNotFoundError as error:
            message = (
                f"There is no model {self.name} on {urlsplit(constants.ENDPOINT).netloc} for this login."
            )
            fix = "Check the spelling; if it is private, sign in with an account that may read it."
            raise _error("no-model", message, fix, at) from error
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            message = f"The Hub did not answer for {self.name} ({type(error).__name__})."
            raise _error("hub-silent", message, "Check the connection and try again.", at) from error

    def _gated(self) -> CheckpointError:
        fix = f"Accept its terms on {constants.ENDPOINT}/{self.name} and sign in with that account."
        return _error("gated", f"{self.name} is gated, and this login has no access.", fix, self.name)

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        done = 0
        reason = ""
        for attempt in range(ATTEMPTS):
            link = ""
            try:
                link = self._link(file)
                done += self._fetch(link, file, start + done, buffer[done:])
                if done == len(buffer):
                    return
                reason = "the answer was cut short"  # what came is kept; the rest is asked for
                continue
            except httpx2.HTTPStatusError as error:
                status = error.response.status_code
                reason = f"status {status}"
                if error.response.headers.get("X-Error-Code") == "GatedRepo":
                    # A gated model's page and list of files are open; only its files are not.
                    raise self._gated() from error
                if status in LINK_GONE and link:
                    self._forget(file, link)
                elif status not in TRY_AGAIN:
                    break
                if attempt:
                    time.sleep(_wait(attempt, error.response))
            except httpx2.TransportError as error:
                reason = type(error).__name__
                time.sleep(_wait(attempt, None))
        message = f"Bytes {start} to {start + len(buffer)} of {file} could not be read ({reason})."
        raise _error("unreadable", message, "Try again; if it stays, look at the model's page.", self.name)

    def _link(self, file: str) -> str:
        """The address that answers with the file's bytes: its own, or the signed one it redirects to."""
        with self._lock:
            if file in self._links:
                return self._links[file]
        url = f"{constants.ENDPOINT}/{self.name}/resolve/{quote(self.version, safe='')}/{quote(file)}"
        for _ in range(5):
            response = self._client.head(url, headers=self._headers(url))
            if response.status_code not in REDIRECTS:
                break
            url = urljoin(url, response.headers["Location"])
            if not self._on_hub(url):
                # A signed link is made for GET; asking it for HEAD may fail.
                break
        else:
            raise httpx2.TooManyRedirects("too many redirects", request=response.request)
        if response.status_code not in REDIRECTS:
            response.raise_for_status()
        with self._lock:
            self._links[file] = url
        return url

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
        with self._client.stream("GET", link, headers=headers) as response:
            if response.status_code >= 300:
                response.read()
                response.raise_for_status()
            if response.status_code == 200 and start == 0 and self.files.get(file) == len(buffer):
                pass  # the whole file was asked for, and some hosts then leave the range out
            elif response.status_code != 206 or not response.headers.get("Content-Range", "").startswith(
                f"bytes {start}-{end - 1}/"
            ):
                given = response.headers.get("Content-Range", f"status {response.status_code}")
                message = f"Asked for bytes {start} to {end - 1} of {file}; the host answered {given}."
                raise _error("wrong-range", message, "Try again later.", self.name)
            try:
                for chunk in response.iter_raw():
                    buffer[done : done + len(chunk)] = chunk
                    done += len(chunk)
            except httpx2.TransportError:
                return done
        return done

    def close(self) -> None:
        self._client.close()


def _error(code: str, message: str, fix: str, where: str) -> CheckpointError:
    return CheckpointError(Problem(code, message, fix, where))
