"""What a checkpoint is made of, and where two of them differ: from headers, without reading a weight."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints import Checkpoint, TensorHeader, open_checkpoint
from checkpoints.dtypes import is_known, torch_name
from checkpoints.json_value import parse_json
from evaluation.model_files import ADAPTER, CONFIG, as_evaluation_error
from evaluation.remark import Remark

_NUMBER = re.compile(r"\.\d+\.")
# What is said of a `StructureChange`.
_CHANGES = {"only here": "only-here", "only there": "only-there", "changed": "changed-shape"}


@dataclass(frozen=True)
class Structure:
    """A checkpoint without its weights.

    Attributes:
        name: how people call it.
        tensors: by name.
        config: what config.json says.
        file_bytes: of all weight files.
    """

    name: str
    tensors: Mapping[str, TensorHeader]
    config: Mapping[str, Any]
    file_bytes: int

    @property
    def parameters(self) -> int:
        """The number of weights in the files."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """The number of weights of each dtype, the most first."""
        counts: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counts[torch_name(tensor.dtype) if is_known(tensor.dtype) else tensor.dtype.lower()] += (
                tensor.elements
            )
        return dict(counts.most_common())


def structure_of(checkpoint: Checkpoint, name: str) -> Structure:
    """What an open checkpoint is made of.

    Args:
        checkpoint: it.
        name: how people call it.
    """
    files = {header.file for header in checkpoint.tensors.values()}
    if "" in files:  # tensors that are computed
        nbytes = sum(map(checkpoint.bytes_to_read, checkpoint.tensors))
    else:
        nbytes = sum(checkpoint.files[file] for file in files)
    return Structure(name, checkpoint.tensors, checkpoint.config, nbytes)


def read_structure(name: str, folder: Path) -> Structure:
    """Read the headers of the weight files in a folder.

    Args:
        name: what to call the model.
        folder: the folder.

    Raises:
        EvaluationError: there is no whole model that can be read.
    """
    with as_evaluation_error(), closing(open_checkpoint(str(folder))) as opened:
        return structure_of(opened, name)


@dataclass(frozen=True)
class StructureChange:
    """Tensors of one kind that differ between two checkpoints.

    Attributes:
        what: "only here" (in the first), "only there" (in the second) or "changed" (another shape).
        tensors: their name, with `*` for the number of the layer.
        count: how many there are.
        here: shape in the first, empty where it is not.
        there: shape in the second.
    """

    what: str
    tensors: str
    count: int
    here: tuple[int, ...] = ()
    there: tuple[int, ...] = ()

    @property
    def remark(self) -> Remark:
        """It, in words."""
        values = {
            "tensors": self.tensors,
            "here": _shape(self.here),
            "there": _shape(self.there),
            "count": self.count if self.count > 1 else None,
        }
        return Remark(_CHANGES[self.what], values)


def structure_changes(here: Structure, there: Structure) -> list[StructureChange]:
    """Compare two checkpoints module by module; what is equal is left out, and equal layers are one change."""
    found: Counter[tuple[str, str, tuple[int, ...], tuple[int, ...]]] = Counter()
    for name in {**here.tensors, **there.tensors}:
        one, two = here.tensors.get(name), there.tensors.get(name)
        kind = _NUMBER.sub(".*.", name)
        if one and two:
            if one.shape != two.shape:
                found["changed", kind, one.shape, two.shape] += 1
        elif one:
            found["only here", kind, one.shape, ()] += 1
        elif two:
            found["only there", kind, (), two.shape] += 1
    return [StructureChange(what, kind, count, one, two) for (what, kind, one, two), count in found.items()]


def config_changes(here: Structure, there: Structure) -> dict[str, tuple[Any, Any]]:
    """Entries of config.json that differ, without those that only say where a model came from."""
    passing = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"}
    keys = dict.fromkeys([*here.config, *there.config])
    return {
        key: (here.config.get(key), there.config.get(key))
        for key in keys
        if key not in passing and here.config.get(key) != there.config.get(key)
    }


def references(folder: Path, tensors: Iterable[str]) -> list[Remark]:
    """What in a checkpoint's own files makes it depend on another one.

    An adapter needs its base to be loaded; a name left over in `_name_or_path` does not, and is not counted.
    """
    found = []
    if (folder / ADAPTER).exists():
        base = _json(folder / ADAPTER).get("base_model_name_or_path")
        found.append(Remark("points-at", {"file": ADAPTER, "base": str(base)}))
    named = _json(folder / CONFIG).get("base_model_name_or_path")
    if named:
        found.append(Remark("points-at", {"file": CONFIG, "base": str(named)}))
    if any("lora_" in name for name in tensors):
        found.append(Remark("unmerged-lora"))
    return found


def same_weights_other_numbers(structures: Sequence[Structure]) -> Remark | None:
    """A warning that a number format is no compression; None where it is not needed."""
    first, *others = structures
    for other in others:
        ratio = first.file_bytes / max(other.file_bytes, 1)
        if (
            first.dtypes.keys() != other.dtypes.keys()
            and abs(math.log(max(ratio, 1e-9))) > math.log(1.2)
            and abs(first.parameters - other.parameters) <= 0.05 * other.parameters
        ):
            dtypes = {"dtypes": "/".join(first.dtypes), "other_dtypes": "/".join(other.dtypes)}
            return Remark("number-format-alone", {"model": first.name, "other": other.name, **dtypes})
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one-number"
