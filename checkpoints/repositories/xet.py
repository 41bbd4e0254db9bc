"""A second way to read ranges of a file on the Hub: from Xet, the store behind it.

It uses other hosts than signed links do, and is used while those fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from huggingface_hub import constants

# Read timeout: this many seconds, plus one for each MIN_SPEED bytes. hf_xet itself retries for minutes.
TIMEOUT, MIN_SPEED = 20.0, 100_000
# A token is not used in its last seconds.
MARGIN = 60


class XetError(Exception):
    """Xet did not give all the bytes; says why."""


class XetReader:
    """Reads ranges of files by their Xet hash.

    Args:
        ask: gets the Hub's answer to a request for read access: casUrl, accessToken, exp
    """

    def __init__(self, ask: Callable[[], Mapping[str, Any]]):
        self._ask = ask
        self._lock = threading.Lock()
        self._session: Any = None
        self._access: Mapping[str, Any] = {"exp": 0}
        self._groups: set[Any] = set()
        self._interrupted = False

    @staticmethod
    def is_available() -> bool:
        """Whether hf_xet is installed, and not turned off by HF_HUB_DISABLE_XET."""
        return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None

    def read(self, file_hash: str, size: int, start: int, buffer: memoryview) -> None:
        """Fill a buffer with bytes of a file of `size` bytes from offset `start` on.

        Raises:
            XetError: not all of them came
        """
        import hf_xet

        group = self._open_group()
        # A stream that waits can be ended by its group only, so each has one of its own.
        deadline = threading.Timer(TIMEOUT + len(buffer) / MIN_SPEED, group.abort)
        deadline.start()
        done = 0
        try:
            info = hf_xet.XetFileInfo(file_hash, size)
            for chunk in group.download_stream(info, start=start, end=start + len(buffer)):
                buffer[done : done + len(chunk)] = chunk
                done += len(chunk)
        except Exception as error:  # hf_xet's are of many kinds, and none says what to do
            self._access = {"exp": 0}
            raise XetError(f"Xet: {type(error).__name__}") from error
        finally:
            deadline.cancel()
            deadline.join()
            with self._lock:
                self._groups.discard(group)
        if done != len(buffer):  # a stream that fails may end as if it were complete
            self._access = {"exp": 0}
            raise XetError(f"Xet: {done} of {len(buffer)} bytes came")

    def _open_group(self) -> Any:
        import hf_xet

        with self._lock:
            if self._access["exp"] < time.time() + MARGIN:
                self._access = self._ask()
            self._session = self._session or hf_xet.XetSession()
            group = self._session.new_download_stream_group(
                endpoint=self._access["casUrl"],
                token=self._access["accessToken"],
                token_expiry_unix_secs=int(self._access["exp"]),
            )
            self._groups.add(group)
            if self._interrupted:
                group.abort()
            return group

    def interrupt(self) -> None:
        """Let reads in other threads end at once."""
        with self._lock:
            self._interrupted = True
            for group in self._groups:
                group.abort()
