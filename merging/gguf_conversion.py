"""GGUF files in which llama.cpp runs a model or a merge on this machine."""

from __future__ import annotations

import threading
from pathlib import Path

from checkpoints import Token
from checkpoints.problems import PlanError
from merging.plan import Plan


def warm_up() -> None:
    """Import what a conversion takes, so that the first one does not wait for it."""
    import merging.engine.run
    import merging.gguf.layout
    import merging.planning.make

    merging.gguf.layout.warm_up()


def write_gguf(
    model: str | Plan,
    kind: str,
    folder: Path,
    *,
    token: Token = None,
    cancel: threading.Event | None = None,
) -> Path:
    """Write a model into a GGUF file.

    Args:
        model: a folder, "base+adapter" or such, as `checkpoints.open_checkpoint` names it; or a plan
        kind: of file, such as "Q8_0"
        folder: gets the file
        token: whose access to the Hub to use
        cancel: set it from another thread to stop

    Returns:
        The file's path.

    Raises:
        PlanError: the plan has problems
        MergeError: it cannot become a GGUF file
        CheckpointError: it cannot be read
        DestinationError: there is no room for it
        Cancelled: `cancel` was set
    """
    from merging.engine.run import run_plan
    from merging.gguf.recipe import recipe_of
    from merging.planning.make import make_plan

    plan = make_plan(recipe_of(model), token=token) if isinstance(model, str) else model
    if not plan.ok:
        raise PlanError(plan.problems)
    made = folder / "model"
    run_plan(plan, str(made), gguf=[kind], only_gguf=True, token=token, cancel=cancel)
    [file] = made.glob("*.gguf")
    return file
