"""The commands that judge: `python -m evaluation`, and `alloy` has them too.

Exit status: 0 when it is done; 2 when a model or a text cannot be judged (stderr says why, and with --json the
`problems` on stdout); 1 for anything else. Rooms are imported by the command that needs them, so that help and wrong
arguments are quick.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from checkpoints.terminal import (
    REFUSED,
    AsJson,
    Device,
    cancel_on_interrupt,
    command,
    commands,
    reporter,
    run,
)

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from evaluation.answering_model import AnsweringModel
    from evaluation.benchmarked import Benchmarked
    from evaluation.cka import LinearCka
    from evaluation.difference import Difference
    from evaluation.influence import Cut, Influence, Trials
    from evaluation.model import LanguageModel
    from evaluation.paired import PairedScore
    from evaluation.perplexity import Perplexity
    from evaluation.runtime import Runtime, WriteGguf
    from evaluation.tensor_stats import TensorStats
    from evaluation.text import TextSource

_SHADES = "·▁▂▃▄▅▆▇█"
DONE, CANNOT_BE_JUDGED = 0, REFUSED

app = commands("Judge language models.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run(app, arguments, name="python -m evaluation")


class _Lists(TyperCommand):
    """A command with options that take several values: `--tasks one two` is `--tasks one --tasks two`."""

    options = ("--against", "--tasks")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given: list[str] = []
        option = ""
        for argument in args:
            if argument.startswith("-"):
                option = argument if argument in self.options else ""
            elif option and given[-1] != option:
                given.append(option)
            given.append(argument)
        return super().parse_args(ctx, given)


_report_other = reporter("Judging", "evaluation")


def _report(error: BaseException, options: Mapping[str, Any]) -> int | None:
    from evaluation.as_json import as_json
    from evaluation.error import EvaluationError

    if not isinstance(error, EvaluationError):
        return _report_other(error, options)
    if options["as_json"]:
        problem = {"code": "cannot-be-judged", "message": str(error)}
        print(as_json({"ok": False, "problems": [problem]}))
    print(f"error: {error}", file=sys.stderr)
    return CANNOT_BE_JUDGED


_command = partial(command, app=app, report=_report, cls=_Lists)


def _models(more: str) -> Any:
    return typer.Argument(
        metavar="MODEL...",
        help=f"Folders or .gguf files, here or as owner/name[@revision] on the Hub, or base+adapter. {more}",
        show_default=False,
    )


_COMPARED = _models("The first is compared with each of the others.")
Offload = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Keep weights that do not fit into memory there (slow)."),
]
Text = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="A UTF-8 file, - for standard input, or one of the bundled texts, english and korean (both).",
    ),
]
Dataset = Annotated[
    str | None, typer.Option(metavar="NAME", help="A data set on the Hub, or in a folder, instead of --text.")
]
Column = Annotated[str, typer.Option(help="The data set's column that holds the text.")]
Rows = Annotated[int, typer.Option(min=1, metavar="N", help="How many of the data set's rows to read.")]
Split = Annotated[str, typer.Option(help="The data set's split.")]
Subset = Annotated[str | None, typer.Option(help="The data set's configuration, if it has several.")]
On = Annotated[
    Literal["ray"] | None,
    typer.Option(
        metavar="ray",
        help="Score each model on a machine of a Ray cluster: of RAY_ADDRESS, of this machine, or a new one.",
        show_default=False,
    ),
]
Card = Annotated[
    Literal["commit", "pull-request"] | None,
    typer.Option(
        metavar="commit|pull-request",
        help="Write the first model's results into its model card, in its folder or on the Hub.",
    ),
]


@contextmanager
def _progress_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal; nothing where stderr is no terminal."""
    from tqdm import tqdm

    # tqdm shows nothing on a terminal that says it has 0 columns and rows.
    columns, rows = shutil.get_terminal_size()
    line = "{desc} |{bar:30}| {percentage:3.0f}%"
    with tqdm(
        desc=name, total=1, bar_format=line, ncols=columns, nrows=rows, leave=False, disable=None
    ) as bar:

        def show(done: int, total: int) -> None:
            bar.n, bar.total = done, total
            bar.refresh()

        yield show


def _find(*names: str) -> None:
    """Look for all models, so that a missing one is reported at once and not after minutes of work on the others."""
    from evaluation.model_files import find_model

    for name in names:
        find_model(name)


def _load(name: str, device: str, offload: Path | None) -> LanguageModel:
    from transformers.utils import logging

    from evaluation.model import load_model

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return load_model(name, device=device, offload=offload)


def _is_gguf(name: str) -> bool:
    return name.endswith(".gguf") and Path(name).is_file()


def _load_to_answer(name: str, device: str, offload: Path | None, runtime: Runtime) -> AnsweringModel:
    if _is_gguf(name):
        from evaluation.llama_model import load_gguf

        return load_gguf(Path(name))
    if offload:
        return _load(name, device, offload)
    from evaluation.model import fetch_model
    from evaluation.runtime import load_to_answer

    return load_to_answer(fetch_model(name), device, runtime=runtime, write_gguf=write_gguf)


# Makes GGUF files of models, where another package can.
write_gguf: WriteGguf | None = None
# Writes the recipe of a model without some layers, where another package can.
cut_recipe: Callable[[str, Cut], str] | None = None


@dataclass(frozen=True)
class _TextOptions:
    """Which text is read, as the options say."""

    text: str | None
    dataset: str | None
    column: str
    rows: int
    split: str
    subset: str | None

    def __post_init__(self) -> None:
        if self.text is not None and self.dataset is not None:
            raise typer.BadParameter("--text and --dataset exclude each other.")

    def read(self) -> list[str]:
        """The documents."""
        from evaluation.text import BUNDLED, bundled_text, dataset_texts

        if self.dataset:
            return list(
                dataset_texts(
                    self.dataset, column=self.column, rows=self.rows, split=self.split, subset=self.subset
                )
            )
        if self.text is None:
            return [document for name in BUNDLED for document in bundled_text(name)]
        return _named_text(self.text)

    def source(self) -> TextSource:
        """Where they are from."""
        from evaluation.text import BUNDLED, TextSource

        if self.dataset:
            on_hub = not Path(self.dataset).exists()
            name = self.dataset if on_hub else Path(self.dataset).resolve().name
            return TextSource(name, name if on_hub else "", self.subset, self.split, self.column)
        if self.text is None:
            return TextSource("Alloy's English and Korean texts")
        if self.text in BUNDLED and not Path(self.text).exists():
            return TextSource(f"Alloy's {self.text.capitalize()} text")
        return TextSource("standard input" if self.text == "-" else Path(self.text).name)


def _named_text(name: str) -> list[str]:
    from evaluation.text import BUNDLED, bundled_text, decoded, read_text

    if name == "-":
        return [decoded("standard input", sys.stdin.buffer.read())]
    if name in BUNDLED and not Path(name).exists():
        return bundled_text(name)
    return [read_text(name)]


def _write_card(model: str, card: str, results: Sequence[EvalResult], markdown: str | None = None) -> None:
    from evaluation.card import write_card

    pull_request = card == "pull-request"
    written = write_card(model, results, markdown=markdown, pull_request=pull_request)
    print(f"{'Proposed' if pull_request else 'Written'}: {written.url}", file=sys.stderr)


@_command("perplexity")
def perplexity(
    models: Annotated[list[str], _COMPARED],
    device: Device = "auto",
    as_json: AsJson = False,
    offload: Offload = None,
    text: Text = None,
    dataset: Dataset = None,
    column: Column = "text",
    rows: Rows = 100,
    split: Split = "test",
    subset: Subset = None,
    card: Card = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Tokens in a window (the model's own, up to 2048)."),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Tokens from one window to the next (half).")
    ] = None,
    bos: Annotated[
        bool | None, typer.Option("--bos/--no-bos", help="BOS before each document (the tokenizer's rule).")
    ] = None,
    on: On = None,
) -> int:
    """Measure how well models predict a text, with 95 % intervals of the differences."""
    wanted = _TextOptions(text, dataset, column, rows, split, subset)
    _find(*models)
    texts = wanted.read()
    from evaluation.as_json import as_json as in_json
    from evaluation.card import perplexity_results

    scores, differences = _scored(
        models, texts, device, offload, cancel_on_interrupt(), on, context=context, stride=stride, bos=bos
    )
    if as_json:
        found: dict[str, Any] = {
            "models": [{**score.to_dict(), "documents": len(score.documents)} for score in scores],
            "differences": [found.to_dict() for found in differences],
        }
        print(in_json(found))
    else:
        _describe(scores, differences)
    if card:
        _write_card(models[0], card, perplexity_results(scores[0], texts, wanted.source(), differences))
    return DONE


def _scored(
    models: Sequence[str],
    texts: Sequence[str],
    device: str,
    offload: Path | None,
    cancel: threading.Event,
    on: str | None = None,
    **settings: Any,
) -> tuple[list[Perplexity], list[Difference]]:
    """Every model's score, and the first against each of the others."""
    from evaluation.difference import difference
    from evaluation.perplexity import perplexity

    if on:
        scores = _scored_elsewhere(models, texts, cancel, **settings)
        return scores, [difference(scores[0], other, texts) for other in scores[1:]]
    scores = []
    for name in models:
        model = _load(name, device, offload)
        with _progress_bar(name) as show:
            scores.append(perplexity(model, texts, on_progress=show, cancel=cancel, **settings))
    return scores, [difference(scores[0], other, texts) for other in scores[1:]]


def _scored_elsewhere(
    models: Sequence[str], texts: Sequence[str], cancel: threading.Event, **settings: Any
) -> list[Perplexity]:
    from checkpoints.ray_cluster import RayCluster
    from evaluation.elsewhere import perplexities_elsewhere, weight_bytes

    sizes = {name: weight_bytes(name) for name in models}
    return perplexities_elsewhere(RayCluster(), sizes, texts, cancel=cancel, **settings)


@_command("divergence")
def divergence(
    files: Annotated[
        Path,
        typer.Argument(metavar="FILES", help="A GGUF file, or a folder of them.", show_default=False),
    ],
    original: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="What it was made of: a folder, or owner/name on the Hub.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
    text: Text = None,
    dataset: Dataset = None,
    column: Column = "text",
    rows: Rows = 100,
    split: Split = "test",
    subset: Subset = None,
    tokens: Annotated[int, typer.Option(min=32, metavar="N", help="Tokens to read at most.")] = 4096,
    card: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="Write the table into the model card of a folder or repository."),
    ] = None,
) -> int:
    """Measure how far GGUF files are from their original, in llama.cpp."""
    found = sorted(files.glob("*.gguf")) if files.is_dir() else [files]
    if not found or not all(file.is_file() for file in found):
        raise typer.BadParameter(f"{files} is no GGUF file and no folder with some.")
    wanted = _TextOptions(text, dataset, column, rows, split, subset)
    _find(original)
    texts, cancel = wanted.read(), cancel_on_interrupt()
    from evaluation.as_json import as_json as in_json
    from evaluation.divergence import divergence, markdown

    model = _load(original, "cpu", None)
    measured = []
    for file in found:
        with _progress_bar(file.name) as show:
            measured.append(
                divergence(file, model, texts, most_tokens=tokens, on_progress=show, cancel=cancel)
            )
    section = markdown(measured, wanted.source().name)
    print(in_json({"files": [one.to_dict() for one in measured]}) if as_json else section)
    if card:
        from evaluation.card import write_card

        print(f"Written: {write_card(card, [], markdown=section).url}", file=sys.stderr)
    return DONE


@_command("compare")
def compare(
    models: Annotated[list[str], _models("The merge first, then its parents.")],
    device: Device = "auto",
    as_json: AsJson = False,
    offload: Offload = None,
    text: Text = None,
    dataset: Dataset = None,
    column: Column = "text",
    rows: Rows = 100,
    split: Split = "test",
    subset: Subset = None,
    card: Card = None,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Timed answers.")] = 5,
    new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens of each answer.")] = 32,
    on: On = None,
) -> int:
    """Show size, structure, independence, speed, memory and perplexity side by side.

    With --on, perplexities are computed there; speed and memory are those of this machine.
    """
    wanted = _TextOptions(text, dataset, column, rows, split, subset)
    _find(*models)
    texts = wanted.read()
    from evaluation.as_json import as_json as in_json
    from evaluation.card import perplexity_results
    from evaluation.footprint import footprint
    from evaluation.report import Report

    cancel = cancel_on_interrupt()
    prints = [
        footprint(
            name,
            device=device,
            out_of_reach=[other for other in models if other != name and Path(other).is_dir()],
            repeats=repeats,
            new_tokens=max(new_tokens, 2),
            offload=offload,
            cancel=cancel,
        )
        for name in models
    ]
    scores, differences = _scored(models, texts, device, offload, cancel, on)
    report = Report(tuple(prints), tuple(scores), tuple(differences))
    print(in_json(report.to_dict()) if as_json else report.to_markdown())
    if card:
        results = perplexity_results(scores[0], texts, wanted.source(), differences)
        _write_card(models[0], card, results, report.to_markdown())
    return DONE


@_command("weights")
def weights(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder, or owner/name[@revision] on the Hub. Also a .gguf file.",
            show_default=False,
        ),
    ],
    against: Annotated[
        list[str] | None, typer.Option(metavar="PARENT...", help="The models it was merged from.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="What the parents were fine-tuned from; compares their changes.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="Entries that are read of a tensor.")] = 1
    << 20,
    whole: Annotated[bool, typer.Option("--whole", help="Read everything.")] = False,
    activations: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Run model and parents on a text (see perplexity --text) and compare their states (linear CKA).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Inspect the weights without running the model."""
    parents = against or []
    _find(model, *parents, *([base] if base else []))
    from evaluation.as_json import as_json as in_json
    from evaluation.weights import inspect_weights, open_weights

    with _progress_bar(model) as show:
        found = inspect_weights(
            open_weights(model),
            [open_weights(parent) for parent in parents],
            base=open_weights(base) if base else None,
            sample=None if whole else sample,
            on_progress=show,
            cancel=cancel_on_interrupt(),
        )
    alike = _alike(model, parents, activations) if activations else []
    if as_json:
        print(in_json({**found.to_dict(), "activations": [one.to_dict() for one in alike]}))
        return DONE
    print(*found.doctor(), sep="\n")
    for parent in parents:
        print(f"\nChange against {parent}, relative to its norm; a column a layer")
        _draw(found.heat_map(partial(_change, parent)))
    for pair in dict.fromkeys(pair for tensor in found.tensors for pair in tensor.between):
        if base:
            print(f"\nShare of sign conflicts between the changes of {pair}")
            _draw(found.heat_map(partial(_sign_conflict, pair)))
    for names in found.duplicates:
        print(f"the same numbers: {', '.join(names)}")
    for one in alike:
        print(
            f"\nLinear CKA of the states against {one.other} at {one.positions} positions; a column a layer"
        )
        _draw({"states": one.by_layer})
    return DONE


@_command("influence")
def influence(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A folder, or owner/name[@revision] on the Hub.", show_default=False
        ),
    ],
    drop: Annotated[int, typer.Option(min=1, metavar="N", help="How many layers to leave out.")] = 4,
    tries: Annotated[
        int, typer.Option("--try", min=1, metavar="N", help="How many cuts to score by perplexity.")
    ] = 5,
    tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many tokens to measure layers on.")
    ] = 4096,
    text: Text = None,
    dataset: Dataset = None,
    column: Column = "text",
    rows: Rows = 100,
    split: Split = "test",
    subset: Subset = None,
    device: Device = "auto",
    as_json: AsJson = False,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the recipe of the best cut there, not to standard output."),
    ] = None,
) -> int:
    """Measure which layers matter, and what the model predicts without those that matter least."""
    wanted = _TextOptions(text, dataset, column, rows, split, subset)
    _find(model)
    texts = wanted.read()
    from evaluation.as_json import as_json as in_json
    from evaluation.influence import candidates, try_cuts
    from evaluation.influence import influence as measure

    cancel = cancel_on_interrupt()
    loaded = _load(model, device, None)
    with _progress_bar(f"{model}: layers") as show:
        found = measure(loaded, texts, tokens=tokens, on_progress=show, cancel=cancel)
    cuts = candidates(loaded, found, drop, tries)
    with _progress_bar(f"{model}: cuts") as show:
        trials = try_cuts(loaded, texts, cuts, on_progress=show, cancel=cancel)
    written = cut_recipe(model, trials.best.cut) if cut_recipe else None
    if recipe and written:
        recipe.write_text(written, encoding="utf-8")
    if as_json:
        print(in_json({"influence": found.to_dict(), "trials": trials.to_dict(), "recipe": written}))
        return DONE
    _describe_trials(found, trials)
    if written and not recipe:
        print(f"\n{written}", end="")
    return DONE


def _describe_trials(found: Influence, trials: Trials) -> None:
    print(f"Influence of each of {found.layers} layers on {found.tokens:,} tokens; a column a layer")
    _draw({"influence": found.by_layer})
    print("\nleft out            chosen by   score  perplexity  bits/byte more (95 % interval)")
    print(f"{'nothing':18}  {'':9}  {'':6}  {trials.whole.perplexity:10,.2f}")
    for trial in trials.tried:
        apart = trial.difference
        interval = "" if apart.interval is None else " ({:+.4f} to {:+.4f})".format(*apart.interval)
        print(
            f"{trial.cut.name:18}  {trial.cut.by:9}  {trial.cut.score:6.3f}  {trial.perplexity.perplexity:10,.2f}"
            f"  {apart.bits_per_byte:+.4f}{interval}"
        )


def _alike(name: str, parents: Sequence[str], activations: str) -> list[LinearCka]:
    from checkpoints.problems import Problem
    from evaluation.cka import linear_cka
    from evaluation.error import EvaluationError

    if not parents:
        raise EvaluationError(Problem("no-parents"))
    text = "\n\n".join(_named_text(activations))
    model = _load(name, "auto", None)
    return [linear_cka(model, _load(parent, "auto", None), text) for parent in parents]


@_command("benchmark")
def benchmark(
    models: Annotated[list[str], _COMPARED],
    device: Device = "auto",
    as_json: AsJson = False,
    offload: Offload = None,
    card: Card = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK...",
            help="Tasks of lm-eval (kmmlu), such as kmmlu_hard, haerae, hellaswag, arc_easy, gsm8k, ifeval.",
        ),
    ] = None,
    task_folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="More tasks, in lm-eval's YAML.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Questions of each task (all).")
    ] = None,
    few_shot: Annotated[
        int | None, typer.Option(metavar="N", help="Solved examples before each question (the task's own).")
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Ask in the form of the model's conversations.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep results of models at a commit there.")
    ] = None,
) -> int:
    """Ask the questions of KMMLU and other benchmarks, through lm-eval."""
    _find(*models)
    from evaluation.as_json import as_json as in_json
    from evaluation.benchmark import benchmark as ask
    from evaluation.card import benchmark_results
    from evaluation.paired import paired

    cancel = cancel_on_interrupt()
    found = []
    for name in models:
        model = _load(name, device, offload)
        with _progress_bar(name) as show:
            found.append(
                ask(
                    model,
                    tasks or ["kmmlu"],
                    folder=task_folder,
                    limit=limit,
                    few_shot=few_shot,
                    chat_template=chat_template,
                    cache=cache,
                    on_progress=show,
                    cancel=cancel,
                )
            )
    pairs = [paired(found[0], other) for other in found[1:]]
    if as_json:
        shown = {
            "models": [one.to_dict() for one in found],
            "paired": [pair.to_dict() for pair in pairs],
        }
        print(in_json(shown))
    else:
        _describe_benchmarks(found, pairs)
    if card:
        _write_card(models[0], card, benchmark_results(found[0], pairs))
    return DONE


def _describe_benchmarks(found: Sequence[Benchmarked], pairs: Sequence[PairedScore]) -> None:
    from evaluation.benchmarked import with_error

    for one in found:
        print(one.model)
        tasks = {score.task for score in one.scores}
        for total in one.totals:
            if total.name not in tasks:
                print(
                    f"  {total.name}, all of it: {total.metric} {with_error(total)}, {total.questions} questions"
                )
        for score in one.scores:
            print(f"  {score.task} (version {score.version}) {score.metric} {with_error(score)}, "
                  f"{score.questions} questions")  # fmt: skip
    for pair in pairs:
        print(pair.words)


@_command("chat")
def chat(
    models: Annotated[list[str], _models("Such as a merge and its parents.")],
    device: Device = "auto",
    as_json: AsJson = False,
    offload: Offload = None,
    new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")] = 128,
    runtime: Annotated[
        Literal["auto", "llama.cpp", "transformers"],
        typer.Option(
            metavar="auto|llama.cpp|transformers",
            help="What runs models on a processor (llama.cpp if it can).",
        ),
    ] = "auto",
) -> int:
    """Check whether models still answer well, in English and Korean."""
    _find(*models)
    from evaluation.as_json import as_json as in_json
    from evaluation.chat_check import check_chat

    cancel = cancel_on_interrupt()
    found = []
    for name in models:
        model = _load_to_answer(name, device, offload, runtime)
        with _progress_bar(name) as show:
            found.append(check_chat(model, max_new_tokens=new_tokens, on_progress=show, cancel=cancel))
    if as_json:
        print(in_json({"models": [one.to_dict() for one in found]}))
        return DONE
    for one in found:
        counted = ", ".join(f"{count} {fault}" for fault, count in one.counts.items())
        print(f"{one.model} ({one.ran_as}): of {len(one.answers)} answers {counted}")
        for answer in one.answers:
            said = f" [{', '.join(answer.faults)}]" if answer.faults else ""
            print(f"  {answer.prompt}{said}\n    {' '.join(answer.answer.split())}")
    return DONE


@_command("independent")
def independent(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, or owner/name on the Hub.", show_default=False)
    ],
    parent: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A parent, which its configs must not name; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check that a model loads and answers with nothing else in reach."""
    from evaluation.as_json import as_json as in_json
    from evaluation.independence import check_independence
    from evaluation.remark import Remark
    from evaluation.sandbox import MEANS

    found = check_independence(model, parents=parent or [])
    if as_json:
        print(in_json(found.to_dict()))
    elif found.findings:
        print(*found.findings, sep="\n")
    else:
        said = {"model": model, "means": MEANS[found.confined_by], "answer": found.answer}
        print(Remark("needs-nothing", said))
    return DONE if found.ok else CANNOT_BE_JUDGED


def _change(parent: str, tensor: TensorStats) -> float | None:
    return tensor.against[parent].change if parent in tensor.against else None


def _sign_conflict(pair: str, tensor: TensorStats) -> float | None:
    return tensor.between[pair].sign_conflict if pair in tensor.between else None


def _draw(rows: Mapping[str, Sequence[float | None]]) -> None:
    """A heat map in characters, with the least and the most of each row."""
    most = max((value for row in rows.values() for value in row if value is not None), default=0.0)
    width = max(map(len, rows))
    for kind, row in rows.items():
        known = [value for value in row if value is not None]
        marks = "".join(
            "?"
            if value is None
            else _SHADES[min(int(value / most * len(_SHADES)), len(_SHADES) - 1) if most else 0]
            for value in row
        )
        if known:
            print(f"{kind:{width}} {min(known):8.4f} to {max(known):8.4f}  {marks}")


def _describe(scores: Sequence[Perplexity], differences: Sequence[Difference]) -> None:
    width = max(len(score.model) for score in scores)
    print(f"{'':{width}}  perplexity  bits/byte  bits/char    tokens  tokens/s  window        BOS  dtype")
    for score in scores:
        window = f"{score.context}/{score.stride}"
        bos = "yes" if score.bos else "no"
        print(
            f"{score.model:{width}}  {score.perplexity:10.4f}  {score.bits_per_byte:9.4f}"
            f"  {score.bits_per_character:9.4f}  {score.tokens:8,}  {score.tokens_per_second:8,.0f}"
            f"  {window:12}  {bos:3}  {score.dtype}"
        )
    for found in differences:
        print(found.words)
