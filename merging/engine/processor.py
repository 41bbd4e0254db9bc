"""Which kind of processor computes: files of one model are made by one kind.

Vector instructions of other widths add numbers in another order, so that the last bits of a result differ between kinds
of processors. What is only copied is the same everywhere.
"""

from __future__ import annotations

import platform

from checkpoints.problems import MergeError, Problem
from merging.destinations.receipt import ANY
from merging.plan import Plan, PlannedShard


def processor_kind(device: str) -> str:
    """The kind of processor that computes on a device: the machine's, with the instructions that torch uses
    (`x86_64-avx2`), or the graphics card (`cuda-nvidia-h200`)."""
    import torch

    if device == "cpu":
        parts = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    else:
        parts = [device, torch.cuda.get_device_name()]
    return "-".join("-".join(parts).lower().split())


def computes(plan: Plan, shard: PlannedShard) -> bool:
    """Whether bytes of a shard are computed, and not only copied."""
    for tensor in shard.tensors:
        models = [plan.models[part.model] for part in tensor.inputs]
        if tensor.copied_from is None or any(
            m.adapters or m.alignment or m.made_by or m.generated for m in models
        ):
            return True
    return False


def processor_of(plan: Plan, shard: PlannedShard, device: str) -> str:
    """What computes a shard on this machine, see `Receipt`."""
    return processor_kind(device) if computes(plan, shard) else ANY


class OneKind:
    """Sees that the files of one model are computed by one kind of processor: the first decides.

    Attributes:
        name: of the kind, or ANY while nothing was computed
    """

    def __init__(self) -> None:
        self.name = ANY

    def check(self, processor: str) -> None:
        """Admit a kind of processor.

        Raises:
            MergeError: files of another kind are there.
        """
        if ANY in (self.name, processor):
            self.name = processor if self.name == ANY else self.name
        elif processor != self.name:
            values = {
                "there": self.name,
                "here": processor,
                "capability": _fewer_instructions(self.name, processor),
            }
            raise MergeError(Problem("other-processor", values))


def _fewer_instructions(wanted: str, here: str) -> str | None:
    """What makes torch use fewer instructions, if that is all that differs."""
    machine, _, capability = wanted.rpartition("-")
    if here.startswith(f"{machine}-") and machine in ("x86_64", "amd64"):
        return capability
    return None
