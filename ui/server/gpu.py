"""The one door to a GPU: models that are here answer and are scored behind it; nothing is fetched there.

On ZeroGPU what is behind the door runs in a process of its own, for seconds that the visitor pays from a daily quota.
Where ZeroGPU refuses, the same runs on this machine's processor, and that is said. Elsewhere the door is not there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import httpx2
import spaces
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from evaluation import EvaluationError
from ui.languages.translate import language, speaking, t
from ui.server.internal_error import log_unexpected

# What is asked for: to begin, to load the weights, to write and to read. Calm guesses for half of an RTX Pro 6000;
# what is not used is not charged, but what is asked for must not exceed what is left.
SECONDS_TO_BEGIN = 10
BYTES_A_SECOND = 1_000_000_000
TOKENS_WRITTEN_A_SECOND = 25
CHARACTERS_READ_A_SECOND = 5_000
# In tokens; what the Chat tab begins with.
USUAL_ANSWER = 200
# A visitor without an account has 120 seconds a day.
MOST_SECONDS = 100
# Work that may go on in a further call is asked so many for at a time, beside loading: what is asked for at once must
# not exceed what is left of a quota.
SECONDS_A_CALL = 40

Work = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class GpuRun:
    """How a piece of work came to be done.

    Args:
        seconds: that ZeroGPU was asked for; 0 where there is none
        refusal: why it ran on the processor all the same, in words
    """

    seconds: int = 0
    refusal: str = ""

    @property
    def line(self) -> str:
        """For the visitor; empty where there is nothing to say."""
        if self.refusal:
            return t("gpu.refused", reason=self.refusal)
        return t("gpu.asked", seconds=self.seconds) if self.seconds else ""


def is_zero_gpu() -> bool:
    """Whether this is a Space on ZeroGPU."""
    return hasattr(_behind_the_door, "zerogpu")


def seconds_to_answer(weights: Sequence[int], tokens: int) -> int:
    """What to ask for, that models with so many bytes of weights each load and write up to so many tokens."""
    return _at_most(_seconds_to_load(sum(weights)) + len(weights) * tokens / TOKENS_WRITTEN_A_SECOND)


def seconds_of_a_call(weights: Sequence[int], characters: int | None = None) -> int:
    """What to ask for, that models with so many bytes of weights each load and work for a while.

    Args:
        weights: bytes of each model's weights
        characters: that each reads, so that no more is asked for than that takes; None where nobody knows how long the
            work is
    """
    work = math.inf if characters is None else len(weights) * characters / CHARACTERS_READ_A_SECOND
    return _at_most(_seconds_to_load(sum(weights)) + min(work, SECONDS_A_CALL))


def _seconds_to_load(weights: int) -> float:
    return weights / BYTES_A_SECOND


class Call:
    """The time that one call has for models, one after the other; they go on in the next.

    Args:
        seconds: that were asked for; None where nobody counts them
    """

    def __init__(self, seconds: int | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds - SECONDS_TO_BEGIN
        self._begun = False

    def seconds_left(self) -> float:
        """Below 0 when the time is over."""
        return self._end - time.monotonic()

    def begins(self, weights: int) -> bool:
        """Whether another model with so many bytes of weights is begun; the first always is."""
        begins = not self._begun or self.seconds_left() > _seconds_to_load(weights)
        self._begun = True
        return begins


def _at_most(seconds: float) -> int:
    return min(SECONDS_TO_BEGIN + math.ceil(seconds), MOST_SECONDS)


def on_gpu(seconds: int, work: Work, *arguments: Any) -> Generator[tuple[GpuRun, Any], None, None]:
    """Run a generator behind the door, or on this processor if ZeroGPU does not let it in.

    Args:
        seconds: to ask for
        work: of a module, called with the arguments and the device ("auto" behind the door, else "cpu"); yields plain
            data
        arguments: that can be pickled, and hold no token

    Yields:
        How it runs, with each piece that the work yields.

    Raises:
        gr.Error: the work failed, in its own words; or ZeroGPU ended it when a part of it was done.
    """
    if not is_zero_gpu():
        for piece in told_in_words(work, *arguments, "auto"):
            yield GpuRun(), piece
        return
    run, begun = GpuRun(seconds), False
    try:
        for piece in _behind_the_door(seconds, language(), work, *arguments):
            begun = True
            yield run, piece
    except gr.Error as error:
        # Other titles are the work's own errors.
        if not str(error.title).startswith("ZeroGPU"):
            raise
        reason = _why(error)
        if begun:
            raise gr.Error(t("gpu.ended", reason=reason), print_exception=False) from None
        run = replace(run, refusal=reason)
    except Exception as error:
        # The client of ZeroGPU met something that it has no words for.
        if begun:
            raise
        run = replace(run, refusal=log_unexpected(error))
    if run.refusal:
        for piece in told_in_words(work, *arguments, "cpu"):
            yield run, piece


def _seconds(seconds: int, *_: Any) -> int:
    return seconds


@spaces.GPU(duration=_seconds)  # type: ignore[untyped-decorator]
def _behind_the_door(seconds: int, spoken: str | None, work: Work, *arguments: Any) -> Iterator[Any]:
    with speaking(spoken):  # the process may have served somebody else before
        yield from told_in_words(work, *arguments, "auto")


def told_in_words(work: Work, *arguments: Any) -> Iterator[Any]:
    """The work, its errors as those of Gradio: of any other ZeroGPU tells no more than the class."""
    try:
        yield from work(*arguments)
    except EvaluationError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except gr.Error:
        raise
    except Exception as error:
        raise gr.Error(t("unexpected", error=log_unexpected(error)), print_exception=False) from None


def _why(error: gr.Error) -> str:
    """What ZeroGPU's refusal means; its own words may be HTML with advertisements, and are cut before these."""
    message = str(error.message).partition("<")[0]
    match str(error.title):
        case "ZeroGPU illegal duration":
            return t("gpu.too_long")
        case "ZeroGPU quota exceeded" if "GPU limit" not in message:
            again = message.partition("Try again in ")[2].partition(".")[0].strip()
            return t("gpu.quota.until", time=again) if again else t("gpu.quota")
        case "ZeroGPU queue timeout" | "ZeroGPU client error" | "ZeroGPU quota exceeded":
            return t("gpu.none_free")
        case _:
            return message.strip() or str(error.title)


def quota(token: str | None) -> str:
    """What is left of the GPU quota of a signed-in visitor, in words; empty where it cannot be read or is of no use."""
    if not (is_zero_gpu() and token):
        return ""
    try:
        found = HfApi(token=token).get_zero_gpu_quota()
    except (HfHubHTTPError, httpx2.HTTPError, OSError, KeyError, ValueError):
        return ""  # not without the scope `read-billing`
    left, base = math.floor(max(found.remaining, 0)), round(found.base)
    if found.resets_at is None:
        return t("gpu.quota.left", left=left, base=base)
    return t("gpu.quota.renewed", left=left, base=base, time=found.resets_at.strftime("%H:%M"))
