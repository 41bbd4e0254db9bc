"""A merge that ends in GGUF files: what it takes to lay them out before the first tensor is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, suppress

from checkpoints import Token
from checkpoints.formats.header import TensorHeader
from checkpoints.problems import CheckpointError, MergeError, Problem
from merging.engine.models import Models
from merging.gguf.layout import READ, TOKENIZER_FILE, GgufLayout, lay_out
from merging.plan import Plan

# What tells how a parent's tokenizer splits texts.
PARENT_FILES = (TOKENIZER_FILE, "tokenizer_config.json", "config.json")


def layout_of(plan: Plan, name: str, card: str, token: Token, check: Callable[[], None]) -> GgufLayout:
    """What the GGUF files of a merge hold.

    Args:
        plan: without problems
        name: of the result
        card: its README.md
        token: whose access to the Hub to use
        check: raises when the work is to stop

    Raises:
        MergeError: the converter is missing, or cannot convert the result; its weights have scales.
        CheckpointError: a file of a model can no longer be read.
    """
    if plan.has_scales:
        raise MergeError(Problem("fp8-not-in-files"))
    with closing(Models(plan, token, check)) as models:
        files = {
            file: models.read_file(index, file)
            for file, index in plan.copied_files.items()
            if file in READ or file.endswith(".tiktoken")
        }
        files |= {file: text.encode() for file, text in plan.files.items()}
        files["README.md"] = card.encode()
        parents = _tokenizers(plan, models) if plan.tokenizer else []
    headers = [TensorHeader(t.name, t.dtype, t.shape, "", 0, t.bytes) for t in plan.tensors]
    check()
    return lay_out(name, files, headers, parents)


def _tokenizers(plan: Plan, models: Models) -> Sequence[dict[str, bytes]]:
    """The tokenizer files of the models of a plan, as far as they can be read."""
    found = []
    for index in range(len(plan.models)):
        files = {}
        for file in PARENT_FILES:
            with suppress(CheckpointError, KeyError):
                files[file] = models.read_file(index, file)
        if TOKENIZER_FILE in files:
            found.append(files)
    return found
