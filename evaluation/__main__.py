"""The command line.

    python -m evaluation perplexity MODEL... [--text FILE] [--context N] [--stride N] [--card commit] [--json]
    python -m evaluation compare MODEL... [--text FILE] [--repeats N] [--card commit] [--json]
    python -m evaluation weights MODEL [--against PARENT...] [--base BASE] [--sample N] [--json]
    python -m evaluation benchmark MODEL... [--tasks kmmlu ...] [--limit N] [--few-shot N] [--chat-template] [--json]
    python -m evaluation chat MODEL... [--new-tokens N] [--json]

Exit status: 0 when it is done; 2 when a model or a text cannot be judged (stderr says why, and with --json the
`problems` on stdout); 1 for anything else.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from transformers.utils import logging

from evaluation.activations import Likeness, likeness
from evaluation.as_json import as_json
from evaluation.benchmark import BENCHMARKS, Benchmarked, PairedScore, benchmark, paired, with_error
from evaluation.card import benchmark_results, perplexity_results, write_card
from evaluation.chat_check import check_chat
from evaluation.checkpoint import find_checkpoint
from evaluation.difference import Difference, difference
from evaluation.error import Cancelled, EvaluationError
from evaluation.footprint import footprint
from evaluation.model import load_model
from evaluation.perplexity import Perplexity, perplexity
from evaluation.report import Report
from evaluation.text import BUNDLED, Source, bundled_text, dataset_texts, decoded, read_text
from evaluation.weights import TensorLook, look, open_weights

_SHADES = "·▁▂▃▄▅▆▇█"
DONE, FAILED, CANNOT_BE_JUDGED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return int(options.command(options))
    except EvaluationError as error:
        if options.json:
            print(as_json({"ok": False, "problems": [{"code": "cannot-be-judged", "message": str(error)}]}))
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_BE_JUDGED
    except Cancelled:
        print("error: stopped.", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m evaluation", description="Judge language models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    scored = commands.add_parser("perplexity", help="how well models predict a text, with 95 %% intervals")
    scored.set_defaults(command=_perplexity)
    _add_models(scored, "the first is compared with each of the others")
    _add_offload(scored)
    _add_text(scored)
    _add_card(scored)
    scored.add_argument(
        "--context", type=_positive, metavar="N", help="tokens in a window (the model's, at most 2048)"
    )
    scored.add_argument(
        "--stride", type=_positive, metavar="N", help="tokens from a window to the next (half)"
    )
    scored.add_argument(
        "--bos", action=argparse.BooleanOptionalAction, help="BOS before each document (the tokenizer's rule)"
    )

    compared = commands.add_parser(
        "compare", help="size, structure, independence, speed, memory and perplexity, side by side"
    )
    compared.set_defaults(command=_compare)
    _add_models(compared, "the merge first, then its parents")
    _add_offload(compared)
    _add_text(compared)
    _add_card(compared)
    compared.add_argument("--repeats", type=_positive, default=5, metavar="N", help="timed answers (5)")
    compared.add_argument(
        "--new-tokens", type=_positive, default=32, metavar="N", help="tokens of each answer (32)"
    )

    looked = commands.add_parser("weights", help="look at the weights without running the model")
    looked.set_defaults(command=_weights)
    looked.add_argument("model", metavar="MODEL", help="a folder, or owner/name[@revision] on the Hub")
    looked.add_argument("--against", nargs="+", default=[], metavar="PARENT", help="what it was merged from")
    looked.add_argument("--base", help="what the parents were fine-tuned from: compares their changes")
    looked.add_argument(
        "--sample", type=_positive, default=1 << 20, metavar="N", help="entries read of a tensor (1048576)"
    )
    looked.add_argument("--whole", action="store_true", help="read everything")
    looked.add_argument(
        "--activations",
        metavar="FILE",
        help="run model and parents on a text (as for perplexity --text), and compare their states (linear CKA)",
    )
    looked.add_argument("--json", action="store_true", help="for programs")

    asked = commands.add_parser("benchmark", help="questions of KMMLU and other benchmarks, by lm-eval")
    asked.set_defaults(command=_benchmark)
    _add_models(asked, "the first is compared with each of the others")
    _add_offload(asked)
    _add_card(asked)
    asked.add_argument(
        "--tasks",
        nargs="+",
        default=["kmmlu"],
        metavar="TASK",
        help=f"of lm-eval (kmmlu): {', '.join(BENCHMARKS)}",
    )
    asked.add_argument("--task-folder", type=Path, metavar="FOLDER", help="more tasks, in lm-eval's YAML")
    asked.add_argument("--limit", type=_positive, metavar="N", help="questions of each task (all)")
    asked.add_argument(
        "--few-shot", type=int, metavar="N", help="solved examples before each (the task's own)"
    )
    asked.add_argument(
        "--chat-template", action="store_true", help="ask in the model's form of a conversation"
    )
    asked.add_argument("--cache", type=Path, metavar="FOLDER", help="keeps results of models at a commit")

    talked = commands.add_parser("chat", help="whether models still talk, in English and Korean")
    talked.set_defaults(command=_chat)
    _add_models(talked, "such as a merge and its parents")
    _add_offload(talked)
    talked.add_argument("--new-tokens", type=_positive, default=128, metavar="N", help="longest answer (128)")
    return parser


def _add_models(command: argparse.ArgumentParser, more: str) -> None:
    command.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help=f"a folder, or owner/name[@revision] on the Hub, or base+adapter; {more}",
    )
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    command.add_argument("--json", action="store_true", help="for programs")


def _add_offload(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--offload", type=Path, metavar="FOLDER",
        help="keep weights there that memory cannot hold, and read them at each use (slow)",
    )  # fmt: skip


def _add_text(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--text", metavar="FILE", help=f"a UTF-8 file, - for standard input, or one of {', '.join(BUNDLED)}"
    )
    source.add_argument("--dataset", metavar="NAME", help="a data set on the Hub, or its folder")
    command.add_argument("--column", default="text", help="of the data set (text)")
    command.add_argument("--rows", type=_positive, default=100, metavar="N", help="of the data set (100)")
    command.add_argument("--split", default="test", help="of the data set (test)")
    command.add_argument("--subset", help="the data set's configuration, where it has several")


def _add_card(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--card",
        choices=("commit", "pull-request"),
        help="write the first model's results into its model card: into its folder, or its repository on the Hub",
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 on")
    return int(text)


def _texts(options: argparse.Namespace) -> list[str]:
    if options.dataset:
        return list(
            dataset_texts(
                options.dataset,
                column=options.column,
                rows=options.rows,
                split=options.split,
                subset=options.subset,
            )
        )
    if options.text is None:
        return [document for name in BUNDLED for document in bundled_text(name)]
    return _named_text(options.text)


def _named_text(name: str) -> list[str]:
    if name == "-":
        return [decoded("standard input", sys.stdin.buffer.read())]
    if name in BUNDLED and not Path(name).exists():
        return bundled_text(name)
    return [read_text(name)]


def _source(options: argparse.Namespace) -> Source:
    if options.dataset:
        on_hub = not Path(options.dataset).exists()
        name = options.dataset if on_hub else Path(options.dataset).resolve().name
        return Source(name, name if on_hub else "", options.subset, options.split, options.column)
    if options.text is None:
        return Source("Alloy's English and Korean texts")
    if options.text in BUNDLED and not Path(options.text).exists():
        return Source(f"Alloy's {options.text.capitalize()} text")
    return Source("standard input" if options.text == "-" else Path(options.text).name)


def _write_card(
    options: argparse.Namespace, results: Sequence[EvalResult], markdown: str | None = None
) -> None:
    pull_request = options.card == "pull-request"
    written = write_card(options.models[0], results, markdown=markdown, pull_request=pull_request)
    print(f"{'Proposed' if pull_request else 'Written'}: {written.url}", file=sys.stderr)


def _perplexity(options: argparse.Namespace) -> int:
    texts = _texts(options)
    cancel = _cancel_on_interrupt()
    scores, differences = _scored(
        options, texts, cancel, context=options.context, stride=options.stride, bos=options.bos
    )
    if options.json:
        found: dict[str, Any] = {
            "models": [{**score.to_dict(), "documents": len(score.documents)} for score in scores],
            "differences": [found.to_dict() for found in differences],
        }
        print(as_json(found))
    else:
        _describe(scores, differences)
    if options.card:
        _write_card(options, perplexity_results(scores[0], texts, _source(options), differences))
    return DONE


def _cancel_on_interrupt() -> threading.Event:
    cancel = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: cancel.set())
    return cancel


def _scored(
    options: argparse.Namespace, texts: Sequence[str], cancel: threading.Event, **settings: Any
) -> tuple[list[Perplexity], list[Difference]]:
    """Every model's score, and the first against each of the others."""
    scores: list[Perplexity] = []
    for name in options.models:
        model = load_model(name, device=options.device, offload=options.offload)
        bar = _Bar(name) if sys.stderr.isatty() else None
        scores.append(perplexity(model, texts, on_progress=bar, cancel=cancel, **settings))
        if bar:
            bar.clear()
    return scores, [difference(scores[0], other, texts) for other in scores[1:]]


def _compare(options: argparse.Namespace) -> int:
    texts = _texts(options)
    cancel = _cancel_on_interrupt()
    for name in options.models:
        find_checkpoint(name)  # or what is missing would be told after minutes of measuring the others
    prints = [
        footprint(
            name,
            device=options.device,
            out_of_reach=[other for other in options.models if other != name and Path(other).is_dir()],
            repeats=options.repeats,
            new_tokens=max(options.new_tokens, 2),
            offload=options.offload,
            cancel=cancel,
        )
        for name in options.models
    ]
    scores, differences = _scored(options, texts, cancel)
    report = Report(tuple(prints), tuple(scores), tuple(differences))
    print(as_json(report.to_dict()) if options.json else report.to_markdown())
    if options.card:
        results = perplexity_results(scores[0], texts, _source(options), differences)
        _write_card(options, results, report.to_markdown())
    return DONE


def _weights(options: argparse.Namespace) -> int:
    found = look(
        open_weights(options.model),
        [open_weights(parent) for parent in options.against],
        base=open_weights(options.base) if options.base else None,
        sample=None if options.whole else options.sample,
        on_progress=_Bar(options.model) if sys.stderr.isatty() else None,
        cancel=_cancel_on_interrupt(),
    )
    if sys.stderr.isatty():
        _Bar.clear()
    alike = _alike(options) if options.activations else []
    if options.json:
        told = {**found.to_dict(), "activations": [one.to_dict() for one in alike]}
        print(as_json(told))
        return DONE
    print("\n".join(found.doctor()))
    for parent in options.against:
        print(f"\nChange against {parent}, relative to its norm; a column a layer")
        _draw(found.heat_map(partial(_change, parent)))
    for pair in dict.fromkeys(pair for tensor in found.tensors for pair in tensor.between):
        if options.base:
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


def _alike(options: argparse.Namespace) -> list[Likeness]:
    if not options.against:
        raise EvaluationError("--activations compares with parents. Name them with --against.")
    text = "\n\n".join(_named_text(options.activations))
    model = load_model(options.model)
    return [likeness(model, load_model(parent), text) for parent in options.against]


def _benchmark(options: argparse.Namespace) -> int:
    cancel = _cancel_on_interrupt()
    found = []
    for name in options.models:
        bar = _Bar(name) if sys.stderr.isatty() else None
        found.append(
            benchmark(
                load_model(name, device=options.device, offload=options.offload),
                options.tasks,
                folder=options.task_folder,
                limit=options.limit,
                few_shot=options.few_shot,
                chat_template=options.chat_template,
                cache=options.cache,
                on_progress=bar,
                cancel=cancel,
            )
        )
        if bar:
            bar.clear()
    pairs = [paired(found[0], other) for other in found[1:]]
    if options.json:
        told = {
            "models": [one.to_dict() for one in found],
            "paired": [{**dataclasses.asdict(pair), "words": pair.words} for pair in pairs],
        }
        print(as_json(told))
    else:
        _describe_benchmarks(found, pairs)
    if options.card:
        _write_card(options, benchmark_results(found[0], pairs))
    return DONE


def _describe_benchmarks(found: Sequence[Benchmarked], pairs: Sequence[PairedScore]) -> None:
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
                  f"{len(score.answers)} questions")  # fmt: skip
    for pair in pairs:
        print(pair.words)


def _chat(options: argparse.Namespace) -> int:
    cancel = _cancel_on_interrupt()
    found = []
    for name in options.models:
        bar = _Bar(name) if sys.stderr.isatty() else None
        model = load_model(name, device=options.device, offload=options.offload)
        found.append(check_chat(model, max_new_tokens=options.new_tokens, on_progress=bar, cancel=cancel))
        if bar:
            bar.clear()
    if options.json:
        print(as_json({"models": [one.to_dict() for one in found]}))
        return DONE
    for one in found:
        counted = ", ".join(f"{count} {fault}" for fault, count in one.counts.items())
        print(f"{one.model}: of {len(one.answers)} answers {counted}")
        for answer in one.answers:
            said = f" [{', '.join(answer.faults)}]" if answer.faults else ""
            print(f"  {answer.prompt}{said}\n    {' '.join(answer.answer.split())}")
    return DONE


def _change(parent: str, tensor: TensorLook) -> float | None:
    return tensor.against[parent].change if parent in tensor.against else None


def _sign_conflict(pair: str, tensor: TensorLook) -> float | None:
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


class _Bar:
    """A line on the terminal with what was done."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, done: int, total: int) -> None:
        blocks = "█" * (done * 30 // max(total, 1))
        line = f"{self.name} |{blocks:30}| {done / max(total, 1):4.0%}"
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    @staticmethod
    def clear() -> None:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
