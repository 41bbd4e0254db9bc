"""Tensors that no file holds, as a checkpoint: zeros, noise, and the rows of routers."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from checkpoints import TensorHeader
from merging.plan import Generated, GeneratedTensor, PlannedModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = "generated"
# Elements that one generator draws: any stretch of a tensor can be drawn without what precedes it.
CHUNK = 65_536
WIDTH = 4  # bytes of a float32 number
COMPUTED = ("router", "shared gate")


class GeneratedCheckpoint:
    """What is drawn depends on the seed, the tensor's name and the place in it alone.

    Args:
        generated: the tensors
        seed: of the recipe
        rows: those that are computed, by tensor, as float32 numbers; None where they follow, see `fill`
    """

    name = NAME
    version = ""
    is_folder = True
    is_cached = False
    is_remote = False
    adapters = ()
    warnings = ()

    def __init__(
        self, generated: Generated, seed: int, rows: Mapping[str, NDArray[np.float32]] | None = None
    ):
        self.generated = generated
        self.seed = seed
        self.rows = rows
        self.config: dict[str, Any] = {}
        self.files: Mapping[str, int] = {}
        self.read_by: Set[str] = frozenset()
        self.tensors: Mapping[str, TensorHeader] = {
            name: TensorHeader(name, "F32", tensor.shape, "", 0, _elements(tensor) * WIDTH)
            for name, tensor in generated.tensors.items()
        }

    def fill(self, rows: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the tensors that are computed."""
        self.rows = rows

    def read_file(self, file: str) -> bytes:
        raise AssertionError("it has no files")

    def read_range(self, file: str, start: int, buffer: memoryview) -> None:
        raise AssertionError("it has no files")

    def read_into(self, tensor: str, start: int, buffer: memoryview) -> None:
        import numpy as np

        wanted = self.generated.tensors[tensor]
        if wanted.kind == "zeros":
            buffer[:] = bytes(len(buffer))
            return
        if wanted.kind in COMPUTED:
            assert self.rows is not None, "they are computed first"
            stored = np.ascontiguousarray(self.rows[tensor]).data.cast("B")
            buffer[:] = stored[start : start + len(buffer)]
            return
        end = start + len(buffer)
        size = CHUNK * WIDTH
        for number in range(start // size, -(-end // size)):
            drawn = self._chunk(tensor, wanted, number).data.cast("B")
            low, high = max(start, number * size), min(end, (number + 1) * size)
            buffer[low - start : high - start] = drawn[low - number * size : high - number * size]

    def _chunk(self, name: str, tensor: GeneratedTensor, number: int) -> NDArray[np.float32]:
        """CHUNK numbers of a tensor that is drawn."""
        import numpy as np

        digest = hashlib.sha256(f"{self.seed} {name} {number}".encode()).digest()
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16])))
        if tensor.kind == "normal":
            return generator.standard_normal(CHUNK, dtype=np.float32)
        return (2 * generator.random(CHUNK, dtype=np.float32) - 1) * np.float32(tensor.scale)

    def bytes_to_read(self, tensor: str) -> int:
        return 0

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class LocatedRows:
    """The tensors that were computed, for workers elsewhere.

    Args:
        rows: by name, the float32 numbers of each in base64
    """

    rows: Mapping[str, str]

    @classmethod
    def of(cls, generated: GeneratedCheckpoint, names: Collection[str]) -> Self:
        """Those of the names that were computed."""
        known = {name: rows for name, rows in (generated.rows or {}).items() if name in names}
        return cls({name: base64.b64encode(rows.tobytes()).decode() for name, rows in known.items()})

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        import numpy as np

        return {name: np.frombuffer(base64.b64decode(text), "<f4") for name, text in self.rows.items()}


def planned(generated: Generated) -> PlannedModel:
    """What a plan says of them, beside its models."""
    count = sum(map(_elements, generated.tensors.values()))
    return PlannedModel(NAME, None, "", True, "", count, count * WIDTH, generated=generated)


def _elements(tensor: GeneratedTensor) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return count
