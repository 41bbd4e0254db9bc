"""What stands on the machines that the loopback Hub rents out, in place of what the real ones install."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.hub import Hub

# What stands in for uv: it unpacks the archive that it is to install.
UV = """#!{python}
import sys, zipfile
for word in sys.argv:
    if "file://" in word:
        zipfile.ZipFile(word.partition("file://")[2]).extractall({place!r})
"""
ALLOY = """#!/bin/sh
{before}
PYTHONPATH={place} exec {python} -m alloy "$@"
"""


def furnish(hub: Hub, folder: Path, before: str = "") -> None:
    """Let rented machines find programs that stand in for uv, and that run the archive in place of what it installs.

    Args:
        folder: for these programs, and for what jobs write
        before: shell commands that come before the work
    """
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    place = str(folder / "installed")
    for name, text in (("uv", UV), ("alloy", ALLOY)):
        (programs / name).write_text(text.format(python=sys.executable, place=place, before=before))
        (programs / name).chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    hub.rented.environment = {"PATH": path, "HOME": str(folder), "JOB_FOLDER": str(folder)}
