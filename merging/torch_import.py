"""Importing torch for the command line, which does nothing but merge, in two thirds of the time."""

from __future__ import annotations

import sys
from types import ModuleType

# What this registers is for torch's compiler and its tensors without data. No merge needs it, and it takes a
# third of `import torch`. The real module can still be imported afterwards.
REGISTRATIONS = "torch._meta_registrations"


def import_torch() -> None:
    """Import torch, unless it is there, and leave its compiler's registrations for whoever needs them."""
    if "torch" in sys.modules:
        return
    stand_in = sys.modules[REGISTRATIONS] = ModuleType(REGISTRATIONS)
    import torch

    if sys.modules.get(REGISTRATIONS) is stand_in:
        del sys.modules[REGISTRATIONS]
        vars(torch).pop("_meta_registrations", None)
