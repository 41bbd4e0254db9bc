"""The commands that heal: `python -m healing`, and `alloy heal`.

Exit status: 0 when it is done; 2 when the chain cannot be read or trained (the problems are on stderr); 3 when the
model did not heal and was not written; 1 for anything else. Rooms are imported by the command that needs them, so that
help and wrong arguments are quick.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from checkpoints.terminal import (
    REFUSED,
    AsJson,
    Device,
    ProgressAs,
    cancel_on_interrupt,
    command,
    commands,
    print_failure,
    print_line,
    print_problems,
    reporter,
    run,
)

if TYPE_CHECKING:
    from healing.plan import HealPlan
    from healing.run import Healed
    from healing.training import TrainingStep
    from merging.rented_machines import Offer

DONE, CANNOT_BE_TRAINED, NOT_HEALED = 0, REFUSED, 3

app = commands("Heal what was cut, stacked or merged, by training.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run(app, arguments, name="python -m healing")


_report = reporter("Healing", "evaluation", "Nothing was left behind.")
_command = functools.partial(command, app=app, report=_report)


ChainFile = Annotated[
    Path,
    typer.Argument(
        metavar="CHAIN", help="A recipe and a document with `train:` behind it, in YAML.", show_default=False
    ),
]


def _planned(chain: Path, to: str | None, device: str) -> HealPlan:
    from healing.plan import plan_training

    text = chain.read_text(encoding="utf-8")
    planned = plan_training(text, folder=chain.parent, to=to, device=device)
    print_problems(planned.warnings, "warning")
    return planned


@_command("plan")
def plan(
    chain: ChainFile,
    device: Device = "auto",
    as_trl: Annotated[
        bool,
        typer.Option("--as-trl", help="Print the YAML for `trl sft` or `trl dpo --config` instead."),
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Show what a training run would do and cost, and every problem with it. Loads no weights."""
    planned = _planned(chain, None, device)
    if as_trl and all(problem.code == "no-trl" for problem in planned.problems):  # it may run elsewhere
        from healing.as_trl import as_trl_config

        print(as_trl_config(planned.training), end="")
        return DONE
    from healing.price import prices, rented_offers

    offered = rented_offers(planned) if planned.ok else []
    if as_json:
        shown = {**planned.summary(), "prices": prices(offered)}
        print(json.dumps(shown, indent=2, ensure_ascii=False))
    elif planned.ok:
        describe(planned)
        print_offers(offered)
    print_problems(planned.problems)
    return DONE if planned.ok else CANNOT_BE_TRAINED


def describe(planned: HealPlan) -> None:
    """Print what a training run will do."""
    given, kind = planned.training.arguments, planned.training.kind
    trained = {
        "lora": "a LoRA",
        "copies": f"the silent copies ({len(planned.copies)} layers)",
        "all": "all weights",
    }
    print(f"train         {kind.name}: {trained[planned.weights]}")
    if planned.imitates:
        print(f"teacher       {planned.teacher}")
        print(f"layers        {len(planned.pairs)} of the teacher's remain")
    print(
        f"rows          {len(planned.rows):,}: {sum(len(text.encode()) for text in planned.documents):,} bytes to "
        "train on"
    )
    for name, licence in planned.licences.items():
        print(f"licence       {name}: {licence}")
    pairs = f" and {len(planned.judged_pairs)} pairs of answers" if planned.judged_pairs else ""
    print(f"judged on     {len(planned.judged)} documents{pairs} that are not trained on")
    print(f"steps         {given.max_steps:,}, up to {given.tokens:,} tokens")
    on = "on the GPU" if planned.device == "cuda" else "on this processor"
    print(
        f"peak memory   about {planned.memory_bytes / 1e9:.1f} GB {on}; {planned.free_bytes / 1e9:.1f} GB are free"
    )
    print(f"time          about {planned.seconds / 60:.1f} minutes {on}, and the judging")
    print("price         nothing on this machine")


def print_offers(offered: Sequence[Offer]) -> None:
    """Print what a training run costs on rented machines."""
    for offer in offered:
        minutes = max(round(offer.seconds / 60), 1)
        print(
            f"rented        {offer.machine.name} ({offer.machine.title}): about {minutes} minutes with its start, "
            f"${offer.dollars:.2f}"
        )


@_command("run")
def heal(
    chain: ChainFile,
    to: Annotated[
        str, typer.Option("--to", metavar="DEST", help="A folder, or hf://owner/name.", show_default=False)
    ],
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="For the state, from which a run that died continues, until its end: by default DEST.training, or for "
            "a result on the Hub a branch of its repository.",
        ),
    ] = None,
    adapter_only: Annotated[
        bool, typer.Option("--adapter-only", help="Write the adapter alone, to the folder DEST.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Write the result even if it did not heal.")] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public; without this it is private.")
    ] = False,
    device: Device = "auto",
    progress: ProgressAs = "text",
    as_json: AsJson = False,
) -> int:
    """Train, judge, and write the result if it healed. A run that died continues; Ctrl-C leaves nothing behind."""
    from transformers.utils import logging

    from checkpoints.problems import Problem
    from evaluation.as_json import as_json as in_json
    from healing.run import run_training

    planned = _planned(chain, None if adapter_only else to, device)
    if not planned.ok:
        print_failure(planned.problems, progress)
        return CANNOT_BE_TRAINED
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    healed = run_training(
        planned,
        to,
        work=work,
        adapter_only=adapter_only,
        keep=keep,
        private=not public,
        on_step=print_step if progress == "text" else _print_step_line,
        cancel=cancel_on_interrupt(),
    )
    if progress == "jsonl":
        print_line("done", **json.loads(in_json(healed.outcome())))
    if as_json:
        print(in_json(healed.to_dict()))
    else:
        _print_result(healed)
    if healed.judgement.healed:
        return DONE
    print_problems([Problem("not-healed", {"written": to if keep else None})])
    return DONE if keep else NOT_HEALED


@_command("evolve")
def evolve_instructions(
    instructions: Annotated[
        Path, typer.Argument(metavar="FILE", help="Instructions, one a line.", show_default=False)
    ],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="The model that writes them.", show_default=False)
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="For lines of JSON.", show_default=False)],
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="How often each is evolved.")] = 2,
    language: Annotated[
        Literal["english", "korean"], typer.Option(metavar="english|korean", help="Of the prompts.")
    ] = "english",
    provider: Annotated[
        bool, typer.Option("--provider", help="Ask an Inference Provider, and load nothing here.")
    ] = False,
    device: Device = "auto",
) -> int:
    """Make instructions with answers of instructions (Evol-Instruct), for `train: sft`."""
    from checkpoints.problems import Problem
    from evaluation import EvaluationError
    from healing.instructions import ask_loaded, ask_provider, evolve
    from healing.licences import UNKNOWN
    from merging.licences import licence_of_model

    sources = [line.strip() for line in instructions.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not sources:
        raise EvaluationError(Problem("no-instructions", {"file": str(instructions)}))
    ask = ask_provider(model) if provider else ask_loaded(model, device=device)
    licence = licence_of_model(model) or UNKNOWN
    failures: list[str] = []
    made = evolve(
        sources,
        ask,
        rounds=rounds,
        language=language,
        on_failure=lambda _, why: failures.append(why),
    )
    count = 0
    with to.open("w", encoding="utf-8") as file:
        for one in made:
            file.write(one.to_line(model, licence) + "\n")
            file.flush()
            count += 1
    print(f"{to}: {count} instructions by {model} (licence: {licence}); {len(failures)} failed")
    return DONE


def print_step(step: TrainingStep) -> None:
    print(f"step {step.number} of {step.of}: loss {step.loss:.4f}", file=sys.stderr, flush=True)


def _print_step_line(step: TrainingStep) -> None:
    print_line("training", step=step.number, of=step.of, loss=step.loss)


def _print_result(healed: Healed) -> None:
    print(healed.judgement.to_markdown(), end="")
    written = healed.adapter or (healed.result and (healed.result.url or healed.result.location))
    if written:
        print(f"{written}: trained in {healed.seconds:.1f} s")
