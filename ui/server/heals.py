"""Which layers of a model matter, and training that repairs a model, as a visitor may ask for them."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import Token
from checkpoints.problems import PlanError
from evaluation import hold_memory
from merging import MergeError, Problem
from ui.hub.account import Account
from ui.server.heal_state import HealState
from ui.server.jobs import JobStatus, MergeRequest
from ui.server.model_process import MODELS
from ui.server.work import followed, watched

if TYPE_CHECKING:
    from healing import HealPlan, TrainingStep
    from ui.server.merge_service import MergeService

# For a server that strangers share.
MAX_STEPS, MAX_MINUTES, MAX_CHAIN = 200, 20.0, 20_000


@dataclass(frozen=True)
class Candidate:
    """A cut that was tried.

    Args:
        name: of the layers that are left out, such as "12-15"
        dropped: their numbers
        perplexity: of the model without them
        low, high: the interval of what they cost, in bits per byte; None for too little text
        recipe: of the cut
    """

    name: str
    dropped: tuple[int, ...]
    perplexity: float
    low: float | None
    high: float | None
    recipe: str


@dataclass(frozen=True)
class LayersFound:
    """What is known of a model's layers so far.

    Args:
        model: its name
        by_layer: the influence of each layer
        whole: the model's perplexity; None while unknown
        tried: cuts, the best first
    """

    model: str
    by_layer: tuple[float, ...]
    whole: float | None = None
    tried: tuple[Candidate, ...] = ()


def layers_found(
    model: str, drop: int, count: int, text: str, token: Token, allow_folders: bool
) -> Generator[LayersFound | None, None, None]:
    """Measure a model's layers, and try cuts; runs where models are loaded."""
    from evaluation import candidates, influence, load_model, try_cuts
    from evaluation.text import bundled_text
    from merging import cut_recipe

    def work(report: Callable[[Any], None], cancel: threading.Event) -> LayersFound:
        loaded = load_model(model, token=token, allow_folders=allow_folders)
        texts = bundled_text(text)
        found = influence(loaded, texts, cancel=cancel)
        known = LayersFound(model, found.by_layer)
        report(known)
        trials = try_cuts(loaded, texts, candidates(loaded, found, drop, count), cancel=cancel)
        tried = tuple(
            Candidate(
                one.cut.name,
                one.cut.dropped,
                one.perplexity.perplexity,
                one.difference.interval[0] if one.difference.interval else None,
                one.difference.interval[1] if one.difference.interval else None,
                cut_recipe(model, one.cut.dropped, token=token),
            )
            for one in trials.tried
        )
        whole = trials.whole.perplexity
        return replace(known, whole=whole, tried=tuple(sorted(tried, key=lambda one: one.perplexity)))

    return watched(work)


@dataclass(frozen=True)
class HealOrder:
    """A training to run.

    Args:
        chain: a recipe and a document with `train:`
        to: destination, as `run_training` takes it
        private: whether a new repository is private
        keep: whether a result that did not heal is written
        token: whose access to the Hub to use
        allow_folders: whether models and texts may be files of this machine
    """

    chain: str
    to: str
    private: bool
    keep: bool
    token: Token = field(repr=False)
    allow_folders: bool


class HealService:
    """Measuring and healing on this server, within what its visitors are allowed.

    Args:
        service: plans the merge, and runs the jobs
    """

    def __init__(self, service: MergeService) -> None:
        self.service = service
        self.host = service.host

    def layers(
        self, model: str, drop: int, count: int, who: Account
    ) -> Generator[LayersFound | None, None, None]:
        """What is found out of a model's layers, in the process that holds loaded models.

        Raises:
            ProblemError: it cannot be measured.
        """
        text = "english"
        return MODELS.stream(layers_found, model, drop, count, text, who.for_hub, self.host.allow_folders)

    def plan(self, chain: str, who: Account, visitor: str, *, elsewhere: bool = False) -> HealPlan:
        """The plan of a training.

        Args:
            chain: a recipe and a document with `train:`
            who: whose access to use
            visitor: whose turn in planning it takes
            elsewhere: whether it is for another machine: this server's limits are then not its own

        Raises:
            MergeError: it cannot be read or merged, or is too long for this server.
        """
        from healing import plan_training, read_training  # imports torch

        if len(chain) > MAX_CHAIN:
            raise MergeError(Problem("space-too-long", {"length": len(chain), "most": MAX_CHAIN}))
        # Headers of strangers' models are first read in a process that cannot harm this one.
        merge = self.service.plan(read_training(chain).recipe_text, None, who, visitor)
        if not merge.ok:
            raise PlanError(merge.problems)
        limited = self.host.on_space and not elsewhere
        if limited:
            self.service.in_memory.check(merge)
        plan = plan_training(chain, token=who.for_hub, allow_folders=self.host.allow_folders, device="cpu")
        steps = plan.training.arguments.max_steps
        if plan.ok and limited and (steps > MAX_STEPS or plan.seconds > 60 * MAX_MINUTES):
            values = {
                "steps": steps,
                "most": MAX_STEPS,
                "minutes": plan.seconds / 60,
                "most_minutes": MAX_MINUTES,
            }
            return replace(plan, problems=(Problem("training-too-long", values),))
        return plan

    def start(
        self,
        chain: str,
        to: str,
        who: Account,
        visitor: str,
        *,
        private: bool = True,
        keep: bool = False,
        download: bool = False,
    ) -> str:
        """Queue a training.

        Args:
            chain: a recipe and a document with `train:`
            to: destination; for a download the name alone
            who: whose access to use
            visitor: whose turn in line it takes
            private: whether a new repository is private
            keep: whether a result that did not heal is written
            download: keep the result on this server for the visitor to download

        Returns:
            The job's id.

        Raises:
            MergeError: it cannot be trained, or the line or the disk is full.
        """
        plan = self.plan(chain, who, visitor)
        if not plan.ok:
            raise PlanError(plan.problems)
        title, nbytes = (
            to.rpartition("/")[2] if "://" not in to else to.partition("://")[2],
            plan.merge.bytes_out,
        )
        if download:
            to = str(self.service.downloads.place(to, nbytes))
        order = HealOrder(chain, to, private, keep, who.for_hub, self.host.allow_folders)
        minutes, memory = plan.seconds, plan.memory_bytes
        steps = plan.training.arguments.max_steps

        def work(report: Callable[[HealState], None], cancel: threading.Event) -> HealState:
            with ExitStack() as held:
                if download:
                    held.enter_context(self.service.downloads.reserve(Path(to), nbytes))
                return _run(order, memory, report, cancel)

        request = MergeRequest(
            plan.training.recipe_text, to, private, seconds=minutes, download=download,
            training=plan.training.document,
        )  # fmt: skip
        models = tuple(dict.fromkeys([plan.teacher, *(model.name for model in plan.merge.parents)]))
        return self.service.board.submit(
            visitor, title, tuple(filter(None, models)), work, request, HealState(steps=steps)
        )

    def again(self, job: JobStatus, who: Account, visitor: str) -> str:
        """Queue a training again; one whose state is on the Hub continues from there.

        Raises:
            MergeError: see `start`.
        """
        request = job.request
        return self.start(
            f"{request.recipe}{request.training}",
            job.title if request.download else request.to,
            who,
            visitor,
            private=request.private,
            download=request.download,
        )


def _run(
    order: HealOrder, memory: int, report: Callable[[HealState], None], cancel: threading.Event
) -> HealState:
    """Train in the process that holds loaded models, and stop it when the job is cancelled.

    Raises:
        ProblemError: it cannot be trained.
        Cancelled: it was stopped.
    """
    return followed(MODELS.stream(trained, order, memory), HealState(), report, cancel)


def trained(order: HealOrder, memory: int) -> Generator[HealState | None, None, None]:
    """Train; yields its state after each step, None now and then, and the end at last. Closed, it waits until the
    training has ended, and left nothing."""
    ended = threading.Event()

    def work(report: Callable[[HealState], None], cancel: threading.Event) -> HealState:
        try:
            with hold_memory(memory), tempfile.TemporaryDirectory(prefix="alloy-heal-") as folder:
                return _trained(order, Path(folder) / "work", report, cancel)
        finally:
            ended.set()

    try:
        yield from watched(work)
    finally:
        ended.wait()


def _trained(
    order: HealOrder, folder: Path, report: Callable[[HealState], None], cancel: threading.Event
) -> HealState:
    from healing import plan_training, run_training

    plan = plan_training(order.chain, token=order.token, allow_folders=order.allow_folders, device="cpu")
    if not plan.ok:
        raise PlanError(plan.problems)
    state = HealState("start", plan.training.arguments.max_steps)
    report(state)
    losses: list[float] = []
    began = time.monotonic()

    def on_step(step: TrainingStep) -> None:
        nonlocal began, state
        losses.append(step.loss)
        if len(losses) == 1:
            began = time.monotonic()
        pace = (time.monotonic() - began) / max(len(losses) - 1, 1)
        left = pace * (step.of - step.number) if len(losses) > 1 else None
        state = replace(state, phase="training", losses=tuple(losses), seconds_left=left)
        report(state)

    healed = run_training(
        plan, order.to, work=None if order.to.startswith("hf://") else folder, keep=order.keep, token=order.token,
        private=order.private, on_step=on_step, cancel=cancel,
    )  # fmt: skip
    judgement = healed.judgement
    remarks = [*judgement.gain.remarks, *(judgement.gap.remarks if judgement.gap else ())]
    return replace(
        state,
        phase="judged",
        losses=healed.losses,
        seconds_left=0.0,
        healed=judgement.healed,
        scores=tuple((name, one.perplexity, one.bits_per_byte) for name, one in judgement.rows),
        remarks=tuple(remarks),
        result=healed.result,
    )


def chain_of(recipe: str, *, datasets: Sequence[str], steps: int, teacher: str = "") -> str:
    """A recipe with the training of a small model behind it, by distillation.

    Args:
        recipe: YAML
        datasets: see `healing.settings.Dataset`
        steps: of 128 tokens
        teacher: model that is imitated; empty: the only parent
    """
    import yaml

    training = {
        "train": "distillation",
        **({"teacher": teacher} if teacher else {}),
        "datasets": [{"path": name} for name in datasets],
        "arguments": {
            "max_steps": steps,
            "learning_rate": 0.001,
            "per_device_train_batch_size": 1,
            "max_length": 128,
            "warmup_steps": min(5, steps - 1),
        },
        "evaluate": {"texts": ["english"]},
    }
    return f"{recipe.rstrip()}\n---\n{yaml.safe_dump(training, sort_keys=False)}"
