"""What a student is trained by: the divergence of its predictions from a teacher's, and of its hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
# Is added to what the tokens that are not named have together: rounded, that may be nothing.
_LEAST_REST = 1e-9


def divergence(
    student: Tensor,
    teacher: Tensor,
    student_head: Head,
    teacher_head: Head,
    *,
    temperature: float = 1.0,
    at_once: int = 256,
) -> Tensor:
    """The mean Kullback-Leibler divergence of the student's predictions from the teacher's, in nats.

    Logits exist for `at_once` positions at a time, and are computed again for the gradient. With a temperature T, both
    logits are divided by it and the divergence is multiplied by its square, so that gradients keep their size.

    Args:
        student: (n, width) states before the student's head.
        teacher: (n, width of the teacher) states before the teacher's head.
        student_head, teacher_head: make (m, vocabulary) logits of (m, width) states.
        temperature: T.
        at_once: positions.
    """
    return _mean(_summed, (student, teacher), (student_head, teacher_head, temperature), at_once)


def _mean(
    summed: Callable[..., Tensor], rows: Sequence[Tensor], others: Sequence[object], at_once: int
) -> Tensor:
    """The mean over n positions of what a function sums, called with `at_once` positions at a time.

    Args:
        summed: called with parts of the rows, and the others.
        rows: (n, ...) each.
    """
    parts = zip(*(torch.split(one, at_once) for one in rows), strict=True)
    sums = [checkpoint(summed, *part, *others, use_reentrant=False) for part in parts]
    return torch.stack(sums).sum() / len(rows[0])


def _summed(
    student: Tensor, teacher: Tensor, student_head: Head, teacher_head: Head, temperature: float
) -> Tensor:
    with torch.no_grad():
        target = functional.log_softmax(teacher_head(teacher).float() / temperature, dim=-1)
    made = functional.log_softmax(student_head(student).float() / temperature, dim=-1)
    summed = functional.kl_div(made, target, reduction="sum", log_target=True)
    return summed * temperature**2


def top_divergence(
    student: Tensor,
    tokens: Tensor,
    likely: Tensor,
    student_head: Head,
    *,
    temperature: float = 1.0,
    at_once: int = 256,
) -> Tensor:
    """The same from a teacher of which the likeliest tokens are known, and that all others together have the rest.

    Args:
        student: (n, width) states before the student's head.
        tokens: (n, k) int64, the teacher's likeliest tokens.
        likely: (n, k) float32, their log-probabilities at this temperature.
        student_head, temperature, at_once: see `divergence`.
    """
    return _mean(_top_summed, (student, tokens, likely), (student_head, temperature), at_once)


def _top_summed(
    student: Tensor, tokens: Tensor, likely: Tensor, student_head: Head, temperature: float
) -> Tensor:
    made = functional.log_softmax(student_head(student).float() / temperature, dim=-1).gather(-1, tokens)
    rest, own_rest = (_LEAST_REST + (1 - one.exp().sum(-1)).clamp(min=0) for one in (likely, made))
    of_tokens = (likely.exp() * (likely - made)).sum()
    return (of_tokens + (rest * (rest.log() - own_rest.log())).sum()) * temperature**2


def states_apart(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The mean of 1 minus the cosine over pairs of hidden states and their positions.

    Args:
        student: (batch, n, width) of each pair.
        teacher: the same shapes.
    """
    pairs = zip(student, teacher, strict=True)
    return torch.stack(
        [1 - functional.cosine_similarity(a.float(), b.float(), dim=-1).mean() for a, b in pairs]
    ).mean()
