"""Running a plan: its shards, its small files, and then all of it appears at once, or nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from checkpoints import Token
from checkpoints.problems import Cancelled, DestinationError, MergeError, PlanError, Problem
from merging.destinations import Destination, Receipt, ResultPlace, open_destination
from merging.destinations.receipt import not_finite, read_by, written_by
from merging.engine.approximate import approximate
from merging.engine.engine import Engine, Merge
from merging.engine.gguf import layout_of
from merging.engine.processes import Processes
from merging.engine.result import Meter, Progress, Result
from merging.engine.threads import Threads
from merging.engine.workspace import default_workers
from merging.gguf.destination import SUFFIX, Beside, GgufDestination, gguf_files
from merging.gguf.quantization import check_quantizer
from merging.gguf.types import file_types
from merging.methods import METHODS
from merging.plan import Plan
from merging.result_card import Licence, loaded_as, model_card, with_not_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The first that suits a merge makes its shards.
ENGINES: tuple[Engine, ...] = (Processes(), Threads())


def run_plan(
    plan: Plan,
    to: str,
    *,
    token: Token = None,
    private: bool = True,
    overwrite: bool = False,
    pull_request: bool = False,
    licence: Licence | None = None,
    found: str = "",
    made_of: Plan | None = None,
    device: str = "auto",
    workers: int | None = None,
    gguf: Sequence[str] | None = None,
    only_gguf: bool = False,
    on: Engine | None = None,
    receipts: Sequence[Receipt] = (),
    on_progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Result:
    """Merge: do what a plan says, and put the result where it is asked for. All of it appears, or nothing.

    A merge to the Hub that died or failed can be repeated, with the same plan and from any machine of the same kind: it
    continues with the shards that are missing. One that was cancelled leaves nothing behind.

    >>> run_plan(plan, "merged", on_progress=print).location  # doctest: +SKIP

    Args:
        plan: from `make_plan`, without problems
        to: a folder, `hf://owner/name`, or an address in an object store such as `s3://bucket/path`
        token: whose access to the Hub to use; None: the machine's own login, False: none
        private: whether a repository that is created is private
        overwrite: whether a model at the destination may be replaced
        pull_request: whether a pull request is opened if the repository holds a model
        licence: that the card states, see `merging.licences.licence_of`; it is not looked up here
        found: how the recipe was found, for the card, see `model_card`
        made_of: the plan whose recipe and parents the card shows, if this merge only ends what that one began
        device: "cpu", "cuda", or "auto": the CPU, which waits for the disk and the network as well as a GPU
        workers: how many merge at a time on this machine; None: the engine chooses. The result does not depend on it
        gguf: types of GGUF files that are made as well, such as Q4_K_M, from the same reading of the models. They go to
            a place of their own, whose name ends in `-GGUF`
        only_gguf: make nothing but these, at `to` itself
        on: makes the shards, such as `RayEngine()`; None: processes or threads of this machine
        receipts: of shards that were made elsewhere for this plan and destination, see `begin_work`; not with `gguf`
        on_progress: called from the calling thread, up to about ten times a second
        cancel: set it from another thread to stop

    Raises:
        PlanError: the plan has problems
        MergeError: the device is not there, or the result cannot become a GGUF file
        CheckpointError: a model changed since the plan was made, or can no longer be read
        DestinationError: the destination cannot take the result
        Cancelled: `cancel` was set
    """
    began = time.monotonic()
    assert not (receipts and gguf), "GGUF files need all tensors, and those of receipts are not seen here"

    def opened(to: str) -> Destination:
        return open_destination(
            to, token=token, private=private, overwrite=overwrite, pull_request=pull_request
        )

    destination, beside = opened(to), None
    if gguf is not None:
        if not plan.ok:
            raise PlanError(plan.problems)
        second = destination if only_gguf else opened(gguf_place(to))
        meter, card = Meter(plan, on_progress), model_card(plan, loaded_as(to), licence, found)
        meter.report("read headers", "Laying out the GGUF files")
        whole = "" if only_gguf else getattr(destination, "repo", "")
        files = _gguf(plan, second, gguf, card, whole, token, workers or default_workers(), cancel)
        destination = files if only_gguf else (beside := Beside(destination, files))
    place, all_receipts = _carry_out(
        plan,
        destination,
        token,
        device,
        workers,
        on,
        on_progress,
        cancel,
        licence,
        found,
        loaded_as(to),
        receipts,
        made_of,
    )
    alone = destination if isinstance(destination, GgufDestination) else None
    return Result(
        place.location,
        place.url,
        place.commit,
        alone.size if alone else plan.bytes_out,
        seconds=time.monotonic() - began,
        verified=place.verified,
        read_by=read_by(all_receipts),
        written_by=alone.written_by if alone else written_by(all_receipts),
        not_finite=not_finite(all_receipts),
        gguf=beside.second_place if beside else None,
    )


def gguf_place(to: str) -> str:
    """Where the GGUF files of a merge go that goes to `to`."""
    return to.rstrip("/") + SUFFIX


def _gguf(
    plan: Plan,
    destination: Destination,
    types: Sequence[str],
    card: str,
    whole: str,
    token: Token,
    workers: int,
    cancel: threading.Event | None,
) -> GgufDestination:
    """What makes GGUF files of a merge, for a destination; `whole`: the repository that the merge itself goes to.

    Raises:
        MergeError: a type cannot be made, or the model cannot become a GGUF file.
    """

    def check() -> None:
        if cancel and cancel.is_set():
            raise Cancelled

    kinds = file_types(types)
    check_quantizer(kinds)
    with ThreadPoolExecutor(1) as beside:
        # Merging imports torch, for seconds in which the process that lays out the files imports it as well.
        beside.submit(import_module, "torch")
        layout = layout_of(plan, destination.name.removesuffix(SUFFIX), card, token, check)
    return GgufDestination(destination, gguf_files(destination.name, kinds, layout), workers, whole)


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

    >>> model = merge_into_memory(make_plan(recipe))  # doctest: +SKIP

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
    _carry_out(replace(plan, copied_files={}), destination, token, device, workers, None, on_progress, cancel)
    assert destination.model is not None
    return destination.model


def _carry_out(
    plan: Plan,
    destination: Destination,
    token: Token,
    device: str,
    workers: int | None,
    on: Engine | None,
    on_progress: Callable[[Progress], None] | None,
    cancel: threading.Event | None,
    licence: Licence | None = None,
    found: str = "",
    name: str = "",
    made_elsewhere: Sequence[Receipt] = (),
    made_of: Plan | None = None,
) -> tuple[ResultPlace, list[Receipt]]:
    """Where the result is, and the receipts of its shards."""
    _refuse(plan, destination, device)
    device = "cpu" if device == "auto" else device
    meter = Meter(plan, on_progress)
    merge = Merge(plan, token, device, workers or default_workers(), meter, cancel)
    try:
        receipts = _make_shards(merge, destination, on, made_elsewhere)
        _write_files(
            merge,
            destination,
            model_card(made_of or plan, name or destination.name, licence, found),
            not_finite(receipts),
        )
        merge.report("finish", f"Publishing {destination.name}")
        place = destination.finish(_message(plan))
    except BaseException as error:
        merge.stopped.set()
        destination.abandon(keep=not isinstance(error, Cancelled | KeyboardInterrupt))
        raise
    finally:
        merge.models.close()
    read, written = (", ".join(ways) or "nothing" for ways in (read_by(receipts), written_by(receipts)))
    meter.report("finish", f"Read by {read}, written by {written}")  # a stop comes too late now
    return place, receipts


def _message(plan: Plan) -> str:
    """Of the commit."""
    if plan.mixture:
        return f"Make a mixture of {len(plan.mixture.experts)} experts"
    return f"Merge {len(plan.models)} models with {METHODS[plan.method].title}"


def _refuse(plan: Plan, destination: Destination, device: str) -> None:
    """Raise what prevents the merge."""
    if not plan.ok:
        raise PlanError(plan.problems)
    if device == "cuda" and not _has_gpu():
        raise MergeError(Problem("no-gpu"))
    problems = destination.check(plan)
    if problems:
        raise DestinationError(problems)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _make_shards(
    merge: Merge, destination: Destination, on: Engine | None, made_elsewhere: Sequence[Receipt]
) -> list[Receipt]:
    """The receipts of all shards, those of an earlier run and of other machines among them. Opens models only if there
    is one to make."""
    plan = merge.plan
    kept = dict(destination.begin(plan, merge.check))
    merge.sink, merge.held = destination.sink, destination.held
    arrived = {receipt.filename: receipt for receipt in made_elsewhere if receipt.filename not in kept}
    there = kept | arrived
    missing = [shard for shard in plan.shards if shard.filename not in there]
    receipts = [there[shard.filename] for shard in plan.shards if shard.filename in there]
    for shard in plan.shards:
        if shard.filename in there:
            merge.meter.finished(shard)
            merge.kind.check(there[shard.filename].processor)
        if shard.filename in arrived:
            destination.admit(arrived[shard.filename])
    if not missing:
        return receipts
    if there:
        merge.message = f"{len(there)} of {len(plan.shards)} files were there already"
    computing = " and computing the routers" if plan.computes_gates else ""
    merge.report("read headers", f"Opening the models{computing}")
    approximate(merge, merge.models.opened(), missing)
    engine = on or next(engine for engine in ENGINES if engine.suits(merge, missing))
    with closing(engine.run(merge, missing)) as made:
        for receipt in made:
            merge.kind.check(receipt.processor)
            destination.admit(receipt)
            receipts.append(receipt)
    return receipts


def _write_files(merge: Merge, destination: Destination, card: str, not_finite: Mapping[str, int]) -> None:
    merge.report("upload", "Writing config, tokenizer and card")
    plan = merge.plan
    for name, index in plan.copied_files.items():
        destination.write_file(name, merge.models.read_file(index, name))
    for name, text in plan.files.items():
        destination.write_file(name, text.encode())
    destination.write_file("README.md", with_not_finite(card, not_finite).encode())
