"""Judges any checkpoint, wherever it came from. Knows nothing of merging.

What it offers is listed in `evaluation.public` and imported when it is first asked for: the command line's help waits
for neither torch nor transformers.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.public import *  # noqa: F403

# Functions that share their name with the room they are in: `evaluation.perplexity` is the function.
_FUNCTIONS = ("difference", "perplexity")


class _Package(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module("evaluation.public"), name)

    def __setattr__(self, name: str, value: object) -> None:
        # Python sets each room as an attribute of its package once it is imported.
        if name not in _FUNCTIONS or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
