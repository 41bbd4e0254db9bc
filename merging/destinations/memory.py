"""A result in memory: a live transformers model, to be tried before anything is pushed. No file is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from checkpoints.built_model import without_kernels
from checkpoints.dtypes import torch_name
from checkpoints.memory import free_memory
from checkpoints.problems import DestinationError, Problem
from checkpoints.wording import few
from merging.destinations.destination import ResultPlace, Stored
from merging.destinations.receipt import Receipt
from merging.plan import Plan, PlannedShard

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MemoryDestination:
    """Shards are kept as buffers, and the parameters of the model are views of them: the weights exist once.

    Args:
        free: bytes of memory that there are for it; None: as many as the machine has free

    Attributes:
        model: once the run has finished, on the CPU and ready to answer; None before
    """

    name = "merged"
    can_stream = False
    crosses_processes = False
    in_order = False

    def __init__(self, free: int | None = None) -> None:
        self._free = free
        self.model: PreTrainedModel | None = None
        self._plan: Plan | None = None
        self._shards: dict[str, torch.Tensor] = {}
        self._files: dict[str, bytes] = {}

    def held(self, plan: Plan) -> int:
        return 0  # but the result, which is counted as such

    def disk_bytes(self, size: int) -> int:
        return 0

    @property
    def sink(self) -> MemoryDestination:
        return self

    def check(self, plan: Plan | None = None) -> list[Problem]:
        return [Problem("fp8-not-in-files")] if plan and plan.has_scales else []

    def warnings(self, plan: Plan) -> list[Problem]:
        return []

    def begin(self, plan: Plan, check: Callable[[], None]) -> dict[str, Receipt]:
        needed = plan.bytes_out + plan.peak_memory_bytes
        free = free_memory() if self._free is None else self._free
        if needed > free:
            raise DestinationError(Problem("memory-too-small", {"needed": needed, "free": free}))
        self._plan = plan
        return {}

    def open_shard(self, filename: str, size: int) -> MemoryShard:
        buffer = self._shards[filename] = torch.empty(size, dtype=torch.uint8)
        return MemoryShard(buffer)

    def to_data(self) -> None:
        return None

    def admit(self, receipt: Receipt) -> None:
        pass  # its bytes are in place

    def write_file(self, filename: str, data: bytes) -> None:
        self._files[filename] = data

    def finish(self, message: str) -> ResultPlace:
        assert self._plan
        weights = {name: tensor for shard in self._plan.shards for name, tensor in self._tensors(shard)}
        self._shards.clear()
        self.model = build_model({name: data.decode() for name, data in self._files.items()}, weights)
        return ResultPlace("memory")

    def _tensors(self, shard: PlannedShard) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of a shard, by name, as views of its bytes."""
        for tensor, offset in shard.places():
            raw = self._shards[shard.filename][offset : offset + tensor.bytes]
            dtype: Any = getattr(torch, torch_name(tensor.dtype))
            yield tensor.name, raw.view(dtype).view(tensor.shape)

    def abandon(self, *, keep: bool) -> None:
        self._shards.clear()


def build_model(
    files: Mapping[str, str], weights: dict[str, torch.Tensor], dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """A transformers model whose parameters are these tensors.

    Args:
        files: of a plan, with the text of each
        weights: by the plan's names, in `dtype`
        dtype: of the model; None for the config's

    Raises:
        DestinationError: transformers does not know the model, or weights are missing.
    """
    import transformers

    settings = json.loads(files.get("config.json", "{}"))
    try:
        config = without_kernels(transformers.AutoConfig.for_model(**settings))
        model_class = getattr(transformers, settings["architectures"][0])
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        values = {"version": transformers.__version__, "error": str(error)}
        raise DestinationError(Problem("unknown-model-class", values)) from error
    # From a state dict transformers builds the model without weights, takes these tensors as they are, renames
    # them where the model's own names differ, ties what is tied, and computes the buffers that no file has.
    # The auto classes cannot do it: they want a path.
    model, loading = model_class.from_pretrained(
        None, config=config, state_dict=weights, output_loading_info=True, dtype=dtype or "auto"
    )
    lacking = sorted({*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])})
    if lacking:
        # transformers would fill them with random numbers, and mention it.
        raise DestinationError(Problem("incomplete-model", {"tensors": few(lacking)}))
    if "generation_config.json" in files:
        generation = json.loads(files["generation_config.json"])
        model.generation_config = transformers.GenerationConfig.from_dict(generation)
    return model  # type: ignore[no-any-return]


class MemoryShard:
    """A buffer that stays."""

    def __init__(self, buffer: torch.Tensor):
        self._view = buffer.numpy().data

    def write(self, offset: int, data: memoryview) -> None:
        self._view[offset : offset + len(data)] = data

    def close(self) -> Stored:
        self._view.release()
        return Stored(None, "memory")
