"""The receipt of an output file: that it has arrived, what it holds, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Self

from checkpoints.problems import Problem

# The processor of a file whose bytes depend on none: everything in it is copied.
ANY = "any"


@dataclass(frozen=True)
class Receipt:
    """An output file that has arrived.

    Args:
        filename: of the plan's shard
        size: in bytes
        sha256: of its content; None where that would have to be read again: in a folder and in memory
        read_by: how its inputs were read: "folder", over a network "HTTP" or "Xet", or the Hub's local "cache"
        written_by: how it was written: "folder", "memory", "object store", to the Hub "LFS", "Xet" or "copy" (by the
            Hub itself), or by "an earlier run"
        seconds: that it took
        processor: the kind of processor that computed it, see `processor_kind`, or ANY
        not_finite: how many numbers are infinite or NaN, by tensor; those without are left out
    """

    filename: str
    size: int
    sha256: str | None = None
    read_by: tuple[str, ...] = ()
    written_by: tuple[str, ...] = ()
    seconds: float = 0.0
    processor: str = ANY
    not_finite: Mapping[str, int] = field(default_factory=dict, hash=False)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        data = json.loads(text)
        data |= {name: tuple(data[name]) for name in ("read_by", "written_by")}
        return cls(**{part.name: data[part.name] for part in fields(cls)})


def read_by(receipts: Iterable[Receipt]) -> tuple[str, ...]:
    """How the inputs of several files were read."""
    return tuple(sorted({way for receipt in receipts for way in receipt.read_by}))


def written_by(receipts: Iterable[Receipt]) -> tuple[str, ...]:
    """How several files were written."""
    return tuple(sorted({way for receipt in receipts for way in receipt.written_by}))


def not_finite(receipts: Iterable[Receipt]) -> dict[str, int]:
    """How many numbers are infinite or NaN, by tensor, of several files."""
    return {tensor: count for receipt in receipts for tensor, count in sorted(receipt.not_finite.items())}


def no_file(receipt: Receipt, place: str) -> Problem:
    """That the file of a receipt is not there, or not whole."""
    return Problem(
        "receipt-without-file", {"file": receipt.filename, "size": receipt.size, "place": place}, place
    )
