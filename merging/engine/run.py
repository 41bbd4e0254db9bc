"""Running a plan: shard by shard, in bounded memory, with progress and a way to stop, all or nothing."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING

from checkpoints import Checkpoint, Token
from checkpoints.dtypes import itemsize
from checkpoints.problems import (
    Cancelled,
    CheckpointError,
    DestinationError,
    MergeError,
    PlanError,
    Problem,
)
from merging.destinations import Destination, Place, ShardWriter, open_destination
from merging.engine.processes import can_fork, run_forked
from merging.engine.tensors import computed, open_models
from merging.methods import METHODS
from merging.plan import Input, Plan, PlannedTensor
from merging.planning.costs import BLOCK, READERS, default_workers, read_ahead, rereads
from merging.planning.make import shard_header
from merging.planning.model_card import Licence, model_card

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from checkpoints import TensorHeader
    from merging.engine.blocks import Read, Workspace
    from merging.engine.prefetch import Origin, ReadAhead, TensorReader

# More shards than this are written by threads, which open them one after the other.
MOST_OPEN_FILES = 200
# Seconds that a run which is to stop waits for its workers; one may be reading from a host that stalls.
PATIENCE = 1.5


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        phase: "read headers", "merge", "upload" or "finish"
        bytes_done, bytes_total: of output weights merged
        tensors_done, tensors_total: output tensors merged
        message: what is being done, in words
    """

    phase: str
    bytes_done: int
    bytes_total: int
    tensors_done: int
    tensors_total: int
    message: str


@dataclass(frozen=True)
class Result:
    """A finished merge.

    Args:
        location: a folder, or `hf://owner/name`
        url: of its page on the Hub, if it has one
        commit: on the Hub, if it is there
        bytes_out: size of its weights
        seconds: that the run took
        verified: whether the Hub was asked afterwards what it holds, and it was what was sent
        read_by: the ways that weights were read: "folder", and from the Hub "HTTP", "Xet" or the local "cache"
        written_by: the ways that they were written, see `Place`
    """

    location: str
    url: str | None
    commit: str | None
    bytes_out: int
    seconds: float
    verified: bool = False
    read_by: tuple[str, ...] = ()
    written_by: tuple[str, ...] = ()


def run_plan(
    plan: Plan,
    to: str,
    *,
    token: Token = None,
    private: bool = True,
    overwrite: bool = False,
    pull_request: bool = False,
    licence: Licence | None = None,
    device: str = "auto",
    workers: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Result:
    """Merge: do what a plan says, and put the result where it is asked for. All of it appears, or nothing.

    A run to the Hub that died or failed can be repeated, with the same plan and from any machine: it goes on with the
    shards that are missing. One that was cancelled leaves nothing behind.

    Args:
        plan: from `make_plan`, without problems
        to: a folder, or `hf://owner/name`
        token: whose access to the Hub to use; None: the machine's own login, False: nobody's
        private: whether a repository that is created is private
        overwrite: whether a model that stands there may be replaced
        pull_request: whether a pull request is opened where a model stands
        licence: that the card is to state; it is not looked for here
        device: "cpu", "cuda", or "auto": the CPU, which waits for the disk and the network as well as a GPU
        workers: threads that merge at a time; None: as many as suit the machine. The result does not depend on it
        on_progress: called from the calling thread, some ten times a second at most
        cancel: set it from another thread to stop

    Raises:
        PlanError: the plan has problems
        MergeError: the device is not there
        CheckpointError: a model changed since the plan was made, or can no longer be read
        DestinationError: the destination cannot take the result
        Cancelled: `cancel` was set
    """
    began = time.monotonic()
    destination = open_destination(
        to, token=token, private=private, overwrite=overwrite, pull_request=pull_request
    )
    place, read_by = _carry_out(plan, destination, token, device, workers, on_progress, cancel, licence)
    return Result(
        place.location,
        place.url,
        place.commit,
        plan.bytes_out,
        seconds=time.monotonic() - began,
        verified=place.verified,
        read_by=read_by,
        written_by=place.written_by,
    )


def merge_into_memory(
    plan: Plan,
    *,
    token: Token = None,
    device: str = "auto",
    workers: int | None = None,
    memory: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> PreTrainedModel:
    """Merge into a live transformers model, to try the result before it is kept anywhere; no file is written.

    Args:
        plan: from `make_plan` without a destination, and without problems
        device: that merges, see `run_plan`; the model is on the CPU
        memory: bytes that are free for it; None: as many as this machine or container has free

    Returns:
        The model, with the very weights that a folder would get, in evaluation mode.

    Raises:
        DestinationError: the model does not fit into the free memory, or transformers does not know it
        PlanError, MergeError, CheckpointError, Cancelled: see `run_plan`
    """
    # Imported here: a plan is made without torch, and with it comes this module.
    from merging.destinations.memory import MemoryDestination

    destination = MemoryDestination(memory)
    # The tokenizer is in the parents' repositories, and no use to a model.
    _carry_out(replace(plan, copied_files={}), destination, token, device, workers, on_progress, cancel)
    assert destination.model is not None
    return destination.model


def _carry_out(
    plan: Plan,
    destination: Destination,
    token: Token,
    device: str,
    workers: int | None,
    on_progress: Callable[[Progress], None] | None,
    cancel: threading.Event | None,
    licence: Licence | None = None,
) -> tuple[Place, tuple[str, ...]]:
    """Where the result is, and the ways that weights were read."""
    if not plan.ok:
        raise PlanError(plan.problems)
    if device == "cuda" and not _has_gpu():
        message = "There is no CUDA device that torch can use."
        raise MergeError(Problem("no-gpu", message, "Merge on the CPU; most merges are no slower there."))
    problems = destination.check(destination.disk_bytes(plan.bytes_out), plan)
    if problems:
        raise DestinationError(problems)
    run = _Run(plan, destination, "cpu" if device == "auto" else device, cancel, on_progress, licence)
    try:
        run.take_over(destination.begin(plan, run.check))
        run.open_models(token)
        run.merge(workers or default_workers())
        while lost := destination.lost():
            run.make_again(lost)
            run.merge(workers or default_workers())
        run.write_files()
        run.report("finish", f"Publishing {destination.name}")
        place = destination.finish(f"Merge {len(plan.models)} models with {METHODS[plan.method].title}")
        read_by = tuple(sorted({way for model in run.models for way in model.read_by}))
        ways = f"Read by {', '.join(read_by) or 'nobody'}, written by {', '.join(place.written_by)}"
        run.tell("finish", ways)  # not report: it is there now, and a stop comes too late
        return place, read_by
    except BaseException as error:
        run.stop.set()
        destination.abandon(keep=not isinstance(error, Cancelled | KeyboardInterrupt))
        raise
    finally:
        run.close()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


class _OpenShard:
    """A shard that workers are filling."""

    def __init__(self, writer: ShardWriter, tensors: int):
        self.writer = writer
        self.left = tensors


class _Buffers:
    """What one worker holds, made when it is first needed."""

    def __init__(self, device: str):
        self.device = device
        self._rooms: dict[int, bytearray] = {}

    @cached_property
    def workspace(self) -> Workspace:
        # Imported here: torch takes seconds, which a merge that only copies need not wait for.
        from merging.engine.blocks import Workspace

        return Workspace(self.device)

    def room(self, index: int, size: int) -> memoryview:
        """`size` bytes for input `index` of a tensor that is copied."""
        if len(self._rooms.get(index, b"")) < size:
            self._rooms[index] = bytearray(size)
        return memoryview(self._rooms[index])[:size]


class _Run:
    def __init__(
        self,
        plan: Plan,
        destination: Destination,
        device: str,
        cancel: threading.Event | None,
        on_progress: Callable[[Progress], None] | None,
        licence: Licence | None,
    ):
        self.plan = plan
        self.licence = licence
        self.method = METHODS[plan.method]
        self.rereads = rereads(plan)
        self.destination = destination
        self.device = device
        self.cancel = cancel or threading.Event()
        self.stop = threading.Event()  # set when any worker failed, so that the others end as well
        self.on_progress = on_progress
        self.models: list[Checkpoint] = []
        self.shards = list(plan.shards)  # that are to be made
        self.ahead: ReadAhead
        # Two locks: whoever asks for work may wait for room in the destination, and that room comes from
        # shards that others are about to finish.
        self.asking = threading.Lock()
        self.counting = threading.Lock()
        self.bytes_done = self.tensors_done = 0

    # -- the course ------------------------------------------------------------------------------------

    def take_over(self, finished: set[str]) -> None:
        """Leave out the shards that an earlier run finished."""
        self.shards = [shard for shard in self.plan.shards if shard.filename not in finished]
        for shard in self.plan.shards:
            if shard.filename in finished:
                self.bytes_done += sum(tensor.bytes for tensor in shard.tensors)
                self.tensors_done += len(shard.tensors)

    def make_again(self, lost: set[str]) -> None:
        """Do the work once more that did not arrive."""
        self.shards = [shard for shard in self.plan.shards if shard.filename in lost]
        for shard in self.shards:
            self.bytes_done -= sum(tensor.bytes for tensor in shard.tensors)
            self.tensors_done -= len(shard.tensors)

    def open_models(self, token: Token) -> None:
        self.report("read headers", "Opening the models")
        self.models = open_models(self.plan, token, self.check)

    def merge(self, workers: int) -> None:
        from merging.engine.prefetch import ReadAhead, steps

        work = self.hand_out()
        keep_heap()
        tensors = [tensor for shard in self.shards for tensor in shard.tensors]
        ahead = steps(tensors, self.find_remote, self.rereads)
        with (
            nullcontext() if self.plan.only_copies else one_torch_thread(),
            ReadAhead(ahead, self.read_remote, budget=read_ahead(self.plan), threads=READERS) as self.ahead,
        ):
            if workers > 1 and self.is_local and can_fork():
                self.merge_in_processes(work, workers)
                return
            futures = [in_thread(lambda: self.work(work), f"merge_{i}") for i in range(workers)]
            try:
                self.watch(futures)
            except BaseException:
                self.interrupt()
                wait(futures, PATIENCE)
                raise

    @property
    def is_local(self) -> bool:
        """Whether everything lies on this machine's disk, so that processes need to share no memory."""
        here = not any(model.is_remote for model in self.plan.models) and self.destination.is_on_disk
        # Each shard is a file that stays open until all is merged.
        return here and self.device == "cpu" and len(self.shards) <= MOST_OPEN_FILES

    def merge_in_processes(
        self, work: Iterator[tuple[int, PlannedTensor, _OpenShard, int]], workers: int
    ) -> None:
        items = list(work)
        if not self.plan.only_copies:
            pass  # noqa: F401(once, before there are several processes)

        def merge(numbers: Iterator[int]) -> Iterator[int]:
            buffers = _Buffers(self.device)
            for number in numbers:
                _, tensor, shard, offset = items[number]
                with self.ahead.tensor(number) as ahead:
                    self.make_tensor(tensor, ahead, shard.writer, offset, buffers)
                yield number

        def done(number: int) -> None:
            _, tensor, shard, _ = items[number]
            self.finished(tensor, shard)

        run_forked(len(items), merge, workers, done, lambda: self.report("merge", ""))

    def interrupt(self) -> None:
        """Let every thread end soon: those that work, those that wait, and those that read from a network."""
        self.stop.set()
        self.ahead.stop()
        for model in self.models:
            model.interrupt()

    def watch(self, futures: list[Future[None]]) -> None:
        waiting = set(futures)
        errors: list[BaseException] = []
        patience = 0.0
        taken_over = len(self.plan.shards) - len(self.shards)
        message = f"{taken_over} of {len(self.plan.shards)} files were there already" if taken_over else ""
        while waiting and not (errors and patience < time.monotonic()):
            done, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
            if not errors:
                patience = time.monotonic() + PATIENCE
            errors += [error for future in done if (error := future.exception())]
            self.report("merge", message)
        # A worker that fails stops the others, which then say that they were cancelled: that is not the reason.
        for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
            raise error

    def write_files(self) -> None:
        self.report("upload", "Writing config, tokenizer and card")
        plan = self.plan
        for name, index in plan.copied_files.items():
            self.destination.write_file(name, self.models[index].read_file(name))
        for name, text in plan.files.items():
            self.destination.write_file(name, text.encode())
        self.destination.write_file(
            "README.md", model_card(plan, self.destination.name, self.licence).encode()
        )

    def close(self) -> None:
        for model in self.models:
            model.close()

    def check(self) -> None:
        if self.cancel.is_set() or self.stop.is_set():
            raise Cancelled

    def report(self, phase: str, message: str) -> None:
        # Not check(): it would hide the error of a worker behind the stop that the error caused.
        if self.cancel.is_set():
            raise Cancelled
        self.tell(phase, message)

    def tell(self, phase: str, message: str) -> None:
        if self.on_progress:
            tensors = self.plan.tensors
            self.on_progress(
                Progress(
                    phase, self.bytes_done, self.plan.bytes_out, self.tensors_done, len(tensors), message
                )
            )

    # -- workers ---------------------------------------------------------------------------------------

    def hand_out(self) -> Iterator[tuple[int, PlannedTensor, _OpenShard, int]]:
        """Tensors with their numbers in the order of the output, each with its shard and its offset there."""
        numbers = count()
        for shard in self.shards:
            header = shard_header(shard)
            writer = self.destination.open_shard(shard.filename, shard.bytes)
            writer.write(0, memoryview(header))
            opened = _OpenShard(writer, len(shard.tensors))
            offset = len(header)
            for tensor in shard.tensors:
                yield next(numbers), tensor, opened, offset
                offset += tensor.bytes

    def work(self, work: Iterator[tuple[int, PlannedTensor, _OpenShard, int]]) -> None:
        buffers = _Buffers(self.device)
        try:
            while True:
                with self.asking:
                    self.check()
                    item = next(work, None)
                if item is None:
                    return
                number, tensor, shard, offset = item
                with self.ahead.tensor(number) as ahead:
                    self.make_tensor(tensor, ahead, shard.writer, offset, buffers)
                self.finished(tensor, shard)
        except BaseException:
            self.interrupt()
            raise

    def find_remote(self, part: Input) -> TensorHeader | None:
        model = self.models[part.model]
        return model.tensors[part.tensor] if model.is_remote else None

    def read_remote(self, origin: Origin, start: int, buffer: memoryview) -> None:
        model = self.models[origin.model]
        if origin.file:
            model.read_range(origin.file, start, buffer)
        else:
            model.read_into(origin.tensor, start, buffer)

    def finished(self, tensor: PlannedTensor, shard: _OpenShard) -> None:
        with self.counting:
            self.bytes_done += tensor.bytes
            self.tensors_done += 1
            shard.left -= 1
            complete = shard.left == 0
        if complete:
            shard.writer.close()

    def make_tensor(
        self,
        tensor: PlannedTensor,
        ahead: TensorReader,
        writer: ShardWriter,
        offset: int,
        buffers: _Buffers,
    ) -> None:
        from merging.engine.prefetch import goes_ahead

        parts = [(self.models[part.model], part.tensor) for part in tensor.inputs]
        is_ahead = goes_ahead(tensor, self.find_remote, self.rereads)
        is_remote = [model.is_remote for model, _ in parts]

        def read(index: int, start: int, buffer: memoryview) -> None:
            if is_ahead and is_remote[index]:
                ahead.read(index, start, buffer)
            else:
                model, name = parts[index]
                model.read_into(name, start, buffer)

        if tensor.copied_from is not None:
            self.copy(tensor, read, writer, offset, buffers)
            return
        waits = any(is_remote) and not is_ahead
        for start, stored in computed(self.plan, tensor, parts, read, waits, buffers.workspace, self.check):
            writer.write(offset + start, stored)

    def copy(
        self, tensor: PlannedTensor, read: Read, writer: ShardWriter, offset: int, buffers: _Buffers
    ) -> None:
        """Take an input over byte for byte; what is not a float must be the same in all inputs."""
        step = BLOCK * itemsize(tensor.dtype)
        for start in range(0, tensor.bytes, step):
            self.check()
            size = min(step, tensor.bytes - start)
            stored = [buffers.room(index, size) for index in range(len(tensor.inputs))]
            for index, buffer in enumerate(stored):
                read(index, start, buffer)
            if not all(_same(stored[0], buffer) for buffer in stored[1:]):
                message = f"{tensor.name} ({tensor.dtype}) differs between the models and cannot be averaged."
                fix = "Merge models whose tables and masks are the same."
                raise CheckpointError(Problem("not-float", message, fix, tensor.name))
            writer.write(offset + start, stored[0])


def _same(one: memoryview, other: memoryview) -> bool:
    """Whether the bytes are equal. By numpy, as memoryviews compare number by number; and imported here, as most
    merges copy nothing that has to be compared."""
    import numpy as np

    return np.array_equal(one, other)


def in_thread(work: Callable[[], None], name: str) -> Future[None]:
    """Start work in a thread. The thread is a daemon: a process that was told to stop does not wait for a host
    that stalls, as it would for the threads of an executor."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One thread inside each torch operator: workers take tensors, and threads inside operators would only
    wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_heap() -> None:
    """Tell glibc to serve blocks from few heaps, and only large buffers by mmap.

    Left alone, glibc moves its threshold with each large buffer that is freed, and then keeps hundreds of MB
    in the arenas of threads that once held them; and each thread that reads gets an arena of its own.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # glibc; musl has none
            mmap_threshold, trim_threshold, most_arenas = -3, -1, -8
            libc.mallopt(mmap_threshold, 8 * 1024 * 1024)
            libc.mallopt(trim_threshold, 64 * 1024 * 1024)
            libc.mallopt(most_arenas, 4)
