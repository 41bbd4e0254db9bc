"""`alloy plan` and `alloy run` of a pipeline."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alloy.pipeline import (
    PipelineDocument,
    PipelinePlan,
    described,
    plan_pipeline,
    read_pipeline,
    run_pipeline,
)
from checkpoints.problems import Problem
from checkpoints.terminal import cancel_on_interrupt, print_problems
from healing.command_line import DONE, NOT_HEALED, print_step
from merging.command_line import CANNOT_BE_MERGED

if TYPE_CHECKING:
    from healing import HealPlan


def carry_out(text: str, path: str, to: str | None, given: Mapping[str, Any]) -> int | None:
    """Plan or run a pipeline; the exit status, or None for a text that has recipes alone.

    Args:
        text: YAML
        path: of its file, "-" for standard input
        to: where the result goes; None to plan it
        given: options of the command

    Raises:
        ProblemError: it cannot be read or carried out, or was cancelled.
    """
    pipeline = read_pipeline(text)
    if pipeline is None:
        return None
    folder = Path() if path == "-" else Path(path).parent
    goes_to = to or given.get("to")
    planned = plan_pipeline(pipeline, goes_to, folder=folder, device=given.get("device", "auto"))
    if to is None or not planned.ok:
        return _show(planned, as_json=given["as_json"])
    return _run(planned, to, given)


def _show(planned: PipelinePlan, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(described(planned), indent=2, ensure_ascii=False))
    elif planned.ok:
        for number, stage in enumerate(planned.stages, 1):
            print(f"{number}. {_title(stage.document)}")
            if stage.document.kind == "train":
                _describe(stage.plan)  # type: ignore[arg-type]
        if planned.pipeline.gguf:
            print(f"and GGUF files: {', '.join(planned.pipeline.gguf)}")
    print_problems(planned.problems)
    return DONE if planned.ok else CANNOT_BE_MERGED


def _describe(plan: HealPlan) -> None:
    from healing.command_line import describe

    describe(plan)


def _title(document: PipelineDocument) -> str:
    return " ".join([document.kind if document.kind != "recipe" else "merge", document.name]).strip()


def _run(planned: PipelinePlan, to: str, given: Mapping[str, Any]) -> int:
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def show(number: int, document: PipelineDocument) -> None:
        print(f"stage {number} of {len(planned.stages)}: {_title(document)}", file=sys.stderr, flush=True)

    done = run_pipeline(
        planned,
        to,
        work=given["work"],
        keep=given["keep"],
        private=not given["public"],
        on_stage=show,
        on_step=print_step,
        cancel=cancel_on_interrupt(),
    )
    if given["as_json"]:
        result = done.result and dataclasses.asdict(done.result)
        print(json.dumps({"result": result, "found": done.found}, indent=2))
    else:
        print(done.found)
        if done.result:
            print(done.result.url or done.result.location)
    if done.result is None:
        print_problems([Problem("not-healed", {"written": None})])
        return NOT_HEALED
    return DONE
