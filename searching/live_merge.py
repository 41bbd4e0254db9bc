"""A merge as a live model: its tensors are rewritten in place when the recipe changes, and nothing is loaded again."""

from __future__ import annotations

import math
import tempfile
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import Parameter

from checkpoints import Checkpoint, Token
from checkpoints.dtypes import itemsize, torch_name
from checkpoints.memory import free_memory
from checkpoints.problems import Cancelled, DestinationError, MergeError, Problem
from checkpoints.torch_threads import one_torch_thread
from checkpoints.wording import few
from evaluation import LanguageModel
from evaluation.model import language_model
from evaluation.tokenizer import read_tokenizer
from merging import METHODS, Plan, Progress, Recipe
from merging.destinations.destination import Stored
from merging.destinations.memory import build_model
from merging.engine.blocks import Inputs
from merging.engine.models import Models
from merging.engine.prefetch import READERS
from merging.engine.tensors import Buffers, merge_tensor
from merging.engine.workspace import Workspace, default_workers, torch_dtype
from merging.plan import PlannedModel, PlannedTensor, Value
from merging.planning.configs import main_dtype
from merging.planning.costs import PROCESS_BYTES, working_memory
from merging.planning.make import Planner
from searching.huge_pages import HugePages
from searching.operands import Operands, are_sums, read_change, read_operands, small_pages

# Of the memory that the live model leaves, the share that the parents' changes may fill; the rest is for scoring.
SHARE_KEPT = 0.5


class Held(NamedTuple):
    """What a live merge holds, in bytes.

    Args:
        model: the live model
        kept: the parents' changes, if all of them fit
        largest: of `kept`, those of the tensor that has the most
        working: while tensors are merged
    """

    model: int
    kept: int
    largest: int
    working: int

    @property
    def least(self) -> int:
        """Without any changes kept: they are then read and merged again each time."""
        return self.model + self.working


def held(plan: Plan, dtype: str = "float32") -> Held:
    """What a live merge of a plan will hold at most.

    Args:
        dtype: of the live model; "auto" for the plan's
    """
    model = sum(tensor.elements * _width(tensor, dtype) for tensor in plan.tensors)
    kept = [_kept_bytes(plan, tensor) for tensor in plan.tensors]
    return Held(model, sum(kept), max(kept, default=0), PROCESS_BYTES + working_memory(plan, by_threads=True))


def free_on(device: str) -> int:
    """The memory in bytes that a live merge on a device can still get.

    Args:
        device: "cpu", "cuda", or "auto" for the GPU if there is one
    """
    return int(torch.cuda.mem_get_info()[0]) if device_named(device) == "cuda" else free_memory()


def device_named(device: str) -> str:
    """The device, with the one that is there in the place of "auto"."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def room_to_keep(free: int, least: int) -> int:
    """Bytes of the parents' changes that are kept at most, of those that are free, where `least` are needed besides."""
    return max(int((free - least) * SHARE_KEPT), 0)


def versions(plan: Plan) -> dict[str, str]:
    """The version of each parent and adapter of a plan, by its name."""
    found = {model.name: model.version for model in plan.parents}
    return found | {part.name: part.version for model in plan.parents for part in model.adapters}


def _width(tensor: PlannedTensor, dtype: str) -> int:
    return itemsize(tensor.dtype) if dtype == "auto" else max(itemsize(tensor.dtype), 4)


def _kept_bytes(plan: Plan, tensor: PlannedTensor) -> int:
    if tensor.is_one_input or tensor.copied_from is not None:
        return 0
    method = METHODS[plan.method]
    stored = [_stored_width(plan, part.model) for part in tensor.inputs]
    subtracts = method.subtracts(len(stored), _arguments(plan, tensor))
    as_changes = method.coefficients is not None and subtracts
    return math.ceil(tensor.elements * (stored[0] + 4 * len(stored[1:]) if as_changes else sum(stored)))


def _stored_width(plan: Plan, index: int) -> float:
    model = plan.models[index]
    return 4 if model.adapters else model.bytes / max(model.parameters, 1)


def _arguments(plan: Plan, tensor: PlannedTensor) -> dict[str, Any]:
    return {p.argument: tensor.parameters[p.name] for p in METHODS[plan.method].parameters}


class LiveMerge:
    """A merge that can be scored, and changed.

        with LiveMerge(recipe) as live:
            before = perplexity(live.model, texts)
            live.update(other)
            after = perplexity(live.model, texts)

    Each weight is what a file of the merge would hold: rounded to the recipe's dtype, and then widened. Do not run the
    model while it is updated.

    Args:
        recipe: the first one
        plan: of it, if that is known
        name: of the model
        token, allow_folders: see `make_plan`
        device: "cpu", "cuda", or "auto" for the GPU if there is one; it merges as well
        dtype: that the model computes in; "auto" for the recipe's
        memory: bytes that are free for it; None: as many as this machine or container has free
        keep: the most bytes of the parents' changes to keep; None: half of what the model leaves free
        on_progress: called while the first recipe is merged, from the threads that merge
        cancel: set it from another thread to stop

    Attributes:
        model: the live model
        plan: of the first recipe, with its files
        recipe: what it is now
        planner: plans recipes of the same models
        cancel: stops updates too, unless it is taken away

    Raises:
        PlanError: the recipe cannot be merged.
        DestinationError: the model does not fit into the free memory, or transformers does not know it.
        CheckpointError: a parent cannot be read.
        EvaluationError: the merge has no tokenizer, or does not run.
        Cancelled: `cancel` was set.
    """

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan | None = None,
        *,
        name: str = "merged",
        token: Token = None,
        allow_folders: bool = True,
        device: str = "auto",
        dtype: str = "float32",
        memory: int | None = None,
        keep: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ):
        self.device = device = device_named(device)
        self.recipe = recipe
        self._token = token
        self.cancel = cancel
        self.planner = Planner(token=token, allow_folders=allow_folders)
        # Each set of models that a plan names, opened once.
        self._models: list[tuple[tuple[PlannedModel, ...], Models]] = []
        # By tensor: a key, and the operands of its sum; None where it is the same for all coefficients.
        self._kept: dict[str, tuple[Hashable, Operands | None]] = {}
        self._reserved = 0
        self._written: dict[str, Hashable] = {}
        self._numbers: dict[Hashable, int] = {}
        self._numbered: tuple[tuple[PlannedModel, ...], Sequence[int]] = ((), ())
        self._pages = HugePages()
        self._lock = threading.Lock()
        self._local = threading.local()
        try:
            # In memory all weights are plain: scales are for files.
            self.plan = plan if plan and not plan.has_scales else self.planner.plan(recipe)
            self._budget = self._admit(self.plan, dtype, memory, keep)
            is_remote = any(model.is_remote for model in self.plan.models)
            self._workers = READERS if is_remote else default_workers() if device == "cpu" else 1
            self._pool = ThreadPoolExecutor(self._workers, "live_merge")
            self._build(dtype)
            self._write(self.plan, self.plan.tensors, on_progress)
            self.model = self._language_model(name)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the parents' files and changes; the model stays as it is."""
        if hasattr(self, "_pool"):
            self._pool.shutdown()
        for _, models in self._models:
            models.close()
        self.planner.close()
        self._kept.clear()

    @property
    def held_bytes(self) -> int:
        """Bytes of the parents' changes that are kept."""
        return sum(operands.nbytes for _, operands in list(self._kept.values()) if operands)

    def update(self, recipe: Recipe) -> int:
        """Make the model that of another recipe. If it names the same models, nothing is opened again.

        Returns:
            How many tensors were rewritten.

        Raises:
            PlanError: the recipe cannot be merged; the model stays as it is.
            MergeError: its result has other tensors; the model stays as it is.
            CheckpointError: a parent cannot be read.
            Cancelled: `cancel` was set; the next update completes the model.
        """
        plan = self.planner.plan(recipe, files=False)
        self._check_same_tensors(plan)
        self.recipe = recipe
        changed = [t for t in plan.tensors if self._written.get(t.name) != self._key(plan, t)]
        self._write(plan, changed)
        return len(changed)

    def weights(self, name: str) -> Parameter | None:
        """The parameter of the model that is a tensor of the plan; None where transformers stacks or splits it."""
        return self._parameters.get(name)

    def operands(self, plan: Plan, tensor: PlannedTensor) -> Operands | None:
        """What a tensor of a plan is the sum of; of a method that is no sum, its base and its whole change, with
        `lambda` as coefficient.

        Args:
            plan: of the same models, from `planner`, with all inputs of the tensor

        Returns:
            None if it is the same for all coefficients.
        """
        if not _is_sum(plan, tensor):
            return read_change(
                METHODS[plan.method], _arguments(plan, tensor), self._inputs(plan, tensor), self.device
            )
        if self._kept.get(tensor.name) == (self._sum_key(plan, tensor), None):
            return None
        operands = self._sum(plan, tensor) or self._read_sum(plan, tensor)
        return None if operands.is_constant else operands

    def forget_written(self) -> None:
        """Let the next update rewrite every tensor: the model is about to be changed by others."""
        self._written.clear()

    @property
    def buffers(self) -> Workspace:
        """Of the calling thread."""
        return self._thread_buffers().workspace

    # -- building --------------------------------------------------------------------------------------

    def _admit(self, plan: Plan, dtype: str, memory: int | None, keep: int | None) -> int:
        """Bytes that may be kept of the parents.

        Raises:
            DestinationError: not even the model fits.
        """
        free = free_on(self.device) if memory is None else memory
        least = held(plan, dtype).least
        if least > free:
            raise DestinationError(Problem("live-merge-too-large", {"needed": least, "free": free}))
        most = room_to_keep(free, least)
        return most if keep is None else min(keep, most)

    def _build(self, dtype: str) -> None:
        """Build the model, and find where each tensor of the plan is in it."""
        chosen = None if dtype == "auto" else getattr(torch, dtype)
        weights = {}
        for tensor in self.plan.tensors:
            own = torch_dtype(tensor.dtype)
            own = chosen if chosen is not None and own.is_floating_point else own
            weights[tensor.name] = self._pages.zeros(tensor.elements, own).view(tensor.shape)
        network: Any = build_model(self.plan.files, dict(weights), chosen)
        named = dict(network.named_parameters()) | dict(network.named_buffers())
        by_place = {tensor.data_ptr(): name for name, tensor in named.items() if tensor.numel()}
        places = {name: by_place.get(tensor.data_ptr()) for name, tensor in weights.items()}
        tied = network.all_tied_weights_keys
        self._network = network.to(self.device)
        named = dict(network.named_parameters()) | dict(network.named_buffers())
        self._tensors = {name: named[place].detach() for name, place in places.items() if place}
        self._parameters = {
            name: named[place]
            for name, place in places.items()
            if place and isinstance(named[place], Parameter)
        }
        # What transformers stacks or splits is built from copies; a tied tensor that is in the file is not used.
        self._copies = {
            name: weights[name] for name, place in places.items() if not place and name not in tied
        }
        self._chosen = chosen

    def _language_model(self, name: str) -> LanguageModel:
        place = tempfile.TemporaryDirectory(prefix="alloy-live-")
        folder = Path(place.name)
        for file, text in self._small_files():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(text)
        tokenizer = read_tokenizer(name, folder, folder)
        weakref.finalize(tokenizer, place.cleanup)
        stored = torch_name(main_dtype((tensor.dtype, tensor.bytes) for tensor in self.plan.tensors))
        return language_model(name, self._network, tokenizer, device=self.device, stored_dtype=stored)

    def _small_files(self) -> Sequence[tuple[str, bytes]]:
        models = self._opened(self.plan)
        copied = [(file, models[index].read_file(file)) for file, index in self.plan.copied_files.items()]
        return copied + [(file, text.encode()) for file, text in self.plan.files.items()]

    def _opened(self, plan: Plan) -> Sequence[Checkpoint]:
        """The models of a plan."""
        with self._lock:
            found = next((models for planned, models in self._models if planned == plan.models), None)
            if found is None:
                found = Models(plan, self._token, self.check)
                self._models.append((plan.models, found))
        return found.opened()

    # -- writing ---------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise where the work is to stop."""
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled

    def _check_same_tensors(self, plan: Plan) -> None:
        ours = {(tensor.name, tensor.shape) for tensor in self.plan.tensors}
        other = ours ^ {(tensor.name, tensor.shape) for tensor in plan.tensors}
        if other:
            raise MergeError(Problem("other-tensors", {"tensors": few(sorted(name for name, _ in other))}))

    def _write(
        self,
        plan: Plan,
        tensors: Sequence[PlannedTensor],
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Write tensors into the model, the large ones first, so that all workers end together."""
        self._opened(plan)
        waiting = iter(sorted(tensors, key=lambda tensor: -tensor.elements))
        done: list[PlannedTensor] = []
        failed = threading.Event()

        def work() -> None:
            for tensor in waiting:  # shared by all workers
                if failed.is_set():
                    return
                try:
                    self._write_tensor(plan, tensor)
                except BaseException:
                    failed.set()
                    raise
                done.append(tensor)
                if on_progress:
                    size = sum(tensor.bytes for tensor in done)
                    on_progress(Progress("merge", size, plan.bytes_out, len(done), len(plan.tensors), ""))

        with one_torch_thread() if self.device == "cpu" else nullcontext():
            running = [self._pool.submit(work) for _ in range(self._workers)]
            wait(running)
        for future in running:
            future.result()
        if any(tensor.name in self._copies for tensor in tensors):
            self._take_over_copies()

    def _write_tensor(self, plan: Plan, tensor: PlannedTensor) -> None:
        self.check()
        self._written.pop(tensor.name, None)
        out = self._tensors.get(tensor.name, self._copies.get(tensor.name))
        if out is not None:
            buffers = self._thread_buffers()
            if operands := self._sum(plan, tensor):
                coefficients = operands.factors(_arguments(plan, tensor))
                operands.write(coefficients, out.view(-1), torch_dtype(tensor.dtype), buffers.workspace)
            else:
                into = _Into(out.view(-1), torch_dtype(tensor.dtype))
                merge_tensor(plan, tensor, self._opened(plan), into, 0, buffers, self.check)
        self._written[tensor.name] = self._key(plan, tensor)

    def _thread_buffers(self) -> Buffers:
        if not hasattr(self._local, "buffers"):
            self._local.buffers = Buffers(self.device)
        buffers: Buffers = self._local.buffers
        return buffers

    def _take_over_copies(self) -> None:
        """Rebuild the model from all tensors, and take what transformers made of copies."""
        fresh: Any = build_model(self.plan.files, {**self._tensors, **self._copies}, self._chosen)
        made = dict(fresh.named_parameters()) | dict(fresh.named_buffers())
        in_place = {tensor.data_ptr() for tensor in self._tensors.values()}
        for name, tensor in (*self._network.named_parameters(), *self._network.named_buffers()):
            if tensor.data_ptr() not in in_place:
                tensor.data.copy_(made[name])

    # -- sums ------------------------------------------------------------------------------------------

    def _sum(self, plan: Plan, tensor: PlannedTensor) -> Operands | None:
        """What a tensor is the sum of, kept if there is room; None where it is none, or there is no room."""
        if not _is_sum(plan, tensor):
            return None
        key = self._sum_key(plan, tensor)
        kept = self._kept.get(tensor.name)
        if kept and kept[0] == key and kept[1]:
            return kept[1]
        with self._lock:
            self._kept.pop(tensor.name, None)
            reserved = _kept_bytes(plan, tensor)
            if self.held_bytes + self._reserved + reserved > self._budget:
                return None
            self._reserved += reserved
        try:
            operands = self._read_sum(plan, tensor)
            self._kept[tensor.name] = key, None if operands.is_constant else operands
        finally:
            with self._lock:
                self._reserved -= reserved
        return operands

    def _read_sum(self, plan: Plan, tensor: PlannedTensor) -> Operands:
        inputs = self._inputs(plan, tensor)
        method = METHODS[plan.method]
        # Changes that depend on parameters are read again when these change, tensor by tensor: they share no mapping.
        zeros = small_pages if method.sparsify else self._pages.zeros
        return read_operands(method, _arguments(plan, tensor), inputs, zeros, self.device)

    def _inputs(self, plan: Plan, tensor: PlannedTensor) -> Inputs:
        models = self._opened(plan)
        parts = [(models[part.model], part.tensor) for part in tensor.inputs]

        def read(index: int, start: int, buffer: memoryview) -> None:
            model, name = parts[index]
            model.read_into(name, start, buffer)

        dtypes = [model.tensors[name].dtype for model, name in parts]
        waits = any(model.is_remote for model, _ in parts)
        return Inputs(read, dtypes, tensor.shape, waits, self.buffers, self.check, plan.seed_of(tensor))

    # -- keys ------------------------------------------------------------------------------------------

    def _key(self, plan: Plan, tensor: PlannedTensor) -> Hashable:
        """Equal only for what has the same bits."""
        if _is_sum(plan, tensor):
            key = self._sum_key(plan, tensor)
            kept = self._kept.get(tensor.name)
            if kept == (key, None):
                return key, tensor.dtype  # whatever the coefficients are
        seed = plan.seed if METHODS[plan.method].is_random else 0
        inputs = self._inputs_key(plan, tensor)
        return plan.method, _frozen(tensor.parameters), inputs, tensor.dtype, tensor.copied_from, seed

    def _sum_key(self, plan: Plan, tensor: PlannedTensor) -> Hashable:
        """Equal only for sums of the same operands."""
        sparsify = METHODS[plan.method].sparsify
        own = {p.name: tensor.parameters[p.name] for p in sparsify.parameters} if sparsify else {}
        seed = plan.seed if sparsify and sparsify.is_random else 0
        return plan.method, _frozen(own), self._inputs_key(plan, tensor), seed

    def _inputs_key(self, plan: Plan, tensor: PlannedTensor) -> Hashable:
        numbers = self._model_numbers(plan)
        return tuple((numbers[part.model], part.tensor) for part in tensor.inputs)

    def _model_numbers(self, plan: Plan) -> Sequence[int]:
        """A number for each model of a plan: the same only for the same weights."""
        if self._numbered[0] != plan.models:
            keys = [
                (model.name, model.version, model.adapters, repr(model.alignment), repr(model.generated))
                for model in plan.models
            ]
            # Rows of another vocabulary come from tensors of all models.
            whole = [
                (key, tuple(keys) if model.alignment else ())
                for key, model in zip(keys, plan.models, strict=True)
            ]
            self._numbered = plan.models, [self._numbers.setdefault(key, len(self._numbers)) for key in whole]
        return self._numbered[1]


class _Into:
    """Writes a tensor as it would be stored into one of the model."""

    def __init__(self, out: Tensor, stored: torch.dtype):
        self._out = out
        self._stored = stored

    def write(self, offset: int, data: memoryview) -> None:
        elements = torch.frombuffer(data, dtype=self._stored)
        start = offset // self._stored.itemsize
        self._out[start : start + len(elements)].copy_(elements)

    def close(self) -> Stored:
        return Stored(None, "memory")


def _is_sum(plan: Plan, tensor: PlannedTensor) -> bool:
    """Whether a tensor is a sum of operands, with coefficients."""
    if tensor.is_one_input or tensor.copied_from is not None or len(tensor.inputs) == 1:
        return False
    return are_sums(METHODS[plan.method], _arguments(plan, tensor))


def _frozen(parameters: Mapping[str, Value]) -> Hashable:
    return tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in parameters.items())
