"""Figures of one tensor of a model, by itself and beside its parents'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class VersusParent:
    """A tensor beside the same one of a parent.

    Attributes:
        change: norm of the difference divided by the parent's norm.
        distance: norm of the difference divided by the mean of both norms.
        cosine: of the angle between the two.
        effective_rank: of the difference, see `Spectrum`. None for vectors, for tensors that were not read whole
            (a spectrum of some rows is not the tensor's).
        energy: of the difference, see `Spectrum`. None for vectors and for tensors that were not read whole.
        energy_missed: see `Spectrum`.
        effective_rank_error: see `Spectrum`.
    """

    change: float
    distance: float
    cosine: float
    effective_rank: float | None = None
    energy: float | None = None
    energy_missed: float = 0.0
    effective_rank_error: float = 0.0


@dataclass(frozen=True)
class ParentPair:
    """A tensor of two parents.

    Attributes:
        cosine: between their weights.
        task_cosine: between their changes to the base.
        sign_conflict: share of entries whose changes differ in sign, zero against another included.
        overlap: of the leading right singular directions of their changes, from 0 to 1 (same space). None for vectors
            and for tensors that were not read whole.
    """

    cosine: float
    task_cosine: float | None = None
    sign_conflict: float | None = None
    overlap: float | None = None


@dataclass(frozen=True)
class TensorStats:
    """Figures of one tensor of the model.

    Attributes:
        name: of the tensor.
        layer: its layer's number, None outside of layers.
        kind: its name with `*` for the layer.
        shape: its dimensions.
        dtype: as safetensors names it, such as "BF16".
        share: of its entries that were read; 0 for a dtype that cannot be read here.
        norm: of what was read.
        nan: entries that are no number.
        inf: entries that are infinite.
        dead_rows: rows of zeros in a matrix of floats, or in the matrices of packed experts, without those that only
            pad a vocabulary.
        digest: of what was read; equal for equal tensors, "" if nothing was read.
        against: by parent.
        between: by pair of parents, "a | b".
    """

    name: str
    layer: int | None
    kind: str
    shape: tuple[int, ...]
    dtype: str
    share: float
    norm: float = 0.0
    nan: int = 0
    inf: int = 0
    dead_rows: int = 0
    digest: str = ""
    against: Mapping[str, VersusParent] = field(default_factory=dict)
    between: Mapping[str, ParentPair] = field(default_factory=dict)
