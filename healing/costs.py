"""What a training run takes: memory and time, from shapes alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from checkpoints.dtypes import itemsize
from healing.data import Row, is_conversation, texts_of
from merging import Plan
from merging.plan import PlannedTensor

if TYPE_CHECKING:
    from healing.plan import HealPlan

# Bytes of this process with its libraries, before any model.
_LIBRARIES = 700_000_000
# Of the speed of products, what a training step reaches.
_EFFICIENCY = 0.4
# Bytes of weights that no cache holds.
_BEYOND_CACHES = 64 << 20
# Bytes that are read or written for a weight that is trained: its gradient's norm, and AdamW's moments and update.
_BYTES_OF_UPDATE = 88
# Bytes of a token: of English, and of scripts whose characters have several bytes.
_BYTES, _BYTES_BEYOND_ASCII = 4, 2
_BEYOND_ASCII = bytes(range(128, 256))
# Tokens that a chat template adds to a conversation.
_TEMPLATE = 30
# Numbers that a layer keeps for the backward pass, by those that its matrices read and write: inputs of what is
# trained, and what norms, products and attention need to pass gradients on.
_KEPT_FROZEN, _KEPT_ADAPTED, _KEPT_TRAINED = 0.7, 1.05, 1.2


def tokens_of(row: Row) -> int:
    """Tokens of a row, by its bytes; of two answers the longer one counts."""
    answers = [_tokens([row[name]]) for name in ("chosen", "rejected") if name in row]
    others = _tokens([value for name, value in row.items() if name not in ("chosen", "rejected")])
    return others + max(answers, default=0) + (_TEMPLATE if is_conversation(row) else 0)


def _tokens(columns: list[object]) -> int:
    texts = [text.encode() for text in texts_of(columns)]
    size = sum(map(len, texts))
    plain = sum(len(text.translate(None, _BEYOND_ASCII)) for text in texts)
    return plain // _BYTES + (size - plain) // _BYTES_BEYOND_ASCII


def matrices(merge: Plan) -> list[PlannedTensor]:
    """The matrices of the layers of a result."""
    return [tensor for tensor in merge.tensors if tensor.layer is not None and len(tensor.shape) == 2]


def vocabulary(merge: Plan) -> int:
    """Rows of the embedding of a result, and logits of a position."""
    return max(
        (one.shape[0] for one in merge.tensors if one.layer is None and len(one.shape) == 2), default=0
    )


def memory_of(plan: HealPlan, taught: int) -> int:
    """Bytes of the peak of the process, or of the GPU: both models, what is trained with its gradient and two moments,
    what the backward pass needs, and logits.

    Args:
        plan: of the run.
        taught: how many weights the teacher has.
    """
    training, merge = plan.training, plan.merge
    # On a processor everything is float32.
    stored = max((itemsize(tensor.dtype) for tensor in merge.tensors), default=4)
    width = 4 if plan.device == "cpu" else min(stored, 4)
    own = _elements(merge) * (width if plan.weights == "lora" else 4)
    if training.kind.name == "dpo" and plan.weights != "lora":
        own *= 2  # and the model before the training
    moved = (4 if plan.weights == "lora" else 3) * 4 * _trained_parameters(plan)
    tokens = _tokens_of_step(plan, longest=True)
    # Logits, their soft-max and the gradient of both at once, or a chunk of them.
    logits = 12 * tokens * vocabulary(merge) if training.kind.by_trl else 4 * (32 << 20)
    step = moved + kept_of(plan, width) + logits
    beside = own + taught * width + step if plan.keeps_teacher else own + max(taught * width, step)
    return int(_LIBRARIES + beside)


def kept_of(plan: HealPlan, width: int = 4) -> float:
    """Bytes that the layers keep for the backward pass of a step.

    Args:
        plan: of the run.
        width: bytes of a number.
    """
    numbers = 0.0
    for tensor in _backward(plan):
        frozen = plan.weights == "copies" and tensor.layer not in plan.copies
        share = _KEPT_ADAPTED if plan.weights == "lora" else _KEPT_FROZEN if frozen else _KEPT_TRAINED
        numbers += share * sum(tensor.shape)
    return numbers * _tokens_of_step(plan, longest=True) * width


def operations_of(plan: HealPlan, taught: int) -> float:
    """Multiplications and additions of all steps: a pass of the teacher, a pass forth and back of the student.

    Args:
        plan: of the run.
        taught: how many weights the teacher has.
    """
    kind, own, trained = plan.training.kind, _elements(plan.merge), _trained_parameters(plan)
    # A weight takes part in a product in each pass, and one that is trained in a third one, for its gradient.
    of_layers = sum(tensor.elements for tensor in matrices(plan.merge))
    forth = own + (trained if plan.weights == "lora" else 0)
    back = forth - of_layers + sum(tensor.elements for tensor in _backward(plan)) + trained
    beside = (taught if plan.imitates else 0) + (own if kind.name == "dpo" else 0)
    return 2 * (forth + back + beside) * plan.training.arguments.max_steps * _tokens_of_step(plan)


def seconds_of(plan: HealPlan, taught: int) -> float:
    """How long all steps take, by products and a copy that are timed here.

    Args:
        plan: of the run.
        taught: how many weights the teacher has.
    """
    update = _BYTES_OF_UPDATE * _trained_parameters(plan) / _bandwidth(plan.device)
    return operations_of(plan, taught) / _speed(plan) + plan.training.arguments.max_steps * update


def _speed(plan: HealPlan) -> float:
    """Operations a second of a step: of its tokens by matrices of the model's size, which no cache holds all of."""
    import torch

    most, number = (4096, torch.bfloat16) if plan.device == "cuda" else (1024, torch.float32)
    shapes = [tensor.shape for tensor in matrices(plan.merge)]
    rows, columns = (min(side, most) for side in max(shapes, key=math.prod, default=(most, most)))
    tokens = min(math.ceil(_tokens_of_step(plan)), most)
    count = min(math.ceil(_BEYOND_CACHES / (4 * rows * columns)), 64)
    weights = torch.ones(count, columns, rows, device=plan.device, dtype=number)
    states = torch.ones(tokens, columns, device=plan.device, dtype=number)
    took = _least_time(lambda weight: states @ weight, weights, plan.device)
    return _EFFICIENCY * 2 * tokens * rows * columns / took


def _bandwidth(device: str) -> float:
    """Bytes a second that are read or written."""
    import torch

    pieces = torch.ones(16, _BEYOND_CACHES // 64, device=device)
    return 8 * pieces[0].numel() / _least_time(lambda piece: piece.mul_(1.0), pieces, device)


def _least_time(work: Callable[[Any], object], pieces: Iterable[Any], device: str) -> float:
    """Seconds that one of several equal pieces of work takes at the least: other programs disturb short ones less."""
    import torch

    took = []
    for piece in [*pieces, *pieces]:
        began = time.perf_counter()
        work(piece)
        if device == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return min(took)


def _tokens_of_step(plan: HealPlan, *, longest: bool = False) -> float:
    """Tokens that a step reads: of sequences of one length, or of rows of their own lengths.

    Args:
        plan: of the run.
        longest: of the longest rows; else of rows of mean length.
    """
    given, kind = plan.training.arguments, plan.training.kind
    length: float = given.max_length
    if kind.by_trl:
        lengths = [min(tokens, given.max_length) for tokens in plan.row_tokens]
        length = max(lengths) if longest else sum(lengths) / len(lengths)
    return given.per_device_train_batch_size * length * (2 if kind.rows == "preferences" else 1)


def _elements(merge: Plan) -> int:
    return sum(tensor.elements for tensor in merge.tensors)


def _trained_parameters(plan: HealPlan) -> int:
    if plan.weights == "lora":
        rank = plan.training.arguments.lora_r
        return sum(rank * sum(tensor.shape) for tensor in matrices(plan.merge))
    layers = {*plan.copies}
    return sum(t.elements for t in plan.merge.tensors if plan.weights == "all" or t.layer in layers)


def _backward(plan: HealPlan) -> list[PlannedTensor]:
    """The matrices that gradients pass: those of the first layer that is trained, and of all behind it."""
    first = min(plan.copies) if plan.weights == "copies" and plan.copies else 0
    return [tensor for tensor in matrices(plan.merge) if (tensor.layer or 0) >= first]
