"""Ray as a cluster: that of `RAY_ADDRESS`, the one that this machine belongs to, or one of this machine alone.

Ray's own retries are off: they would repeat what has arrived. A token travels as the value of a function, whose text
shows nothing of it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from checkpoints.cluster import Call, ClusterError, Ended, Failed, Line, LossCause, Lost, Machine
from checkpoints.problems import Problem
from checkpoints.repositories.repository import Token, current_token

# Bytes of Ray's store of objects where this machine alone is the cluster; only lines go through it.
STORE_BYTES = 80_000_000
# Seconds that a cluster may take to answer.
CONNECT_SECONDS = 15.0
# Seconds that a stop waits for processes to end.
STOP_SECONDS = 5.0
# How Ray numbers the ends of machines that were taken back with notice: preempted, and drained because they were idle.
DRAINED = (3, 4)


class RayCluster:
    """Calls as Ray tasks. It connects when it is first used, and stays connected until the process ends."""

    name = "ray"

    def __init__(self) -> None:
        self._under_way: dict[Any, Call] = {}  # by the generator of its lines
        self._nodes: dict[Call, str] = {}  # where it runs
        self._remote: Any = None

    def machines(self) -> list[Machine]:
        ray: Any = self._connected()
        nodes: list[dict[str, Any]] = ray.nodes()
        resources = [node["Resources"] for node in nodes if node["Alive"]]
        found = [Machine(int(each.get("CPU", 0)), int(each.get("memory", 0))) for each in resources]
        return [machine for machine in found if machine.cpus]

    def submit(self, call: Call, token: Token) -> None:
        ray = self._connected()
        if self._remote is None:
            self._remote = ray.remote(_worker())
        value = current_token(token)
        options = {"num_cpus": call.cpus, "memory": call.memory, "name": call.label}
        task = self._remote.options(**options, max_retries=0, num_returns="streaming")
        self._under_way[task.remote(call.function, call.text, lambda: value, call.cpus)] = call

    def events(self, seconds: float) -> list[Line | Ended | Lost | Failed]:
        import ray

        found: list[Line | Ended | Lost | Failed] = []
        while True:
            # With a limit of one it returns as soon as there is something.
            waited = 0 if found else seconds
            ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=waited, fetch_local=False)
            if not ready:
                return found
            for lines in ready:
                event = self._next(lines)
                if event is None:
                    continue
                found.append(event)
                if not isinstance(event, Line):
                    self._nodes.pop(self._under_way.pop(lines), None)
            if not self._under_way:
                return found

    def cancel(self) -> None:
        import ray

        ends = [lines.completed() for lines in self._under_way]
        for lines in self._under_way:
            with suppress(ray.exceptions.RayError):
                ray.cancel(lines, force=True)
        self._under_way.clear()
        self._nodes.clear()
        if ends:
            ray.wait(ends, num_returns=len(ends), timeout=STOP_SECONDS, fetch_local=False)

    def _next(self, lines: Any) -> Line | Ended | Lost | Failed | None:
        """What a call did next; None where it only said on which machine it runs."""
        import ray
        from ray import exceptions

        call = self._under_way[lines]
        try:
            found = ray.get(next(lines))
        except StopIteration:
            return Ended(call)
        except exceptions.OutOfMemoryError:
            return Lost(call, LossCause.OUT_OF_MEMORY)
        except exceptions.RayTaskError as error:
            return Failed(call, _plain(error))
        except exceptions.RayError:
            return Lost(call, LossCause.PREEMPTED if self._was_drained(call) else LossCause.DIED)
        if isinstance(found, str):
            return Line(call, found)
        self._nodes[call] = found["node"]
        return None

    def _was_drained(self, call: Call) -> bool:
        """Whether the machine of a call was taken back."""
        import ray

        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        ends = {node["NodeID"]: node.get("DeathReason") for node in nodes if not node["Alive"]}
        return ends.get(self._nodes.get(call, "")) in DRAINED

    def _connected(self) -> Any:
        """Ray, connected.

        Raises:
            ClusterError: Ray is not installed, or the cluster does not answer.
        """
        try:
            import ray
        except ImportError as error:
            raise ClusterError(Problem("ray-not-installed")) from error
        if ray.is_initialized():
            return ray
        _check_address(os.environ.get("RAY_ADDRESS", ""))
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
        try:
            ray.init(address="auto", **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            address = os.environ.get("RAY_ADDRESS")
            if address:
                values = {"address": address, "reason": type(error).__name__}
                raise ClusterError(Problem("cluster-unreachable", values)) from error
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
        return ray


def _check_address(address: str) -> None:
    """Refuse an address at which nothing answers; Ray would try for many minutes.

    Raises:
        ClusterError: nothing answers, or it is one of Ray's client, which other machines cannot be reached by.
    """
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise ClusterError(Problem("cluster-unreachable", {"address": address, "reason": "not host:port"}))
    if not (host and port.isdigit()):
        return  # none, or a word such as "auto"
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        values = {"address": address, "reason": type(error).__name__}
        raise ClusterError(Problem("cluster-unreachable", values)) from error


def _plain(error: Any) -> BaseException:
    """What a call raised, as it raised it."""
    cause: BaseException = getattr(error, "cause", None) or error
    if isinstance(cause, ModuleNotFoundError):
        return ClusterError(Problem("machine-without-alloy", {"module": cause.name or str(cause)}))
    return cause


def _worker() -> Any:
    """What a machine runs. It travels as code, so that one without Alloy can say that it has none."""

    def work(function: str, text: str, token: Any, cpus: int) -> Iterator[Any]:
        import importlib

        import ray

        yield {"node": ray.get_runtime_context().get_node_id()}
        module, _, name = function.partition(":")
        yield from getattr(importlib.import_module(module), name)(text, token(), cpus)

    return work
