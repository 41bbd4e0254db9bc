"""Faults on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Fault:
    """Something that goes wrong with the requests that match.

    Attributes:
        method: "" for any.
        path: regular expression, searched for in the path as sent.
        status: answer this and do nothing else.
        headers: go with that status (say, ``Retry-After``); without one they replace those of the true answer.
        reset: cut the connection before anything is done, so that the client meets a reset.
        delay: seconds to wait before anything.
        truncate: announce the whole body, send this many bytes of it, close. With 0 on a POST the work is
            done and the answer is lost.
        stall: announce the whole body, send this many bytes of it, then nothing until the client goes away.
        rate: bytes a second of body at most, for each request.
        times: how many requests it hits; None means all.
        skip: how many matching requests pass unharmed first.
        hits: how many it has hit.
    """

    method: str = ""
    path: str = ""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False
    delay: float = 0.0
    truncate: int | None = None
    stall: int | None = None
    rate: float | None = None
    times: int | None = 1
    skip: int = 0
    hits: int = 0

    def fires(self, method: str, path: str) -> bool:
        """Whether it hits this request; counts."""
        if (self.method and method != self.method) or not re.search(self.path, path):
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.hits += 1
        return True


class Faults:
    """The faults that are waiting."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults = []

    def meet(self, method: str, path: str) -> Fault:
        """What a request meets: every fault that matches fires; delays add up, of the rest the oldest wins."""
        with self._lock:
            firing = [fault for fault in self._faults if fault.fires(method, path)]
        met = Fault(delay=sum(fault.delay for fault in firing))
        for fault in reversed(firing):
            if fault.status is not None or fault.headers:
                met.status, met.headers = fault.status, fault.headers
            met.reset = met.reset or fault.reset
            met.truncate = met.truncate if fault.truncate is None else fault.truncate
            met.stall = met.stall if fault.stall is None else fault.stall
            met.rate = met.rate if fault.rate is None else fault.rate
        return met
