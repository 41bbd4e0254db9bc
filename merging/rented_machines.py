"""The machines that Hugging Face rents out, and what work takes on each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from huggingface_hub import HfApi, JobHardwareInfo

from merging.plan import Plan
from merging.planning.costs import rough_seconds

# Seconds until a machine has started and installed what a merge needs.
START_SECONDS = 120
# The least time that a job may take, and how much longer than estimated, which is good to a factor of two at best.
MIN_TIMEOUT, SAFETY_FACTOR = 3600, 4
# The share of a machine's memory that a merge may take.
USABLE = 0.9
MOST_OFFERS = 6
_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_MINUTES = {"second": 1 / 60, "minute": 1, "hour": 60}


@dataclass(frozen=True)
class RentedMachine:
    """A kind of machine.

    Args:
        name: as the Hub calls it
        title: for people
        cpus: processors
        memory: in bytes
        dollars: a minute
        has_gpu: which no work uses
    """

    name: str
    title: str
    cpus: int
    memory: int
    dollars: float
    has_gpu: bool = False


@dataclass(frozen=True)
class Needs:
    """What work needs of a machine, and how long it takes there.

    Args:
        memory: bytes
        alone: seconds by the number of processors, for those of `CORES`
    """

    memory: int
    alone: tuple[float, ...]

    @classmethod
    def of(cls, plan: Plan) -> Needs:
        return cls(plan.peak_memory_bytes, tuple(rough_seconds(plan, cores) for cores in CORES))

    @classmethod
    def scaled(cls, memory: int, seconds: float, cores: int) -> Needs:
        """Of work that takes some seconds with this many processors: others share it evenly."""
        return cls(memory, tuple(seconds * cores / many for many in CORES))

    @classmethod
    def lasting(cls, memory: int, seconds: float) -> Needs:
        """Of work that goes on for some seconds on any machine."""
        return cls(memory, (seconds,) * len(CORES))

    def seconds(self, cpus: int) -> float:
        """From the start of a machine to the end of the work."""
        return START_SECONDS + self.alone[max(i for i, cores in enumerate(CORES) if cores <= max(cpus, 1))]


CORES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Offer:
    """A machine that work fits on.

    Args:
        seconds: that it takes there, roughly
        dollars: that they cost
    """

    machine: RentedMachine
    seconds: float
    dollars: float


def machines(api: HfApi) -> list[RentedMachine]:
    """What there is.

    Raises:
        HfHubHTTPError, httpx2.HTTPError: the Hub does not say.
    """
    found = (_machine(info) for info in api.list_jobs_hardware())
    return [machine for machine in found if machine]


def _machine(info: JobHardwareInfo) -> RentedMachine | None:
    """A machine, if the Hub describes it in a way that can be read."""
    memory = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B)", str(info.ram).strip().upper())
    cpus = re.match(r"\d+", str(info.cpu).strip())
    minutes = _MINUTES.get(info.unit_label)
    if not (memory and cpus and minutes and isinstance(info.unit_cost_usd, int | float)):
        return None
    size = int(float(memory[1]) * _UNITS[memory[2]])
    dollars = info.unit_cost_usd / minutes
    return RentedMachine(info.name, info.pretty_name, int(cpus[0]), size, dollars, bool(info.accelerator))


def offers(needs: Needs, there: Iterable[RentedMachine]) -> list[Offer]:
    """The machines that work fits on, the cheapest first; those without a GPU where there are any."""
    fitting = [machine for machine in there if machine.memory * USABLE >= needs.memory]
    plain: Sequence[RentedMachine] = [machine for machine in fitting if not machine.has_gpu] or fitting
    found = []
    for machine in plain:
        seconds = needs.seconds(machine.cpus)
        found.append(Offer(machine, seconds, math.ceil(seconds / 60) * machine.dollars))
    return sorted(found, key=lambda offer: (offer.dollars, offer.seconds))[:MOST_OFFERS]


def timeout(seconds: float) -> int:
    """Seconds after which a job is ended, from the seconds that it was estimated to take."""
    return math.ceil(max(MIN_TIMEOUT, SAFETY_FACTOR * seconds))
