"""A training run from its plan to a judged model: the adapter is merged by the engine, as any other."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from checkpoints import Token
from checkpoints.problems import Cancelled as MergeCancelled
from checkpoints.problems import PlanError, Problem
from evaluation import Cancelled, Difference, LanguageModel, Perplexity, difference, load_model, perplexity
from evaluation.error import EvaluationError, memory_named
from evaluation.influence import own_copy
from evaluation.model import language_model
from healing.data import windows
from healing.plan import HealPlan
from healing.training import STATE, Step, Trainer, half_written, room_named
from merging import Plan, Result, licence_of, make_plan, merge_into_memory, read_recipe, run_plan

# What the trained model is called in results, and the model before the training.
AFTER, BEFORE = "after", "before"
# In the work folder.
_STUDENT, _ADAPTER = "student", "adapter"


@dataclass(frozen=True)
class Judgement:
    """A model before and after the training, and its teacher, on texts that training never saw.

    Attributes:
        before, after, teacher: perplexities.
        gain: after against before.
        gap: after against the teacher.
        stop_above: the ratio of perplexities, after by teacher, above which a result is not written; None: any.
    """

    before: Perplexity
    after: Perplexity
    teacher: Perplexity
    gain: Difference
    gap: Difference
    stop_above: float | None = None

    @property
    def healed(self) -> bool:
        """Whether the model is better than before, by the whole interval, and near enough to its teacher."""
        near = self.stop_above is None or self.after.perplexity <= self.stop_above * self.teacher.perplexity
        return self.gain.verdict == "better" and near

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "healed": self.healed,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "teacher": self.teacher.to_dict(),
            "gain": self.gain.to_dict(),
            "gap": self.gap.to_dict(),
        }

    def to_markdown(self) -> str:
        """A table and the two differences in words, for the card."""
        rows = [("before", self.before), ("after", self.after), ("teacher", self.teacher)]
        lines = ["| | perplexity | bits per byte |", "|---|--:|--:|"]
        lines += [f"| {name} | {one.perplexity:.2f} | {one.bits_per_byte:.4f} |" for name, one in rows]
        return "\n".join([*lines, "", self.gain.words, self.gap.words, ""])


@dataclass(frozen=True)
class Healed:
    """What a training run came to.

    Attributes:
        judgement: before, after, and the teacher.
        losses: of each step.
        seconds: of the training.
        result: where the merged model is; None where it was not written.
        adapter: the folder of the adapter, where that was asked for.
    """

    judgement: Judgement
    losses: tuple[float, ...]
    seconds: float
    result: Result | None = None
    adapter: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        place = self.result and (self.result.url or self.result.location)
        return {
            **self.judgement.to_dict(),
            "losses": self.losses,
            "seconds": self.seconds,
            "written": place or (str(self.adapter) if self.adapter else None),
        }


def run_training(
    plan: HealPlan,
    to: str,
    *,
    work: Path,
    adapter_only: bool = False,
    keep: bool = False,
    token: Token = None,
    private: bool = True,
    device: str = "auto",
    on_step: Callable[[Step], None] | None = None,
    cancel: threading.Event | None = None,
) -> Healed:
    """Train, judge, and write the result if it healed.

    A run that died is repeated with the same plan and folder, and continues with the same bits. One that was cancelled
    leaves nothing behind.

    Args:
        plan: from `plan_training`, without problems.
        to: a folder, or `hf://owner/name`; of the adapter, a folder.
        work: a folder for the state and the adapter on the way; it is removed at the end.
        adapter_only: write the adapter, and not the model it is merged into.
        keep: write the result even if it did not heal.
        token: whose access to the Hub to use.
        private: whether a repository that is created is private.
        device: "cpu", "cuda" or "auto".
        on_step: called after each step.
        cancel: set it from another thread to stop.

    Raises:
        PlanError: the plan has problems.
        EvaluationError: a model cannot be loaded or trained.
        MergeError: the model cannot be made, or the result cannot be written.
        Cancelled: `cancel` was set.
    """
    if not plan.ok:
        raise PlanError(plan.problems)
    if adapter_only and Path(to).exists():
        raise EvaluationError(Problem("adapter-folder-exists", {"folder": to}))
    with room_named(work):
        work.mkdir(parents=True, exist_ok=True)
    check_ours(work)
    try:
        return _healed(
            plan, to, work, adapter_only=adapter_only, keep=keep, token=token, private=private, device=device,
            on_step=on_step, cancel=cancel,
        )  # fmt: skip
    except (Cancelled, MergeCancelled, KeyboardInterrupt):
        shutil.rmtree(work, ignore_errors=True)
        raise


def check_ours(work: Path) -> None:
    """Check that a work folder, which is removed at the end, is empty or has the state of a training run.

    Raises:
        EvaluationError: it has something else.
    """
    state = work / STATE
    if not state.exists() and any(path != half_written(state) for path in work.iterdir()):
        raise EvaluationError(Problem("work-folder-taken", {"folder": str(work)}))


def _healed(
    plan: HealPlan,
    to: str,
    work: Path,
    *,
    adapter_only: bool,
    keep: bool,
    token: Token,
    private: bool,
    device: str,
    on_step: Callable[[Step], None] | None,
    cancel: threading.Event | None,
) -> Healed:
    training = plan.training
    teacher = own_copy(load_model(plan.teacher, token=token, device=device))
    if teacher.dtype != "float32" and teacher.device == "cpu":
        raise EvaluationError(Problem("teacher-not-widened", {"teacher": plan.teacher}))
    student = in_memory(BEFORE, plan.merge, teacher, token)
    scores = {
        BEFORE: perplexity(student, plan.judged, cancel=cancel),
        "teacher": perplexity(teacher, plan.judged, cancel=cancel),
    }
    network = under_adapter(student, plan)
    trainer = Trainer(
        student, teacher, plan.pairs, training.hidden_states, training.arguments, plan.key, work / STATE
    )
    began = time.monotonic()
    sequences = windows(teacher, plan.documents, training.arguments.max_length)
    trainer.train(sequences, on_step, cancel)
    seconds = time.monotonic() - began
    with room_named(work):
        save_adapter(network, work / _ADAPTER, plan.teacher)
    del network, student, trainer.student
    merged = result_plan(plan, work, None if adapter_only else to, token, cancel)
    scores[AFTER] = perplexity(in_memory(AFTER, merged, teacher, token), plan.judged, cancel=cancel)
    judgement = Judgement(
        scores[BEFORE],
        scores[AFTER],
        scores["teacher"],
        difference(scores[AFTER], scores[BEFORE], plan.judged),
        difference(scores[AFTER], scores["teacher"], plan.judged),
        training.stop_above,
    )
    healed = Healed(judgement, tuple(trainer.losses), seconds)
    if judgement.healed or keep:
        healed = _written(healed, plan, merged, to, work, adapter_only, token, private, cancel)
    shutil.rmtree(work)
    return healed


def _written(
    healed: Healed,
    plan: HealPlan,
    merged: Plan,
    to: str,
    work: Path,
    adapter_only: bool,
    token: Token,
    private: bool,
    cancel: threading.Event | None,
) -> Healed:
    if adapter_only:
        shutil.move(work / _ADAPTER, to)
        return replace(healed, adapter=Path(to))
    found = f"## Training\n\n{healed.judgement.to_markdown()}"
    result = run_plan(
        merged,
        to,
        token=token,
        private=private,
        licence=licence_of(plan.merge, token),
        found=found,
        made_of=replace(plan.merge, recipe=plan.training.text),
        cancel=cancel,
    )
    return replace(healed, result=result)


def in_memory(name: str, merge: Plan, teacher: LanguageModel, token: Token = None) -> LanguageModel:
    """The result of a merge as a model in the number format and on the device of its teacher, whose tokenizer it has.

    Raises:
        MergeError, EvaluationError: it cannot be made, or does not run.
    """
    made: Any = merge_into_memory(merge, token=token)
    with memory_named(name, "doing-loading"):
        network = made.to(device=teacher.device, dtype=getattr(torch, teacher.dtype))
    return language_model(
        name,
        network,
        teacher.tokenizer,
        device=teacher.device,
        stored_dtype=str(made.dtype).removeprefix("torch."),
    )


def under_adapter(student: LanguageModel, plan: HealPlan) -> Any:
    """Put a new LoRA on every linear layer but the head, and return PEFT's view of the student."""
    import peft

    given = plan.training.arguments
    config = peft.LoraConfig(
        r=given.lora_r, lora_alpha=given.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(given.seed)
        return peft.get_peft_model(student.network, config)


def save_adapter(network: Any, folder: Path, base: str) -> None:
    """Write an adapter as PEFT does.

    Args:
        network: under PEFT.
        folder: that is written.
        base: name of the model that the student was made of: a model in memory has none.
    """
    network.peft_config["default"].base_model_name_or_path = base
    network.save_pretrained(str(folder), save_embedding_layers=False)


def result_plan(
    plan: HealPlan,
    work: Path,
    to: str | None,
    token: Token = None,
    cancel: threading.Event | None = None,
) -> Plan:
    """The plan of the merge of the student, which is written into the work folder unless it is there, and its adapter.

    Raises:
        MergeError: one of them cannot be merged.
    """
    student = work.resolve() / _STUDENT
    if not student.exists():
        run_plan(plan.merge, str(student), token=token, cancel=cancel)
    adapted = {"model": str(student), "adapters": [{"model": str(student.with_name(_ADAPTER))}]}
    recipe = {"merge_method": "passthrough", "models": [{"model": adapted}]}
    merged = make_plan(read_recipe(json.dumps(recipe)), to, token=token)
    if not merged.ok:
        raise PlanError(merged.problems)
    return merged
