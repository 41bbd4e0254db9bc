"""What an evaluation says when it cannot go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# How torch says on the CPU that memory ran out; it has no exception of its own for that.
_NO_MEMORY_ON_CPU = ("can't allocate memory", "not enough memory")


class EvaluationError(Exception):
    """A request that cannot be met, in words for a person: what was given, what was expected, what to do."""


class OtherSliceError(EvaluationError):
    """What was begun belongs to another model, text or setting, or was computed in another number format."""


class Cancelled(Exception):  # noqa: N818 (nothing went wrong)
    """The caller's cancel event ended the work."""


@contextmanager
def memory_named(name: str, doing: str) -> Iterator[None]:
    """Turn "out of memory" from any device into an `EvaluationError` that names the model.

    Args:
        name: the model, as it is shown to a person.
        doing: what was going on, such as "answering".
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        plain = not isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if plain and not any(words in str(error) for words in _NO_MEMORY_ON_CPU):
            raise
        raise EvaluationError(
            f"{name}: the memory ran out while {doing}. Try a shorter text or a smaller model."
        ) from error
