"""A merge whose result another merge uses: a checkpoint whose tensors are merged when they are read.

Nothing is stored on the way. What is read is rounded to the type that the merge would have been written in, so that
the result is the same as if it had been.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Set
from functools import cached_property
from typing import Any

from checkpoints import Checkpoint, TensorHeader
from checkpoints.lru_cache import LruCache
from merging.plan import Plan, PlannedTensor

# Bytes of merged tensors that are kept, for methods that read theirs more than once.
HELD = 256 * 1024 * 1024


def held(plan: Plan) -> int:
    """Bytes of merged tensors that are kept, of the result of a plan."""
    largest = max((tensor.bytes for tensor in plan.tensors), default=0)
    return min(plan.bytes_out, max(HELD, 2 * largest))


# Merges a tensor of a plan from its models; returns its bytes.
Compute = Callable[[Plan, PlannedTensor, Sequence[Checkpoint]], bytearray]


class IntermediateMerge:
    """The result of a plan, as a checkpoint.

    Args:
        name: of the merge, by which recipes name it
        plan: without problems
        models: the plan's, opened; they are closed with it
        compute: None where nothing will be read but headers and small files
    """

    def __init__(self, name: str, plan: Plan, models: Sequence[Checkpoint], compute: Compute | None = None):
        self.name = name
        self.plan = plan
        self.models = models
        self.compute = compute
        self.adapters = ()
        self.warnings = ()
        self.config: dict[str, Any] = json.loads(plan.files.get("config.json", "{}"))
        self.tensors: Mapping[str, TensorHeader] = {
            t.name: TensorHeader(t.name, t.dtype, t.shape, "", 0, t.bytes) for t in plan.tensors
        }
        self._planned = {tensor.name: tensor for tensor in plan.tensors}
        self._kept = LruCache[bytearray](HELD, len)

    @property
    def version(self) -> str:
        return self.plan.fingerprint

    is_cached = False

    @property
    def is_folder(self) -> bool:
        return not self.is_remote

    @property
    def is_remote(self) -> bool:
        return any(model.is_remote for model in self.models)

    @property
    def read_by(self) -> Set[str]:
        return {way for model in self.models for way in model.read_by}

    @cached_property
    def files(self) -> Mapping[str, int]:
        texts = {name: len(text.encode()) for name, text in self.plan.files.items()}
        return {
            name: self.models[index].files[name] for name, index in self.plan.copied_files.items()
        } | texts

    def read_file(self, file: str) -> bytes:
        if file in self.plan.files:
            return self.plan.files[file].encode()
        return self.models[self.plan.copied_files[file]].read_file(file)

    def read_range(self, file: str, start: int, buffer: memoryview) -> None:
        buffer[:] = memoryview(self.read_file(file))[start : start + len(buffer)]

    def read_into(self, tensor: str, start: int, buffer: memoryview) -> None:
        buffer[:] = memoryview(self._merged(tensor))[start : start + len(buffer)]

    def _merged(self, name: str) -> bytearray:
        compute = self.compute
        assert compute
        return self._kept.get(name, lambda: compute(self.plan, self._planned[name], self.models))

    def bytes_to_read(self, tensor: str) -> int:
        return sum(
            self.models[part.model].bytes_to_read(part.tensor) for part in self._planned[tensor].inputs
        )

    def interrupt(self) -> None:
        for model in self.models:
            model.interrupt()

    def close(self) -> None:
        for model in self.models:
            model.close()
