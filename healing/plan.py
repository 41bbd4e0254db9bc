"""What a training run will do and cost, and everything that prevents it, before a model is loaded."""

from __future__ import annotations

import re
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import Token, open_checkpoint
from checkpoints.architecture import Layout
from checkpoints.memory import free_memory
from checkpoints.problems import Problem, ProblemError
from healing.data import check_apart, digest, judged_documents, read_documents
from healing.settings import Training, read_training
from merging import Plan, make_plan
from merging.plan import PlannedTensor

# Bytes of this process with its libraries, before any model.
_LIBRARIES = 700_000_000
# Bytes of text that make a token, at the least: English has about four, Korean fewer.
_BYTES_OF_A_TOKEN = 2
# Of the speed of large products, what a training step reaches.
_EFFICIENCY = 0.5
_NUMBER = re.compile(r"(?<![^.])(\d+)\.")


@dataclass(frozen=True)
class HealPlan:
    """What a training run will do.

    Args:
        training: as it was read
        merge: the plan of the model to train
        teacher: name of the model that is imitated
        pairs: for each layer of the teacher that the student has, the last of the student's layers made of it, and the
            teacher's layer
        documents: to train on
        judged: documents to judge on
        problems: what prevents the run
        warnings: what the user should know
        memory_bytes: the estimated peak of the process
        free_bytes: that there are
        seconds: the estimated time of training, without judging
    """

    training: Training
    merge: Plan
    teacher: str = ""
    pairs: tuple[tuple[int, int], ...] = ()
    documents: tuple[str, ...] = ()
    judged: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    memory_bytes: int = 0
    free_bytes: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def key(self) -> str:
        """Identifies all that decides the trained numbers: a stored state of another key is not continued."""
        arguments = self.training.arguments
        made_of = [self.merge.fingerprint, self.teacher, arguments, self.training.hidden_states]
        return digest([repr(made_of), *self.documents])

    def summary(self) -> dict[str, Any]:
        """For programs, as JSON."""
        arguments = self.training.arguments
        return {
            "ok": self.ok,
            "problems": [problem.as_dict() for problem in self.problems],
            "warnings": [problem.as_dict() for problem in self.warnings],
            "teacher": self.teacher,
            "layers": {"pairs": [list(pair) for pair in self.pairs]},
            "steps": arguments.max_steps,
            "tokens": arguments.tokens,
            "text_bytes": sum(len(text.encode()) for text in self.documents),
            "judged_documents": len(self.judged),
            "memory_bytes": self.memory_bytes,
            "free_bytes": self.free_bytes,
            "seconds": self.seconds,
        }


def plan_training(
    text: str,
    *,
    folder: Path = Path(),
    token: Token = None,
    allow_folders: bool = True,
    memory: int | None = None,
) -> HealPlan:
    """Read a chain that ends in a training document, its texts, and the headers of its models. Loads no weights.

    Args:
        text: YAML
        folder: that names of files are relative to
        token: whose access to the Hub to use
        allow_folders: whether models and texts may be files of this machine
        memory: bytes that are free; None: as many as this machine or container has free

    Returns:
        The plan; if it has problems, `plan.ok` is false.

    Raises:
        RecipeError: the text cannot be read.
    """
    training = read_training(text)
    merge = make_plan(training.recipe, token=token, allow_folders=allow_folders, memory=memory)
    problems, warnings = [*merge.problems], merge.warnings
    documents: list[str] = []
    judged: list[str] = []
    try:
        documents = read_documents(training.datasets, folder, token, allow_folders=allow_folders)
        judged = judged_documents(training.texts, folder)
        check_apart(documents, judged)
        length = training.arguments.max_length
        size = sum(len(one.encode()) for one in documents)
        if size < length * _BYTES_OF_A_TOKEN:
            problems.append(Problem("training-text-short", {"bytes": size, "length": length}))
    except ProblemError as error:
        problems += error.problems
    free = free_memory() if memory is None else memory
    if problems:
        return HealPlan(training, merge, problems=tuple(problems), warnings=warnings, free_bytes=free)
    parents = list(dict.fromkeys(model.name for model in merge.parents))
    teacher = training.teacher or (parents[0] if len(parents) == 1 else "")
    if not teacher:
        problem = Problem("no-teacher", {"parents": parents})
        return HealPlan(training, merge, problems=(problem,), warnings=warnings, free_bytes=free)
    pairs = layer_pairs(merge, teacher)
    if training.hidden_states and not pairs:
        problems.append(Problem("no-layer-pairs", {"teacher": teacher}))
    problems += _rank_problems(merge, training.arguments.lora_r)
    taught, found = _teacher_parameters(merge, teacher, token, allow_folders)
    problems += found
    needed = _memory(merge, training, taught)
    if needed > free:
        problems.append(Problem("training-too-large", {"needed": needed / 1e9, "free": free / 1e9}))
    seconds = _seconds(merge, training, taught) if not problems else 0.0
    return HealPlan(
        training, merge, teacher, pairs, tuple(documents), tuple(judged), tuple(problems), warnings, needed, free,
        seconds,
    )  # fmt: skip


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
    merge: Plan, teacher: str, token: Token, allow_folders: bool
) -> tuple[int, list[Problem]]:
    """How many weights the teacher has, and what is wrong with its vocabulary."""
    try:
        with closing(open_checkpoint(teacher, token=token, allow_folders=allow_folders)) as opened:
            layout = Layout(opened.tensors, opened.config)
            rows = opened.tensors[layout.embedding].shape[0] if layout.embedding else 0
            count = sum(tensor.elements for tensor in opened.tensors.values())
    except ProblemError as error:
        return 0, list(error.problems)
    own = next((t.shape[0] for t in merge.tensors if t.name == layout.embedding), rows)
    values = {"teacher": teacher, "rows": rows, "own": own}
    return count, [] if own == rows and not merge.tokenizer else [Problem("teacher-vocabulary", values)]


def _adapter_parameters(merge: Plan, rank: int) -> int:
    return sum(rank * sum(tensor.shape) for tensor in _matrices(merge))


def _memory(merge: Plan, training: Training, taught: int) -> int:
    """The peak of the process: both models in float32, the adapter with its gradient and two moments, what the
    backward pass needs, and a chunk of logits."""
    arguments = training.arguments
    tokens = arguments.per_device_train_batch_size * arguments.max_length
    own = sum(tensor.elements for tensor in merge.tensors)
    # Each matrix keeps its input, and norms and products between them about as much again.
    kept = 2 * sum(tensor.shape[-1] for tensor in _matrices(merge)) * tokens
    logits = 4 * (32 << 20)
    return _LIBRARIES + 4 * (own + taught + 4 * _adapter_parameters(merge, arguments.lora_r) + kept) + logits


def _seconds(merge: Plan, training: Training, taught: int) -> float:
    """By the speed of a product that is timed here: a pass of the teacher, a pass forth and back of the student."""
    import torch

    own = sum(tensor.elements for tensor in merge.tensors)
    operations = 2 * taught + 4 * own + 4 * _adapter_parameters(merge, training.arguments.lora_r)
    square = torch.ones(768, 768)
    took = []
    for _ in range(20):
        began = time.perf_counter()
        square @ square
        took.append(time.perf_counter() - began)
    speed = 2 * 768**3 / min(took)
    return training.arguments.tokens * operations / (speed * _EFFICIENCY)
