"""Results as Markdown for people and cards, and as data: a merge beside its parents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from checkpoints.problems import Problem
from checkpoints.wording import size_in_words
from evaluation.benchmarked import Benchmarked, with_error
from evaluation.chat_check import ChatCheck
from evaluation.cka import LinearCka
from evaluation.difference import Difference
from evaluation.faults import FAULTS
from evaluation.footprint import Footprint, Spread
from evaluation.paired import PairedScore
from evaluation.perplexity import Perplexity
from evaluation.remark import Remark
from evaluation.sandbox import MEANS
from evaluation.structure import (
    Structure,
    config_changes,
    same_weights_other_numbers,
    structure_changes,
)
from evaluation.text import TextSource
from evaluation.weights import WeightsReport

# What rows of the table are called, by their code.
LABELS = {
    "files": "files",
    "stored": "stored in",
    "weights": "weights",
    "tensors": "tensors",
    "alone": "stands alone",
    "device": "ran on",
    "loading": "loading",
    "memory": "peak memory, answering",
    "gpu_memory": "peak GPU memory",
    "first_token": "first token, ms",
    "speed": "tokens per second",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
}


@dataclass(frozen=True)
class Report:
    """A merge and its parents, side by side.

    Attributes:
        footprints: the first is the merge.
        scores: one per footprint, or none.
        differences: of the first model to each of the others.
    """

    footprints: tuple[Footprint, ...]
    scores: tuple[Perplexity, ...] = ()
    differences: tuple[Difference, ...] = ()

    def table(self) -> list[list[str]]:
        """Rows of cells: the first row is the header, the first cell of each its label."""
        names = ["", *(one.name for one in self.footprints)]
        return [names, *([LABELS[row[0]], *row[1:]] for row in self.rows())]

    def rows(self, say: Callable[[Remark | Problem], str] = str) -> list[list[str]]:
        """Rows of cells without the header; the first cell of each is its label's code, a key of `LABELS`.

        Args:
            say: gives a remark its words, in a reader's language.
        """
        prints = self.footprints
        shown = [
            ["files", *(size_in_words(one.structure.file_bytes) for one in prints)],
            ["stored", *("/".join(one.structure.dtypes) for one in prints)],
            ["weights", *(f"{one.structure.parameters / 1e6:,.1f} M" for one in prints)],
            ["tensors", *(str(len(one.structure.tensors)) for one in prints)],
            ["alone", *(_alone(one, say) for one in prints)],
            ["device", *(_where(one, say) for one in prints)],
            ["loading", *(f"{one.load_seconds:.2f} s" if one.device else "-" for one in prints)],
            ["memory", *(size_in_words(one.host_bytes) if one.device else "-" for one in prints)],
        ]
        if any(one.device_bytes for one in prints):
            shown.append(["gpu_memory", *(size_in_words(one.device_bytes or 0) for one in prints)])
        shown += [
            ["first_token", *(_spread(one.first_token_seconds, 1000, 0) for one in prints)],
            ["speed", *(_spread(one.tokens_per_second, 1, 2) for one in prints)],
        ]
        if self.scores:
            shown += [
                ["perplexity", *(f"{score.perplexity:.4f}" for score in self.scores)],
                ["bits_per_byte", *(f"{score.bits_per_byte:.4f}" for score in self.scores)],
            ]
        return shown

    def remarks(self) -> list[Remark]:
        """What differs in structure, and what the numbers can show."""
        first, *others = self.footprints
        said = [_compared(first.structure, other.structure) for other in others]
        number_format = same_weights_other_numbers([one.structure for one in self.footprints])
        said += [number_format] if number_format else []
        confined = {one.confined_by for one in self.footprints if one.independent and one.confined_by}
        if confined:
            said.append(Remark("stands-alone", {"means": [MEANS[one] for one in sorted(confined)]}))
        said += [remark for found in self.differences for remark in found.remarks]
        counted = next((one for one in self.footprints if one.tokens_per_second), None)
        if counted and counted.tokens_per_second:
            values = {"count": counted.tokens_per_second.count, "tokens": counted.new_tokens}
            said.append(Remark("speeds", values))
        return said

    def to_markdown(self) -> str:
        """The table and its remarks, for a model card."""
        return _markdown(self.table(), self.remarks())

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        first, *others = self.footprints
        return {
            "models": [one.to_dict() for one in self.footprints],
            "perplexity": [score.to_dict() for score in self.scores],
            "differences": [found.to_dict() for found in self.differences],
            "structure": [
                {
                    "other": other.name,
                    "changes": [
                        change.__dict__ for change in structure_changes(first.structure, other.structure)
                    ],
                    "config": config_changes(first.structure, other.structure),
                }
                for other in others
            ],
            "remarks": [str(remark) for remark in self.remarks()],
        }


def perplexity_markdown(
    scores: Sequence[Perplexity], source: TextSource, differences: Sequence[Difference] = ()
) -> str:
    """Perplexities on one text as a table, with the verdicts on their differences.

    Args:
        scores: one per model.
        source: where the text comes from.
        differences: of the first model to others.
    """
    rows = [["", "perplexity", "bits per byte", "tokens", "window", "BOS", "ran in"]]
    rows += [
        [
            one.model,
            f"{one.perplexity:.4f}",
            f"{one.bits_per_byte:.4f}",
            f"{one.tokens:,}",
            f"{one.context}/{one.stride}",
            "yes" if one.bos else "no",
            one.dtype,
        ]
        for one in scores
    ]
    part = ", ".join(filter(None, [source.subset, source.split, source.column]))
    text = f"Text: {source.name}{f' ({part})' if part else ''}, {scores[0].bytes:,} bytes."
    return _markdown(rows, [text, *(one.words for one in differences)])


def benchmark_markdown(found: Sequence[Benchmarked], pairs: Sequence[PairedScore] = ()) -> str:
    """Benchmark scores with their standard errors as a table, one column per model.

    Args:
        found: models that were asked the same questions.
        pairs: the first model beside each of the others.
    """
    rows = [["", *(one.model for one in found)]]
    rows += [
        [f"{totals[0].name}, {totals[0].metric}", *map(with_error, totals)]
        for totals in zip(*(one.totals for one in found), strict=True)
    ]
    first = found[0]
    questions = sum(total.questions for total in first.totals)
    shots = "the tasks' own number of" if first.few_shot is None else first.few_shot
    limit = "" if first.limit is None else f", at most {first.limit} of each task"
    form = "in the models' own form of a conversation" if first.chat_template else "as plain text"
    how = f"{questions:,} questions{limit}, {shots} solved examples before each, asked {form}; lm-eval {first.lm_eval}."
    return _markdown(rows, [how, *(pair.words for pair in pairs)])


def chat_markdown(checks: Sequence[ChatCheck]) -> str:
    """How many answers have each fault as a table, a column for each model, and the rules.

    Args:
        checks: models that were asked the same questions.
    """
    rows = [["", *(one.model for one in checks)]]
    rows += [[fault, *(f"{one.counts[fault]} of {len(one.answers)}" for one in checks)] for fault in FAULTS]
    rules = "; ".join(f"{fault}: {rule}" for fault, rule in FAULTS.items())
    return _markdown(rows, [f"Answers with the likeliest token each time; counted by plain rules. {rules}."])


def weights_markdown(found: WeightsReport, alike: Sequence[LinearCka] = ()) -> str:
    """The doctor's sentences, and how far the model is from each parent as a table.

    Args:
        found: the model's weights beside its parents'.
        alike: the model's states beside its parents'.
    """
    rows = [["", "change", "cosine", *(["linear CKA, last layer"] if alike else [])]]
    states = {one.other: one for one in alike}
    for parent in found.lacking:
        held = [one.against[parent] for one in found.tensors if parent in one.against]
        if held:
            change = sum(one.change for one in held) / len(held)
            cosine = sum(one.cosine for one in held) / len(held)
            cka = [f"{states[parent].by_layer[-1]:.4f}" if parent in states else "-"] if alike else []
            rows.append([parent, f"{change:.4f}", f"{cosine:.6f}", *cka])
    said = found.doctor()
    if len(rows) == 1:
        return "\n".join(f"- {remark}" for remark in said) + "\n"
    share = min(one.share for one in found.tensors)
    read = "all weights" if share == 1 else f"samples of the tensors ({share:.1%} of the largest)"
    return _markdown(rows, [*said, f"Means over tensors of {found.model} against each; from {read}."])


def _compared(here: Structure, there: Structure) -> Remark:
    """Where two models differ in structure."""
    names = {"model": here.name, "other": there.name}
    changes = [change.remark.phrase for change in structure_changes(here, there)]
    for key, (one, two) in config_changes(here, there).items():
        changes.append(Remark("changed-config", {"key": key, "one": one, "two": two}).phrase)
    if not changes:
        return Remark("same-structure", names)
    return Remark("other-structure", {**names, "changes": changes})


def _markdown(table: Sequence[Sequence[str]], remarks: Sequence[Remark | str]) -> str:
    head, *rows = [[_cell(cell) for cell in row] for row in table]
    lines = [markdown_row(head), markdown_row(["---", *["--:"] * (len(head) - 1)]), *map(markdown_row, rows)]
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks)]) + "\n"


def markdown_row(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _alone(one: Footprint, say: Callable[[Remark | Problem], str]) -> str:
    if one.independent:
        return say(Remark("alone-yes"))
    return f"{say(Remark('alone-no'))}: {' '.join(map(say, one.dependence))}"


def _where(one: Footprint, say: Callable[[Remark | Problem], str]) -> str:
    if not one.device:
        return "-"
    where = {"device": one.device, "dtype": one.dtype}
    return say(Remark("ran-from-disk" if one.offloaded else "ran-on", where))


def _spread(spread: Spread | None, factor: float, digits: int) -> str:
    if spread is None:
        return "-"
    return f"{spread.mean * factor:.{digits}f} ± {spread.deviation * factor:.{digits}f}"
