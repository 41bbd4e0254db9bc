"""What a training run will do and cost, and everything that prevents it, before a model is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from checkpoints import Token, open_checkpoint
from checkpoints.architecture import Layout
from checkpoints.memory import free_memory
from checkpoints.problems import Problem, ProblemError
from checkpoints.tokenizer_files import is_template
from evaluation import EvaluationError
from healing.costs import matrices, memory_of, seconds_of, tokens_of, vocabulary
from healing.data import (
    Row,
    check_apart,
    digest,
    document_of,
    held_out,
    is_conversation,
    judged_documents,
    not_seen,
    read_rows,
)
from healing.licences import licences_of
from healing.settings import HELD_OUT, Training, Weights, read_training
from merging import Plan, make_plan
from merging.plan import PlannedTensor

# Bytes of text that make a token, at the least: English has about four, Korean fewer.
_BYTES_OF_A_TOKEN = 2
# Bytes that at least one text to train on has: a token alone teaches nothing of what follows it.
_LEAST_TEXT = 8
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

    @cached_property
    def row_tokens(self) -> list[int]:
        """Estimated tokens of each row."""
        return [tokens_of(row) for row in self.rows]

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
    training = _in_context(training, merge)
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
    problems = [*found, *_problems(plan), *_row_problems(plan)]
    needed = memory_of(plan, taught)
    if needed > free:
        problems.append(Problem("training-too-large", {"needed": needed / 1e9, "free": free / 1e9}))
    seconds = seconds_of(plan, taught) if not problems else 0.0
    warnings = (*plan.warnings, *_warnings(plan))
    return replace(plan, problems=tuple(problems), warnings=warnings, memory_bytes=needed, seconds=seconds)


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


def _in_context(training: Training, merge: Plan) -> Training:
    """The training with a default length that the model can read."""
    context = _context(merge)
    if not context or "max_length" in training.places or training.arguments.max_length <= context:
        return training
    return replace(training, arguments=replace(training.arguments, max_length=context))


def _problems(plan: HealPlan) -> list[Problem]:
    """What prevents a run, beside its rows, its teacher's vocabulary and memory."""
    training, places, problems = plan.training, plan.training.places, []
    values: dict[str, Any]
    if training.hidden_states and not plan.pairs:
        problems.append(Problem("no-layer-pairs", {"teacher": plan.teacher}, places["hidden_states"]))
    length, context = training.arguments.max_length, _context(plan.merge)
    if context and length > context:
        values = {"length": length, "most": context}
        problems.append(Problem("training-beyond-context", values, places["max_length"]))
    if training.top_k > (most := vocabulary(plan.merge)):
        values = {"k": training.top_k, "most": most}
        problems.append(Problem("top-k-too-large", values, places["top_k"]))
    smallest = min(matrices(plan.merge), key=lambda tensor: min(tensor.shape), default=None)
    rank = training.arguments.lora_r
    if plan.weights == "lora" and smallest and rank > (most := min(smallest.shape)):
        values = {"rank": rank, "most": most, "tensor": smallest.name}
        problems.append(Problem("rank-too-large", values, places.get("lora_r", places["train"])))
    if plan.weights == "copies" and not plan.copies:
        problems.append(Problem("no-copies", {}, places["weights"]))
    is_parent = any(model.name == plan.teacher for model in plan.merge.models)
    if plan.copies and plan.imitates and is_parent:
        problems.append(Problem("nothing-to-imitate", {"teacher": plan.teacher}, places["train"]))
    if training.kind.by_trl and find_spec("trl") is None:
        problems.append(Problem("no-trl", {"kind": training.kind.name}, places["train"]))
    return problems


def _row_problems(plan: HealPlan) -> list[Problem]:
    """What TRL would refuse of the rows once the model is loaded."""
    training, row = plan.training, plan.rows[0]
    if not training.kind.by_trl:
        return []
    is_talk, problems = is_conversation(row), []
    if is_talk and not _may_have_template(plan.merge):
        problems.append(Problem("rows-without-template", {"columns": list(row)}, training.datasets[0].where))
    for name, columns, there in (
        ("completion_only_loss", ["prompt", "completion"], "completion" in row),
        ("assistant_only_loss", ["messages"], is_talk),
    ):
        if training.loss.get(name) and not there:
            values = {"name": name, "columns": columns, "given": list(row)}
            problems.append(Problem("rows-without-columns", values, training.places[name]))
    return problems


def _warnings(plan: HealPlan) -> list[Problem]:
    """What the user should know of the rows."""
    length = plan.training.arguments.max_length
    count = sum(tokens > length for tokens in plan.row_tokens) if plan.training.kind.by_trl else 0
    values = {"count": count, "rows": len(plan.rows), "length": length}
    return [Problem("rows-cut", values, plan.training.datasets[0].where)] if count else []


def _may_have_template(merge: Plan) -> bool:
    """Whether a result has a chat template, as far as the files of its tokenizer are known."""
    if any(is_template(file) for file in (*merge.files, *merge.copied_files)):
        return True
    config = merge.files.get("tokenizer_config.json")
    return config is None or bool(json.loads(config).get("chat_template"))


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
