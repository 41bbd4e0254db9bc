"""Importing torch for the command line, which does nothing but merge, in two thirds of the time."""

from __future__ import annotations

import gc
import os
import sys
from types import ModuleType

# What this registers is for torch's compiler and its tensors without data. No merge needs it, and it takes a
# third of `import torch`. The real module can still be imported afterwards.
REGISTRATIONS = "torch._meta_registrations"


def import_torch() -> None:
    """Import torch, unless it is there, and leave its compiler's registrations for whoever needs them."""
    if "torch" in sys.modules:
        return
    # numpy comes with torch; the threads that its linear algebra starts spin for a while, and nobody needs them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    stand_in = sys.modules[REGISTRATIONS] = ModuleType(REGISTRATIONS)
    # Two hundred thousand new objects that are there to stay: the collector need not look at them again and again.
    gc.disable()
    import torch

    gc.freeze()
    gc.enable()
    if sys.modules.get(REGISTRATIONS) is stand_in:
        del sys.modules[REGISTRATIONS]
        vars(torch).pop("_meta_registrations", None)
