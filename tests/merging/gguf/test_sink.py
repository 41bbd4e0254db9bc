"""The sink by hand: four tensors of a model become five of a file, whatever the cuts in which they come."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch

from merging.destinations import Stored
from merging.gguf.expression import Piece
from merging.gguf.file import GgufFile
from merging.gguf.layout import GgufLayout, LaidOut
from merging.gguf.sink import GgufSink
from merging.gguf.types import FILE_TYPES, Shape
from merging.plan import Input, Plan, PlannedShard, PlannedTensor, shard_header

A = torch.arange(64, dtype=torch.float32).reshape(2, 32)
B = torch.arange(6, dtype=torch.bfloat16).reshape(3, 2)
C, D = torch.full((1, 32), 7.0), torch.full((1, 32), 9.0)


def whole(name: str, elements: int, is_plain: bool = True, *steps: object) -> Piece:
    return Piece((name,), elements, (["input", name], *steps), is_plain)


ONE = base64.b64encode(np.ones(3, np.float32).tobytes()).decode()
LAYOUT = GgufLayout(
    keys=b"",
    key_count=0,
    tensors=(
        LaidOut("constant", (3,), True, (Piece((), 3, (["constant", [3], ONE],), False),)),
        LaidOut("a.weight", (2, 32), False, (whole("a", 64),)),
        LaidOut("b", (2, 3), True, (whole("b", 6, False, ["aten.t.default", [{"step": 0}], {}]),)),
        LaidOut("b and b", (6, 2), True, (whole("b", 6), whole("b", 6))),
        LaidOut("d and c.weight", (2, 32), False, (whole("d", 32), whole("c", 32))),
    ),
    shape=Shape("llama"),
    software="by hand",
)
TENSORS = tuple(
    PlannedTensor(name, dtype, tuple(tensor.shape), (Input(0, name),), {}, 0, None)
    for name, dtype, tensor in (("a", "F32", A), ("b", "BF16", B), ("c", "F32", C), ("d", "F32", D))
)


class InMemory:
    """A sink that keeps files, and takes their bytes in order alone where it is told to."""

    crosses_processes = False

    def __init__(self, in_order: bool):
        self.in_order = in_order
        self.files: dict[str, Kept] = {}

    def open_shard(self, filename: str, size: int) -> Kept:
        return self.files.setdefault(filename, Kept(size, self.in_order))

    def to_data(self) -> None:
        return None


class Kept:
    def __init__(self, size: int, in_order: bool):
        self.content = bytearray(b"?" * size)
        self.in_order, self.next = in_order, 0

    def write(self, offset: int, data: memoryview) -> None:
        assert not self.in_order or offset == self.next, "bytes that come before these are missing"
        self.next = offset + len(data)
        self.content[offset : offset + len(data)] = data

    def close(self) -> Stored:
        return Stored(None, "memory")


def plan() -> Plan:
    shard = PlannedShard("model.safetensors", TENSORS, 0)
    size = len(shard_header(shard)) + sum(tensor.bytes for tensor in TENSORS)
    return Plan("", "passthrough", shards=(PlannedShard("model.safetensors", TENSORS, size),))


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("cut", [7, 64, 10_000])
@pytest.mark.parametrize("times", [1, 2])  # a file that was lost comes again
def test_tensors_arrive_in_their_places(cut: int, in_order: bool, times: int) -> None:
    kept, merge = InMemory(in_order), plan()
    files = [GgufFile(f"{name}.gguf", FILE_TYPES[name], LAYOUT) for name in ("F16", "Q8_0")]
    sink = GgufSink(merge, files, kept)
    sink.begin()
    [shard] = merge.shards
    raw = {"a": A.numpy().tobytes(), "b": B.view(torch.uint8).numpy().tobytes(), "c": C.numpy().tobytes()}
    raw["d"] = D.numpy().tobytes()

    for _ in range(times):
        writer = sink.open_shard(shard.filename, shard.bytes)
        writer.write(0, memoryview(shard_header(shard)))
        for tensor, offset in shard.places():
            content = bytearray(raw[tensor.name])
            for start in range(0, len(content), cut):
                writer.write(offset + start, memoryview(content)[start : start + cut])
        writer.close()

    assert [receipt.filename for receipt in sink.finish()] == ["F16.gguf", "Q8_0.gguf"]
    content = bytes(kept.files["F16.gguf"].content)
    places = {placed.tensor.name: placed for placed in files[0].places}
    expected = {
        "constant": np.ones(3, np.float32),
        "a.weight": A.numpy().astype(np.float16),
        "b": B.t().float().contiguous().numpy(),
        "d and c.weight": torch.cat([D, C]).numpy().astype(np.float16),
        "b and b": torch.cat([B, B]).float().numpy(),
    }
    for name, numbers in expected.items():
        start = places[name].offset
        assert start % 32 == 0
        assert content[start : start + numbers.nbytes] == numbers.tobytes(), name
        assert not any(content[start + numbers.nbytes : start + numbers.nbytes + places[name].padding])
    assert bytes(kept.files["Q8_0.gguf"].content[-28:]) == bytes(28)  # after two blocks of 34 bytes
    assert len(content) == files[0].size


def test_what_is_recorded_is_done_from_a_list_of_known_operations_alone() -> None:
    evil = Piece(("a",), 64, (["input", "a"], ["aten.from_file.default", ["/etc/passwd"], {}]), False)

    with pytest.raises(ValueError, match=r"unknown operation aten.from_file"):
        evil.computed({"a": A})
