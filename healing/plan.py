"""What a training run will do and cost, and everything that prevents it, before a model is loaded."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from checkpoints import Token, open_checkpoint
from checkpoints.architecture import Layout
from checkpoints.dtypes import itemsize
from checkpoints.memory import free_memory
from checkpoints.problems import Problem, ProblemError
from evaluation import EvaluationError
from healing.data import (
    Row,
    check_apart,
    digest,
    document_of,
    held_out,
    judged_documents,
    not_seen,
    read_rows,
)
from healing.licences import licences_of
from healing.settings import HELD_OUT, Training, Weights, read_training
from merging import Plan, make_plan
from merging.plan import PlannedTensor

# Bytes of this process with its libraries, before any model.
_LIBRARIES = 700_000_000
# Bytes of text that make a token, at the least: English has about four, Korean fewer.
_BYTES_OF_A_TOKEN = 2
# Bytes that at least one text to train on has: a token alone teaches nothing of what follows it.
_LEAST_TEXT = 8
# Of the speed of large products, what a training step reaches.
_EFFICIENCY = 0.6
_NUMBER = re.compile(r"(?<![^.])(\d+)\.")


@dataclass(frozen=True)
class HealPlan:
    """What a training run will do.

    Args:
        training: as it was read
        merge: the plan of the model to train
        teacher: name of the model that is imitated, or that the result is compared with; empty where there is none
        pairs: for each layer of the teacher that the student has, the last of the student's layers made of it, and the
            teacher's layer
        copies: layers that are silent copies
        rows: to train on
        judged: documents to judge on
        judged_pairs: pairs of answers to judge on
        licences: of each data set
        problems: what prevents the run
        warnings: what the user should know
        device: "cpu" or "cuda"
        memory_bytes: the estimated peak of the process, or of the GPU
        free_bytes: that there are
        seconds: the estimated time of training, without judging
    """

    training: Training
    merge: Plan
    teacher: str = ""
    pairs: tuple[tuple[int, int], ...] = ()
    copies: tuple[int, ...] = ()
    rows: tuple[Row, ...] = ()
    judged: tuple[str, ...] = ()
    judged_pairs: tuple[Row, ...] = ()
    licences: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    device: str = "cpu"
    memory_bytes: int = 0
    free_bytes: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def documents(self) -> list[str]:
        """What is trained on, as texts."""
        return [document_of(row) for row in self.rows]

    @property
    def weights(self) -> Weights:
        """What is trained."""
        return self.training.weights or ("copies" if self.copies else "lora")

    @property
    def imitates(self) -> bool:
        """Whether a teacher is imitated."""
        return self.training.kind.imitates

    @property
    def keeps_teacher(self) -> bool:
        """Whether the teacher is in memory during the training, and not only before."""
        return self.imitates and not self.training.top_k

    @property
    def teacher_merge(self) -> Plan | None:
        """The plan of the teacher, if it is a merge that the chain makes on the way."""
        return next((model.made_by for model in self.merge.models if model.name == self.teacher), None)

    @property
    def key(self) -> str:
        """Identifies all that decides the trained numbers: a stored state of another key is not continued."""
        training = self.training
        given = [training.kind.name, training.arguments, sorted(training.loss.items()), self.weights]
        taught = [self.teacher, training.hidden_states, training.top_k] if self.imitates else []
        return digest([repr([self.merge.fingerprint, *given, *taught]), *map(repr, self.rows)])

    def summary(self) -> dict[str, Any]:
        """For programs, as JSON."""
        arguments = self.training.arguments
        return {
            "ok": self.ok,
            "problems": [problem.as_dict() for problem in self.problems],
            "warnings": [problem.as_dict() for problem in self.warnings],
            "kind": self.training.kind.name,
            "weights": self.weights,
            "teacher": self.teacher,
            "layers": {"pairs": [list(pair) for pair in self.pairs], "copies": list(self.copies)},
            "steps": arguments.max_steps,
            "tokens": arguments.tokens,
            "rows": len(self.rows),
            "text_bytes": sum(len(text.encode()) for text in self.documents),
            "judged_documents": len(self.judged),
            "judged_pairs": len(self.judged_pairs),
            "licences": dict(self.licences),
            "device": self.device,
            "memory_bytes": self.memory_bytes,
            "free_bytes": self.free_bytes,
            "seconds": self.seconds,
        }


def plan_training(
    text: str,
    *,
    folder: Path = Path(),
    to: str | None = None,
    token: Token = None,
    allow_folders: bool = True,
    device: str = "auto",
    memory: int | None = None,
) -> HealPlan:
    """Read a chain that ends in a training document, its rows, and the headers of its models. Loads no weights.

    Args:
        text: YAML
        folder: that names of files are relative to
        to: where the result will go; None: that is not checked
        token: whose access to the Hub to use
        allow_folders: whether models and texts may be files of this machine
        device: that trains: "cpu", "cuda", or "auto" for the GPU if there is one
        memory: bytes that are free on it; None: as many as there are now

    Returns:
        The plan; if it has problems, `plan.ok` is false.

    Raises:
        RecipeError: the text cannot be read.
    """
    training = read_training(text)
    merge = make_plan(training.recipe, token=token, allow_folders=allow_folders)
    where = _device(device)
    problems = [*merge.problems]
    if to is not None and merge.ok:
        problems += make_plan(training.recipe, to, token=token, allow_folders=allow_folders).problems
    rows: tuple[list[Row], list[Row], list[str]] = ([], [], [])
    try:
        rows = _rows(training, folder, token, allow_folders)
    except ProblemError as error:
        problems += error.problems
    free = (_free_on_gpu() if where == "cuda" else free_memory()) if memory is None else memory
    known: dict[str, Any] = {"device": where, "free_bytes": free, "warnings": merge.warnings}
    if problems:
        return HealPlan(training, merge, problems=tuple(problems), **known)
    taught_rows, kept, judged = rows
    names = list(dict.fromkeys(model.name for model in merge.models if not model.generated))
    teacher = training.teacher or (names[0] if len(names) == 1 else "")
    if training.kind.imitates and not teacher:
        return HealPlan(training, merge, problems=(Problem("no-teacher", {"parents": names}),), **known)
    taught, found = _teacher_parameters(merge, teacher, training, token, allow_folders)
    if not training.kind.imitates and found:
        teacher, found = "", []  # it cannot be compared with, and need not be
    plan = HealPlan(
        training, merge, teacher, layer_pairs(merge, teacher), silent_layers(merge), tuple(taught_rows), tuple(judged),
        tuple(kept) if training.kind.rows == "preferences" else (), licences_of(training.datasets, token), **known,
    )  # fmt: skip
    problems = [*found, *_problems(plan)]
    needed = _memory(plan, taught)
    if needed > free:
        problems.append(Problem("training-too-large", {"needed": needed / 1e9, "free": free / 1e9}))
    seconds = _seconds(plan, taught) if not problems else 0.0
    return replace(plan, problems=tuple(problems), memory_bytes=needed, seconds=seconds)


def _rows(
    training: Training, folder: Path, token: Token, allow_folders: bool
) -> tuple[list[Row], list[Row], list[str]]:
    """Rows to train on, rows that are held out, and documents to judge on.

    Raises:
        EvaluationError: they cannot be read, are too short, or would be judged on.
    """
    rows = read_rows(training.datasets, training.kind, folder, token, allow_folders=allow_folders)
    kept: list[Row] = []
    if HELD_OUT in training.texts:
        rows, kept = held_out(rows)
        kept = not_seen(kept, rows)
        if not kept:
            raise EvaluationError(Problem("nothing-held-out", {"rows": len(rows)}))
    trained = [document_of(row) for row in rows]
    names = [name for name in training.texts if name != HELD_OUT]
    judged = judged_documents(names, folder, allow_folders=allow_folders)
    check_apart(trained, judged)
    longest = max((len(one.encode()) for one in trained), default=0)
    if longest < _LEAST_TEXT:
        raise EvaluationError(Problem("training-texts-tiny", {"bytes": longest}))
    length = training.arguments.max_length
    size = sum(len(one.encode()) for one in trained)
    if training.kind.name == "distillation" and size < length * _BYTES_OF_A_TOKEN:
        raise EvaluationError(Problem("training-text-short", {"bytes": size, "length": length}))
    return rows, kept, [*judged, *map(document_of, kept)]


def _problems(plan: HealPlan) -> list[Problem]:
    """What prevents a run, beside its texts, its teacher's vocabulary and memory."""
    training, problems = plan.training, []
    if training.hidden_states and not plan.pairs:
        problems.append(Problem("no-layer-pairs", {"teacher": plan.teacher}))
    length, context = training.arguments.max_length, _context(plan.merge)
    if context and length > context:
        problems.append(Problem("training-beyond-context", {"length": length, "most": context}))
    if plan.weights == "lora":
        problems += _rank_problems(plan.merge, training.arguments.lora_r)
    if plan.weights == "copies" and not plan.copies:
        problems.append(Problem("no-copies", {}))
    is_parent = any(model.name == plan.teacher for model in plan.merge.models)
    if plan.copies and plan.imitates and is_parent:
        problems.append(Problem("nothing-to-imitate", {"teacher": plan.teacher}))
    return problems


def _context(merge: Plan) -> int:
    """How many positions the config of a result knows; 0 where it does not say."""
    config = json.loads(merge.files.get("config.json") or "{}")
    text = config.get("text_config") or config
    found = text.get("max_position_embeddings") or text.get("n_positions")
    return found if isinstance(found, int) and not isinstance(found, bool) else 0


def _device(device: str) -> str:
    if device == "cpu":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _free_on_gpu() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[0])


def silent_layers(merge: Plan) -> tuple[int, ...]:
    """Layers of a merge of which a tensor is times zero: they add nothing to the hidden states."""
    found = {
        tensor.layer for tensor in merge.tensors if tensor.layer is not None and _is_zero(tensor.parameters)
    }
    return tuple(sorted(found))


def _is_zero(parameters: Mapping[str, Any]) -> bool:
    scale = parameters.get("scale")
    return scale in (0, [0])


def layer_pairs(merge: Plan, teacher: str) -> tuple[tuple[int, int], ...]:
    """Layers of a merge, each with the layer of the teacher that it is made of; of several, the last one counts."""
    found: dict[int, int] = {}
    for tensor in merge.tensors:
        for source in _layers_in(tensor, merge, teacher):
            assert tensor.layer is not None
            found[source] = max(found.get(source, -1), tensor.layer)
    return tuple(sorted((layer, source) for source, layer in found.items()))


def _layers_in(tensor: PlannedTensor, merge: Plan, teacher: str) -> list[int]:
    """The teacher's layers that go into a tensor of a layer."""
    names = [part.tensor for part in tensor.inputs if merge.models[part.model].name == teacher]
    numbers = [_NUMBER.search(name) for name in names] if tensor.layer is not None else []
    return [int(number[1]) for number in numbers if number]


def _matrices(merge: Plan) -> list[PlannedTensor]:
    return [tensor for tensor in merge.tensors if tensor.layer is not None and len(tensor.shape) == 2]


def _rank_problems(merge: Plan, rank: int) -> list[Problem]:
    smallest = min(_matrices(merge), key=lambda tensor: min(tensor.shape), default=None)
    if smallest is None or rank <= min(smallest.shape):
        return []
    values = {"rank": rank, "most": min(smallest.shape), "tensor": smallest.name}
    return [Problem("rank-too-large", values)]


def _teacher_parameters(
    merge: Plan, teacher: str, training: Training, token: Token, allow_folders: bool
) -> tuple[int, list[Problem]]:
    """How many weights the teacher has, and what is wrong with its vocabulary."""
    if not teacher:
        return 0, []
    made = next((model for model in merge.models if model.name == teacher and model.made_by), None)
    if made:
        return made.parameters, []
    try:
        with closing(open_checkpoint(teacher, token=token, allow_folders=allow_folders)) as opened:
            layout = Layout(opened.tensors, opened.config)
            rows = opened.tensors[layout.embedding].shape[0] if layout.embedding else 0
            count = sum(tensor.elements for tensor in opened.tensors.values())
    except ProblemError as error:
        return 0, list(error.problems)
    own = next((t.shape[0] for t in merge.tensors if t.name == layout.embedding), rows)
    if training.kind.name == "gold" or (own == rows and not merge.tokenizer):
        return count, []
    return count, [Problem("teacher-vocabulary", {"teacher": teacher, "rows": rows, "own": own})]


def _elements(merge: Plan) -> int:
    return sum(tensor.elements for tensor in merge.tensors)


def _trained_parameters(plan: HealPlan) -> int:
    if plan.weights == "lora":
        rank = plan.training.arguments.lora_r
        return sum(rank * sum(tensor.shape) for tensor in _matrices(plan.merge))
    layers = {*plan.copies}
    return sum(t.elements for t in plan.merge.tensors if plan.weights == "all" or t.layer in layers)


def _memory(plan: HealPlan, taught: int) -> int:
    """The peak of the process, or of the GPU: both models, what is trained with its gradient and two moments, what
    the backward pass needs, and logits."""
    training, merge = plan.training, plan.merge
    arguments, kind = training.arguments, training.kind
    # On a processor everything is float32.
    stored = max((itemsize(tensor.dtype) for tensor in merge.tensors), default=4)
    width = 4 if plan.device == "cpu" else min(stored, 4)
    own = _elements(merge) * (width if plan.weights == "lora" else 4)
    if kind.name == "dpo" and plan.weights != "lora":
        own *= 2  # and the model before the training
    moved = (4 if plan.weights == "lora" else 3) * 4 * _trained_parameters(plan)
    tokens = arguments.per_device_train_batch_size * arguments.max_length
    tokens *= 2 if kind.rows == "preferences" else 1
    # Each matrix keeps its input, and norms and products between them about as much again.
    kept = 2 * sum(tensor.shape[-1] for tensor in _matrices(merge)) * tokens * width
    words = max((t.shape[0] for t in merge.tensors if t.layer is None and len(t.shape) == 2), default=0)
    # Logits, their soft-max and the gradient of both at once, or a chunk of them.
    logits = 12 * tokens * words if kind.by_trl else 4 * (32 << 20)
    if plan.keeps_teacher:
        return _LIBRARIES + own + taught * width + moved + kept + logits
    return _LIBRARIES + own + max(taught * width, moved + kept + logits)


def _seconds(plan: HealPlan, taught: int) -> float:
    """By the speed of a product that is timed here: a pass of the teacher, a pass forth and back of the student."""
    import torch

    own, trained, kind = _elements(plan.merge), _trained_parameters(plan), plan.training.kind
    operations = 4 * own + (4 if plan.weights == "lora" else 2) * trained
    operations += 2 * taught if plan.imitates else 0
    operations += 2 * own if kind.name == "dpo" else 0
    operations *= 2 if kind.rows == "preferences" else 1
    on_gpu = plan.device == "cuda"
    size = 4096 if on_gpu else 768
    square = torch.ones(size, size, device=plan.device, dtype=torch.bfloat16 if on_gpu else torch.float32)
    took = []
    for _ in range(20):
        began = time.perf_counter()
        square @ square
        if on_gpu:
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return plan.training.arguments.tokens * operations * min(took) / (2 * size**3 * _EFFICIENCY)
