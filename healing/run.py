"""A training run from its plan to a judged model: what was trained is merged by the engine, as any other adapter."""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from checkpoints import Token
from checkpoints.dtypes import torch_name
from checkpoints.heap import buffers_by_mmap
from checkpoints.names import is_address
from checkpoints.problems import Cancelled, PlanError, Problem
from checkpoints.repositories.repository import HUB_SCHEME
from evaluation import Difference, LanguageModel, Perplexity, difference, load_model, perplexity
from evaluation.error import EvaluationError, memory_named
from evaluation.influence import own_copy
from evaluation.model import language_model, loaded_models
from evaluation.tokenizer import read_tokenizer
from healing.branch import Branch
from healing.data import places, windows
from healing.distillation import Distillation
from healing.plan import HealPlan
from healing.preferences import Preferred, margins, preferred
from healing.stored_teacher import store
from healing.training import State, Trainer, TrainingObjective, TrainingStep, room_named
from healing.trl_loss import trl_loss
from healing.weights import prepare, save
from merging import Plan, Result, licence_of, make_plan, merge_into_memory, read_recipe, run_plan

# What the trained model is called in results, and the model before the training.
AFTER, BEFORE = "after", "before"
# In the work folder: of which run it is, the model to train, the state, what was trained.
_RUN, _STUDENT, STATE, _ADAPTER = "run.json", "student", "state.safetensors", "adapter"
# Bytes of a tensor that leaves nothing behind when it is freed.
_BUFFER = 256 << 10
_TEACHER, _TRL = "teacher.safetensors", "trl"


@dataclass(frozen=True)
class Judgement:
    """A model before and after the training, and its teacher, on texts that training never saw.

    Attributes:
        before, after: perplexities.
        gain: after against before.
        teacher: the perplexity of the teacher, or of the only parent; None where there is none to compare with.
        gap: after against that.
        stop_above: the ratio of perplexities, after by teacher (or before, where there is none), above which a result
            is not written; None: any.
        preferred: how the models judge pairs of answers, after a training on preferences.
    """

    before: Perplexity
    after: Perplexity
    gain: Difference
    teacher: Perplexity | None = None
    gap: Difference | None = None
    stop_above: float | None = None
    preferred: Preferred | None = None

    @property
    def healed(self) -> bool:
        """Whether the model is better than before, by the whole interval, and near enough to its teacher."""
        near = self.stop_above is None or self.after.perplexity <= self.stop_above * self._aim.perplexity
        return near and (self.preferred.is_better if self.preferred else self.gain.verdict == "better")

    @property
    def _aim(self) -> Perplexity:
        return self.teacher or self.before

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "healed": self.healed,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "teacher": self.teacher and self.teacher.to_dict(),
            "gain": self.gain.to_dict(),
            "gap": self.gap and self.gap.to_dict(),
            "preferred": self.preferred and self.preferred.to_dict(),
        }

    @property
    def rows(self) -> list[tuple[str, Perplexity]]:
        """Names and scores, for a table."""
        found = [(BEFORE, self.before), (AFTER, self.after)]
        return [*found, ("teacher", self.teacher)] if self.teacher else found

    @property
    def words(self) -> list[str]:
        """The differences, in sentences."""
        gap = [self.gap.words] if self.gap else []
        return [*([self.preferred.words] if self.preferred else []), self.gain.words, *gap]

    def to_markdown(self) -> str:
        """A table and the differences in words, for the card."""
        lines = ["| | perplexity | bits per byte |", "|---|--:|--:|"]
        lines += [f"| {name} | {one.perplexity:.2f} | {one.bits_per_byte:.4f} |" for name, one in self.rows]
        return "\n".join([*lines, "", *self.words, ""])


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

    def outcome(self) -> dict[str, Any]:
        """What a program needs to show it, as data: remarks are codes with values."""
        judgement = self.judgement
        remarks = [*judgement.gain.remarks, *(judgement.gap.remarks if judgement.gap else ())]
        return {
            "healed": judgement.healed,
            "scores": [[name, one.perplexity, one.bits_per_byte] for name, one in judgement.rows],
            "remarks": [asdict(remark) for remark in remarks],
            "losses": self.losses,
            "seconds": self.seconds,
            "result": self.result and asdict(self.result),
        }

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        place = self.result and (self.result.url or self.result.location)
        return {
            **self.judgement.to_dict(),
            "losses": self.losses,
            "seconds": self.seconds,
            "written": place or (str(self.adapter) if self.adapter else None),
        }


@dataclass(frozen=True)
class Options:
    """How a training run is carried out.

    Args:
        adapter_only: write the adapter, and not the model it is merged into.
        keep: write the result even if it did not heal.
        token: whose access to the Hub to use.
        private: whether a repository that is created is private.
        gguf: types of GGUF files that are made of the result as well, see `merging.run_plan`.
        found: what led to the student, for the card, in Markdown.
        story: the text that the card shows as the recipe; None: the chain.
        on_step: called after each step.
        cancel: set it from another thread to stop.
    """

    adapter_only: bool = False
    keep: bool = False
    token: Token = field(default=None, repr=False)
    private: bool = True
    gguf: Sequence[str] | None = None
    found: str = ""
    story: str | None = None
    on_step: Callable[[TrainingStep], None] | None = None
    cancel: threading.Event | None = None


def run_training(plan: HealPlan, to: str, *, work: Path | None = None, **options: Any) -> Healed:
    """Train, judge, and write the result if it healed.

    A run that died is repeated with the same plan and continues with the same bits: from the work folder, or, if the
    result goes to the Hub and no folder is named, from a branch of that repository, on any machine. One that was
    cancelled leaves nothing behind.

    Args:
        plan: from `plan_training`, without problems.
        to: a folder, or `hf://owner/name`; of an adapter, a folder.
        work: a folder for the state and the adapter on the way; it is removed at the end. None: beside the result, or
            for a result on the Hub, a branch there.
        options: see `Options`.

    Raises:
        PlanError: the plan has problems.
        EvaluationError: a model cannot be loaded or trained.
        MergeError: the model cannot be made, or the result cannot be written.
        Cancelled: `cancel` was set.
    """
    if not plan.ok:
        raise PlanError(plan.problems)
    given = Options(**options)
    if given.adapter_only and plan.weights != "lora":
        raise EvaluationError(Problem("adapter-only-lora", {"weights": plan.weights}))
    if given.adapter_only and Path(to).exists():
        raise EvaluationError(Problem("adapter-folder-exists", {"folder": to}))
    repo = to.removeprefix(HUB_SCHEME).partition("@")[0]
    on_hub = work is None and to.startswith(HUB_SCHEME) and not is_address(to)
    folder = work or (
        Path(tempfile.gettempdir()) / f"alloy-heal-{plan.key[:16]}"
        if on_hub or is_address(to)
        else Path(f"{to.rstrip('/')}.training")
    )
    with room_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_ours(folder, plan.key)
    state = Branch(folder / STATE, repo, plan.key, given.token) if on_hub else State(folder / STATE)
    try:
        if isinstance(state, Branch):
            state.open()
        with buffers_by_mmap(_BUFFER):
            healed = _Run(plan, to, folder, state, given).healed()
    except (Cancelled, KeyboardInterrupt):
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(state, Branch):
            state.close(cancelled=True)
        raise
    if isinstance(state, Branch):
        if healed.result and not given.private:
            state.publish()
        state.close(cancelled=healed.result is None)
    shutil.rmtree(folder)
    return healed


def check_ours(work: Path, key: str) -> None:
    """Check that a work folder, which is removed at the end, is empty or of the same training run, and mark it.

    Raises:
        EvaluationError: it has something else, or the state of another run.
    """
    mark = work / _RUN
    if not mark.exists():
        if any(work.iterdir()):
            raise EvaluationError(Problem("work-folder-taken", {"folder": str(work)}))
        mark.write_text(json.dumps({"key": key}), encoding="utf-8")
    elif json.loads(mark.read_text(encoding="utf-8")).get("key") != key:
        raise EvaluationError(Problem("other-training", {"file": str(work)}))


@dataclass
class _Run:
    """One training run.

    Args:
        plan, to: see `run_training`
        work: the work folder
        state: where it continues from
        given: options
    """

    plan: HealPlan
    to: str
    work: Path
    state: State
    given: Options

    def healed(self) -> Healed:
        plan, training = self.plan, self.plan.training
        student = self.student()
        teacher = self.teacher(student)
        scores = {BEFORE: self.score(student)}
        if teacher:
            scores["teacher"] = self.score(teacher)
        before = self.margins(student)
        network = prepare(student, plan)
        if not plan.imitates:
            teacher = None
        objective = self.objective(student, network, teacher)
        del teacher
        trainer = Trainer(student.name, network, objective, training.arguments, plan.key, self.state)
        began = time.monotonic()
        trainer.train(self.given.on_step, self.given.cancel)
        seconds = time.monotonic() - began
        with room_named(self.work):
            save(network, self.work / _ADAPTER, plan.teacher or str(self.work / _STUDENT))
        tokenizer, device, dtype = student.tokenizer, student.device, student.dtype
        del network, student, objective, trainer.network, trainer.objective
        gc.collect()  # a trainer of TRL's refers to itself
        merged = result_plan(plan, self.work, None if self.given.adapter_only else self.to, self.given.token)
        after = in_memory(AFTER, merged, tokenizer, device, dtype, self.given.token)
        scores[AFTER] = self.score(after)
        compared = "teacher" in scores
        judgement = Judgement(
            scores[BEFORE],
            scores[AFTER],
            difference(scores[AFTER], scores[BEFORE], plan.judged),
            scores.get("teacher"),
            difference(scores[AFTER], scores["teacher"], plan.judged) if compared else None,
            training.stop_above,
            preferred(before, self.margins(after)) if before else None,
        )
        del after
        healed = Healed(judgement, tuple(trainer.losses), seconds)
        return self.written(healed, merged) if judgement.healed or self.given.keep else healed

    def student(self) -> LanguageModel:
        """The model to train, which is written into the work folder unless it is there."""
        folder = self.work.resolve() / _STUDENT
        if not folder.exists():
            run_plan(self.plan.merge, str(folder), token=self.given.token, cancel=self.given.cancel)
        device = self.plan.device
        dtype = "float32" if device == "cpu" else stored_dtype(self.plan.merge)
        tokenizer = read_tokenizer(BEFORE, folder, folder)
        return in_memory(BEFORE, self.plan.merge, tokenizer, device, dtype, self.given.token)

    def teacher(self, student: LanguageModel) -> LanguageModel | None:
        """The teacher, or what the result is compared with."""
        name, token = self.plan.teacher, self.given.token
        if not name:
            return None
        if self.plan.teacher_merge:
            how = student.tokenizer, student.device, student.dtype
            return in_memory(name, self.plan.teacher_merge, *how, token)
        loaded = load_model(name, token=token, device=self.plan.device)
        if not self.plan.keeps_teacher:
            loaded_models(self.plan.device).release(loaded)
        teacher = own_copy(loaded)
        if teacher.dtype != "float32" and teacher.device == "cpu":
            raise EvaluationError(Problem("teacher-not-widened", {"teacher": name}))
        return teacher

    def objective(
        self, student: LanguageModel, network: Any, teacher: LanguageModel | None
    ) -> TrainingObjective:
        """What is made small."""
        plan, training = self.plan, self.plan.training
        if training.kind.by_trl:
            return trl_loss(training, student, network, plan.rows, self.work / _TRL, teacher)
        assert teacher
        given, temperature = training.arguments, training.loss.get("temperature", 1.0)
        sequences = windows(student, plan.documents, given.max_length)
        taught: Any = teacher
        if training.top_k:
            size = given.per_device_train_batch_size
            steps = (places(len(sequences), step, size, given.seed) for step in range(given.max_steps))
            wanted = list(dict.fromkeys(number for chosen in steps for number in chosen))
            taught = store(
                teacher, sequences, wanted, training.top_k, temperature, self.work / _TEACHER, plan.key,
                self.given.cancel,
            )  # fmt: skip
        return Distillation(student, taught, sequences, plan.pairs, training.hidden_states, temperature)

    def score(self, model: LanguageModel) -> Perplexity:
        return perplexity(model, self.plan.judged, cancel=self.given.cancel)

    def margins(self, model: LanguageModel) -> list[float]:
        length = self.plan.training.arguments.max_length
        return margins(model, self.plan.judged_pairs, length, self.given.cancel)

    def written(self, healed: Healed, merged: Plan) -> Healed:
        plan, given = self.plan, self.given
        if given.adapter_only:
            shutil.move(self.work / _ADAPTER, self.to)
            return replace(healed, adapter=Path(self.to))
        story = given.story or plan.training.text
        # Its own recipe names the work folder.
        merged = replace(merged, files={**merged.files, "mergekit_config.yml": story})
        result = run_plan(
            merged,
            self.to,
            token=given.token,
            private=given.private or isinstance(self.state, Branch),
            licence=licence_of(plan.merge, given.token),
            found=f"{given.found}\n\n{training_section(plan, healed)}".strip(),
            made_of=replace(plan.merge, recipe=story),
            gguf=given.gguf,
            cancel=given.cancel,
        )
        return replace(healed, result=result)


def training_section(plan: HealPlan, healed: Healed) -> str:
    """What the card says of a training: what was trained on what, and the judgement."""
    training = plan.training
    data = ", ".join(f"`{name}` (licence: {licence})" for name, licence in plan.licences.items())
    said = (
        f"`{training.kind.name}`, {training.arguments.max_steps} steps in {healed.seconds:.0f} s, on {data}. "
        f"Judged on {len(plan.judged)} documents that were not trained on."
    )
    return f"## Training\n\n{said}\n\n{healed.judgement.to_markdown()}"


def stored_dtype(merge: Plan) -> str:
    """The number format of the largest tensor of a result, as torch calls it."""
    largest = max(merge.tensors, key=lambda tensor: tensor.bytes)
    return torch_name(largest.dtype)


def in_memory(
    name: str, merge: Plan, tokenizer: Any, device: str, dtype: str, token: Token = None
) -> LanguageModel:
    """The result of a merge as a model.

    Args:
        name: that it gets.
        merge: its plan.
        tokenizer: that it shares with another model.
        device, dtype: where it runs, and its number format.
        token: whose access to the Hub to use.

    Raises:
        MergeError, EvaluationError: it cannot be made, or does not run.
    """
    made: Any = merge_into_memory(merge, token=token)
    stored = str(made.dtype).removeprefix("torch.")
    with memory_named(name, "doing-loading"):
        network = made.to(device=device, dtype=getattr(torch, dtype))
    return language_model(name, network, tokenizer, device=device, stored_dtype=stored)


def result_plan(plan: HealPlan, work: Path, to: str | None, token: Token = None) -> Plan:
    """The plan of the merge of the student in the work folder and what was trained.

    Raises:
        MergeError: it cannot be merged.
    """
    student = work.resolve() / _STUDENT
    adapted = {"model": str(student), "adapters": [{"model": str(student.with_name(_ADAPTER))}]}
    recipe = {"merge_method": "passthrough", "models": [{"model": adapted}]}
    merged = make_plan(read_recipe(json.dumps(recipe)), to, token=token)
    if not merged.ok:
        raise PlanError(merged.problems)
    return merged
