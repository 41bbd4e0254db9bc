"""The only access to a GPU: models that are on this machine answer and are scored here; nothing is downloaded here.

On ZeroGPU the work runs in a process of its own, for seconds that come out of the visitor's daily quota. Where ZeroGPU
refuses, the same work runs on this machine's processor, and the page says so. Elsewhere, and on the processor, it runs
in the process that holds loaded models (see `model_process`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import httpx2
import spaces
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from evaluation import EvaluationError
from ui.languages.translate import current_language, error_words, speaking, t
from ui.server.internal_error import log_unexpected
from ui.server.model_process import MODELS, ModelWork

# For estimates of the time to request: to start, to load the weights, to write and to read. Cautious, for half of an
# RTX Pro 6000: unused seconds are not charged, but a request must not exceed the remaining quota.
SECONDS_TO_START = 10
BYTES_PER_SECOND = 1_000_000_000
TOKENS_WRITTEN_PER_SECOND = 25
CHARACTERS_READ_PER_SECOND = 5_000
# In tokens; the default of the Chat tab.
USUAL_ANSWER = 200
# A visitor without an account has 120 seconds a day.
MAX_SECONDS = 100
# Resumable work requests this many seconds per call, plus loading time, so that one request never exceeds the remaining
# quota.
SECONDS_PER_CALL = 40


@dataclass(frozen=True)
class GpuRun:
    """How a piece of work was run.

    Args:
        seconds: requested from ZeroGPU; 0 elsewhere
        refusal: why it ran on the processor instead, in words
    """

    seconds: int = 0
    refusal: str = ""

    @property
    def line(self) -> str:
        """For the visitor; empty if there is nothing to report."""
        if self.refusal:
            return t("gpu.refused", reason=self.refusal)
        return t("gpu.asked", seconds=self.seconds) if self.seconds else ""


def is_zero_gpu() -> bool:
    """Whether this is a Space on ZeroGPU."""
    return hasattr(_on_zero_gpu, "zerogpu")


def seconds_to_answer(weights: Sequence[int], tokens: int) -> int:
    """The time to request for models to load and write.

    Args:
        weights: bytes of each model's weights
        tokens: that each writes, at most
    """
    return _at_most(_seconds_to_load(sum(weights)) + len(weights) * tokens / TOKENS_WRITTEN_PER_SECOND)


def seconds_of_a_call(weights: Sequence[int], characters: int | None = None) -> int:
    """The time to request for models to load and work for a while.

    Args:
        weights: bytes of each model's weights
        characters: that each reads, so that no more is requested than that takes; None if the amount of work is unknown
    """
    work = math.inf if characters is None else len(weights) * characters / CHARACTERS_READ_PER_SECOND
    return _at_most(_seconds_to_load(sum(weights)) + min(work, SECONDS_PER_CALL))


def _seconds_to_load(weights: int) -> float:
    return weights / BYTES_PER_SECOND


class GpuCall:
    """The time that one call has for models, one after the other; what is left continues in the next call.

    Args:
        seconds: that were requested; None for no limit
    """

    def __init__(self, seconds: int | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds - SECONDS_TO_START
        self._begun = False

    def seconds_left(self) -> float:
        """Below 0 when the time is over."""
        return self._end - time.monotonic()

    def begins(self, weights: int) -> bool:
        """Whether there is time to begin another model with this many bytes of weights; the first is always begun."""
        begins = not self._begun or self.seconds_left() > _seconds_to_load(weights)
        self._begun = True
        return begins


def _at_most(seconds: float) -> int:
    return min(SECONDS_TO_START + math.ceil(seconds), MAX_SECONDS)


def on_gpu(seconds: int, work: ModelWork, *arguments: Any) -> Generator[tuple[GpuRun, Any], None, None]:
    """Run a generator on a GPU, or on this processor if ZeroGPU refuses.

    Args:
        seconds: to request
        work: a module-level function, called with the arguments and the device ("auto", or "cpu" after a refusal);
            yields plain data
        arguments: picklable, without a token

    Yields:
        How it runs, with each item that the work yields.

    Raises:
        gr.Error: the work failed, in its own words; or ZeroGPU ended it after it had begun.
    """
    if not is_zero_gpu():
        for piece in among_models(work, *arguments, "auto"):
            yield GpuRun(), piece
        return
    run, begun = GpuRun(seconds), False
    try:
        for piece in _on_zero_gpu(seconds, current_language(), work, *arguments):
            begun = True
            yield run, piece
    except gr.Error as error:
        # Errors with other titles come from the work itself.
        if not str(error.title).startswith("ZeroGPU"):
            raise
        reason = _why(error)
        if begun:
            raise gr.Error(t("gpu.ended", reason=reason), print_exception=False) from None
        run = replace(run, refusal=reason)
    except Exception as error:
        # An unexpected error of ZeroGPU's client.
        if begun:
            raise
        run = replace(run, refusal=log_unexpected(error))
    if run.refusal:
        for piece in among_models(work, *arguments, "cpu"):
            yield run, piece


def _seconds(seconds: int, *_: Any) -> int:
    return seconds


@spaces.GPU(duration=_seconds)  # type: ignore[untyped-decorator]
def _on_zero_gpu(seconds: int, spoken: str | None, work: ModelWork, *arguments: Any) -> Iterator[Any]:
    with speaking(spoken):  # the process may have served another visitor before
        yield from errors_in_words(work, *arguments, "auto")


def errors_in_words(work: ModelWork, *arguments: Any) -> Iterator[Any]:
    """The work, with its errors as `gr.Error`: of any other error ZeroGPU reports only the class."""
    try:
        yield from work(*arguments)
    except EvaluationError as error:
        raise gr.Error(error_words(error), print_exception=False) from None
    except gr.Error:
        raise
    except Exception as error:
        raise gr.Error(t("unexpected", error=log_unexpected(error)), print_exception=False) from None


def among_models(work: ModelWork, *arguments: Any) -> Iterator[Any]:
    """The work in the process that holds loaded models, with its errors as `gr.Error`."""
    return errors_in_words(MODELS.stream, work, *arguments)


def _why(error: gr.Error) -> str:
    """What ZeroGPU's refusal means; its own message may end in HTML with advertisements, which is cut off."""
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
    """What is left of the GPU quota of a signed-in visitor, in words; empty if it cannot be read or does not apply."""
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
