"""What an evaluation says when it cannot continue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from checkpoints.problems import Problem, ProblemError

# How torch says on the CPU that memory ran out; it has no exception of its own for that.
_NO_MEMORY_ON_CPU = ("can't allocate memory", "not enough memory")


class EvaluationError(ProblemError):
    """A request that cannot be met."""


class OtherSliceError(EvaluationError):
    """What was begun belongs to another model, text or setting, or was computed in another number format."""


def words_of(error: Exception) -> str:
    """What another library says is wrong, on one line of up to 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def memory_named(name: str, doing: str) -> Iterator[None]:
    """Turn "out of memory" from any device into an `EvaluationError` that names the model.

    Args:
        name: the model, as it is shown to a person.
        doing: what was going on, as a phrase of problems such as "doing-answering"
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        plain = not isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if plain and not any(words in str(error) for words in _NO_MEMORY_ON_CPU):
            raise
        raise EvaluationError(Problem("out-of-memory", {"model": name, "doing": doing})) from error
