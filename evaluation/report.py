"""The table that sets a merge beside its parents: as Markdown, and as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.difference import Difference
from evaluation.footprint import Footprint, Spread
from evaluation.perplexity import Perplexity
from evaluation.structure import config_changes, same_weights_other_numbers, structure_changes


@dataclass(frozen=True)
class Report:
    """A merge and its parents, side by side.

    Attributes:
        footprints: the first is the merge.
        scores: as many, or none.
        differences: of the first to each of the others.
    """

    footprints: tuple[Footprint, ...]
    scores: tuple[Perplexity, ...] = ()
    differences: tuple[Difference, ...] = ()

    def table(self) -> list[list[str]]:
        """Rows of cells: the first is the head, the first cell of each its label."""
        prints = self.footprints
        shown = [
            ["", *(one.name for one in prints)],
            ["files", *(_bytes(one.structure.file_bytes) for one in prints)],
            ["stored in", *("/".join(one.structure.dtypes) for one in prints)],
            ["weights", *(f"{one.structure.parameters / 1e6:,.1f} M" for one in prints)],
            ["tensors", *(str(len(one.structure.tensors)) for one in prints)],
            ["stands alone", *("yes" if one.independent else f"no: {one.dependence}" for one in prints)],
            ["ran on", *(f"{one.device}, {one.dtype}" if one.device else "-" for one in prints)],
            ["loading", *(f"{one.load_seconds:.2f} s" if one.device else "-" for one in prints)],
            ["peak memory, answering", *(_bytes(one.host_bytes) if one.device else "-" for one in prints)],
        ]
        if any(one.device_bytes for one in prints):
            shown.append(["peak GPU memory", *(_bytes(one.device_bytes or 0) for one in prints)])
        shown += [
            ["first token, ms", *(_spread(one.first_token_seconds, 1000, 0) for one in prints)],
            ["tokens a second", *(_spread(one.tokens_per_second, 1, 2) for one in prints)],
        ]
        if self.scores:
            shown += [
                ["perplexity", *(f"{score.perplexity:.4f}" for score in self.scores)],
                ["bits per byte", *(f"{score.bits_per_byte:.4f}" for score in self.scores)],
            ]
        return shown

    def remarks(self) -> list[str]:
        """Sentences that belong under the table: what differs in structure, and what the numbers can show."""
        first, *others = self.footprints
        said = []
        for other in others:
            changes = structure_changes(first.structure, other.structure)
            config = config_changes(first.structure, other.structure)
            if not changes and not config:
                said.append(f"{first.name} and {other.name}: the same modules of the same shapes.")
                continue
            parts = [str(change) for change in changes]
            parts += [f"{key}: {one!r} here, {two!r} there" for key, (one, two) in config.items()]
            said.append(f"{first.name} (here) and {other.name} (there) differ: {'; '.join(parts)}.")
        said += [
            note for note in [same_weights_other_numbers([one.structure for one in self.footprints])] if note
        ]
        said += [found.words for found in self.differences]
        counted = next((one for one in self.footprints if one.tokens_per_second), None)
        if counted and counted.tokens_per_second:
            said.append(
                f"Speeds: mean ± standard deviation of {counted.tokens_per_second.count} answers of"
                f" {counted.new_tokens} tokens, after one to warm up."
            )
        return said

    def to_markdown(self) -> str:
        """The table and its remarks, for a model card."""
        head, *rows = [[_cell(cell) for cell in row] for row in self.table()]
        lines = [_line(head), _line(["---", *["--:"] * (len(head) - 1)]), *map(_line, rows)]
        return "\n".join([*lines, "", *(f"- {remark}" for remark in self.remarks())]) + "\n"

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
            "remarks": self.remarks(),
        }


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _spread(spread: Spread | None, factor: float, digits: int) -> str:
    if spread is None:
        return "-"
    return f"{spread.mean * factor:.{digits}f} ± {spread.deviation * factor:.{digits}f}"
