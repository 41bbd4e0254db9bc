"""Machines that take work, and what follows when one of them is lost.

A cluster is given calls: the address of a function, a text, and what running it takes. The function yields lines. No
token is in a call; it goes along apart, or the machines use their own login.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple, Protocol

from checkpoints.problems import Problem, ProblemError
from checkpoints.repositories.repository import Token

# How often a call is made again whose machine or process was lost.
RETRIES = 3
# Seconds between two looks at what the caller wants.
PULSE = 0.1


class ClusterError(ProblemError):
    """A cluster cannot be reached, or cannot do what it was asked for."""


@dataclass(frozen=True)
class Call:
    """Work for one machine.

    Args:
        function: `module:name`; it is called with `text`, a token and `cpus`, and yields lines
        text: what it needs; holds no token
        label: what it is, for people
        cpus: that it keeps busy
        memory: bytes that it takes at most
    """

    function: str
    text: str
    label: str
    cpus: int
    memory: int


class Machine(NamedTuple):
    """What a machine of a cluster has in all: processors, and bytes of memory."""

    cpus: int
    memory: int


class LossCause(Enum):
    """Why a call came to no end."""

    DIED = "its process or machine died"
    PREEMPTED = "its machine was taken back"
    OUT_OF_MEMORY = "it was out of memory"


class Line(NamedTuple):
    """What a call yielded."""

    call: Call
    text: str


class Ended(NamedTuple):
    """A call that came to its end."""

    call: Call


class Lost(NamedTuple):
    """A call that did not."""

    call: Call
    loss: LossCause


class Failed(NamedTuple):
    """A call that raised an error."""

    call: Call
    error: BaseException


class Cluster(Protocol):
    """Runs calls, each once: it does not repeat what was lost."""

    name: str

    def machines(self) -> list[Machine]:
        """Those that take work now; empty where they come when they are needed.

        Raises:
            ClusterError: the cluster cannot be reached.
        """

    def submit(self, call: Call, token: Token) -> None:
        """Queue a call. No list, log, file or error of the cluster shows the token."""

    def events(self, seconds: float) -> list[Line | Ended | Lost | Failed]:
        """What happened, in order; waits up to `seconds` for something to happen."""

    def cancel(self) -> None:
        """End all calls, and wait until they are ended, but not for long."""


class _Trouble(NamedTuple):
    """What befell a call so far."""

    deaths: int = 0
    grew: bool = False


class Calls:
    """Calls under way on a cluster.

    What is lost is submitted again: three times after deaths, which do not count where a machine was taken back, and
    once, with twice the memory, where there was too little.

    Args:
        cluster: that runs them
        token: which machines are to use; None: their own login
        pulse: called ten times a second; raises to stop
        rest: what is left of a call that was lost; None: nothing
    """

    def __init__(
        self,
        cluster: Cluster,
        token: Token,
        pulse: Callable[[], None],
        rest: Callable[[Call], Call | None] = lambda call: call,
    ):
        self._cluster = cluster
        self._token = token
        self._pulse = pulse
        self._rest = rest
        self._under_way: dict[Call, _Trouble] = {}

    def submit(self, call: Call) -> None:
        self._submit(call, _Trouble())

    def arrivals(self) -> Generator[list[Line], None, None]:
        """The lines that arrived, ten times a second and perhaps none, until all calls have ended.

        Ends all calls before it raises.

        Raises:
            ClusterError: a call was lost too often, or needs more memory than there is
            Exception: as a call raised it
        """
        try:
            while self._under_way:
                self._pulse()
                events = self._cluster.events(PULSE)
                yield [event for event in events if isinstance(event, Line)]
                for event in events:
                    self._settle(event)
        finally:
            if self._under_way:
                self._cluster.cancel()

    def _submit(self, call: Call, trouble: _Trouble) -> None:
        self._under_way[call] = trouble
        self._cluster.submit(call, self._token)

    def _settle(self, event: Line | Ended | Lost | Failed) -> None:
        if isinstance(event, Ended):
            del self._under_way[event.call]
        elif isinstance(event, Failed):
            raise event.error
        elif isinstance(event, Lost):
            trouble = self._under_way.pop(event.call)
            rest = self._rest(event.call)
            if rest is not None:
                memory = max(rest.memory, event.call.memory if trouble.grew else 0)
                self._again(replace(rest, memory=memory), event.loss, trouble)

    def _again(self, call: Call, loss: LossCause, trouble: _Trouble) -> None:
        if loss is LossCause.OUT_OF_MEMORY:
            most = max((machine.memory for machine in self._fitting(call)), default=2 * call.memory)
            if trouble.grew or most <= call.memory:
                values = {"work": call.label, "memory": call.memory / 1e9}
                raise ClusterError(Problem("machine-out-of-memory", values))
            self._submit(replace(call, memory=min(2 * call.memory, most)), trouble._replace(grew=True))
            return
        deaths = trouble.deaths + (loss is LossCause.DIED)
        if deaths > RETRIES:
            raise ClusterError(Problem("machine-lost", {"work": call.label, "times": deaths}))
        self._submit(call, trouble._replace(deaths=deaths))

    def _fitting(self, call: Call) -> list[Machine]:
        with suppress(ClusterError):
            return [machine for machine in self._cluster.machines() if machine.cpus >= call.cpus]
        return []


def check_size(call: Call, machines: list[Machine]) -> None:
    """Refuse what no machine of a cluster could ever run; it would wait forever.

    Args:
        machines: of the cluster; none: they come when they are needed, and how large is not known

    Raises:
        ClusterError: a call takes more than each of them has.
    """
    if machines and not any(m.cpus >= call.cpus and m.memory >= call.memory for m in machines):
        largest = max(machines, key=lambda machine: (machine.memory, machine.cpus))
        values = {
            "work": call.label,
            "cpus": call.cpus,
            "memory": call.memory / 1e9,
            "largest": largest.memory / 1e9,
            "most": max(machine.cpus for machine in machines),
        }
        raise ClusterError(Problem("larger-than-machines", values))
