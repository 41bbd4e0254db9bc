"""Headers of GGUF files: read by ranges, within limits, and refused in words where they are damaged."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from checkpoints import open_checkpoint
from checkpoints.gguf.blocks import block_type
from checkpoints.gguf.header import MAX_ENTRIES, MAX_KEYS, MAX_TENSORS, MAX_TEXT, read_gguf
from checkpoints.problems import CheckpointError
from tests.checkpoints.gguf.written import LLAMA, write_gguf

Q4_0 = np.arange(8 * 18 * 2, dtype=np.uint8).reshape(8, 36)
TENSORS = {
    "token_embd.weight": ("Q4_0", Q4_0),
    "blk.0.ffn_up.weight": ("F16", np.ones((3, 64), np.float16)),
    "output_norm.weight": ("F32", np.arange(64, dtype=np.float32)),
}
METADATA: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [*"abcdefg", "안"],
    "tokenizer.ggml.token_type": [1] * 8,
    "tokenizer.ggml.scores": [0.5] * 8,
    "general.file_type": 2,
}


def read(content: bytes) -> Any:
    return read_gguf("x.gguf", len(content), lambda start, nbytes: content[start : start + nbytes])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "x.gguf"
    return write_gguf(path, TENSORS, LLAMA | {"embedding_length": 64}, METADATA).read_bytes()


def test_it_says_what_llama_cpps_reader_says(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(whole)
    reader = gguf.GGUFReader(tmp_path / "x.gguf")

    header = read(whole)

    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert header.metadata == fields
    for tensor in reader.tensors:
        found = header.tensors[tensor.name]
        assert found.dtype == tensor.tensor_type.name
        assert found.shape == tuple(reversed([int(size) for size in tensor.shape]))
        assert (found.start, found.nbytes) == (tensor.data_offset, tensor.n_bytes)
        assert whole[found.start : found.start + found.nbytes] == tensor.data.tobytes()


def test_only_the_header_is_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", {"token_embd.weight": ("F32", np.zeros((6000, 1024), np.float32))})
    content, count = path.read_bytes(), []

    def counted(start: int, nbytes: int) -> bytes:
        count.append(nbytes)
        return content[start : start + nbytes]

    read_gguf("x.gguf", len(content), counted)

    assert sum(count) == 1 << 20 < len(content) / 20


def test_a_vocabulary_over_several_reads(tmp_path: Path) -> None:
    tokens = [f"{number:030}" for number in range(150_000)]
    path = write_gguf(tmp_path / "x.gguf", TENSORS, metadata={"tokenizer.ggml.tokens": tokens})

    header = read(path.read_bytes())

    assert header.metadata["tokenizer.ggml.tokens"] == tokens
    assert header.tensors.keys() == TENSORS.keys()


@example(cut=0.999, byte=0.5, value=0)
@given(cut=st.floats(0, 0.999), byte=st.floats(0, 0.999), value=st.integers(0, 255))
def test_a_damaged_file_is_refused_or_read(cut: float, byte: float, value: int, whole: bytes) -> None:
    """One that was cut short is refused; one with another byte may be, and never does anything else."""
    end = max(header.start + header.nbytes for header in read(whole).tensors.values())
    with pytest.raises(CheckpointError):
        read(whole[: int(cut * end)])
    place = int(byte * len(whole))
    try:
        found = read(whole[:place] + bytes([value]) + whole[place + 1 :])
    except CheckpointError as error:
        assert error.problems[0].code == "damaged-gguf" and str(error)
        return
    assert all(header.start + header.nbytes <= len(whole) for header in found.tensors.values())


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_read(content: bytes) -> None:
    for begun in (content, b"GGUF\3\0\0\0" + content):
        try:
            read(begun)
        except CheckpointError as error:
            assert [problem.code for problem in error.problems] == ["damaged-gguf"]


SETTINGS = (*LLAMA, "rope.freq_base", "attention.head_count_kv", "attention.key_length", "rope.scaling.type")
OF_TOKENIZERS = ("model", "pre", "tokens", "scores", "token_type", "merges", "bos_token_id")
KEYS = (
    *(f"llama.{key}" for key in SETTINGS),
    *(f"tokenizer.ggml.{key}" for key in OF_TOKENIZERS),
    *("tokenizer.chat_template", "general.name", "general.file_type"),
)
WORDS = st.text("ab ▁<é", max_size=3)
VALUES = st.one_of(
    st.integers(-(2**31), 2**31 - 1), st.floats(width=32), WORDS, st.booleans(), st.floats().map(np.float64),
    st.integers(0, 2**64 - 1).map(np.uint64),
    st.lists(st.integers(0, 9), min_size=1, max_size=3), st.lists(WORDS, min_size=1, max_size=9),
)  # fmt: skip


@example(changes={"llama.rope.freq_base": np.float64(1e300)}, factors=[1.0])
@example(
    changes={"llama.attention.key_length": [1], "llama.attention.head_count": np.uint64(2**62)}, factors=[1.0]
)
@example(changes={"llama.attention.layer_norm_rms_epsilon": float("nan")}, factors=[1.0])
@given(
    changes=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
    factors=st.lists(st.floats(width=32), min_size=1, max_size=40),
)
def test_any_metadata_are_refused_or_read(
    changes: dict[str, Any], factors: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.gguf"
    settings = {f"llama.{key}": value for key, value in LLAMA.items()}
    tensors = {**TENSORS, "rope_freqs.weight": ("F32", np.array(factors, np.float32))}
    tensors = tensors if len(factors) > 20 else TENSORS
    write_gguf(path, tensors, {}, settings | METADATA | changes)
    try:
        checkpoint = open_checkpoint(str(path))
    except CheckpointError as error:
        assert str(error)
        return
    assert checkpoint.config["model_type"] in ("llama", "mistral")
    assert all(checkpoint.read_file(file) for file in checkpoint.files if file != "x.gguf")


def number(count: int) -> bytes:
    return struct.pack("<Q", count)


def beginning(tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


KEY = number(1) + b"k"
LIST = struct.pack("<I", 9)
HOSTILE = {
    "keys": beginning(0, MAX_KEYS + 1),
    "tensors": beginning(MAX_TENSORS + 1, 0),
    "long text": beginning(0, 1) + number(MAX_TEXT + 1),
    "endless text": beginning(0, 1) + number(2**64 - 1),
    "long list": beginning(0, 1) + KEY + LIST + struct.pack("<IQ", 0, MAX_ENTRIES + 1),
    "list of texts": beginning(0, 1) + KEY + LIST + struct.pack("<IQ", 8, 2**40),
    "list of lists": beginning(0, 1) + KEY + LIST + struct.pack("<IQ", 9, 1) + LIST * 40,
    "unknown kind": beginning(0, 1) + KEY + struct.pack("<I", 99),
    "axes": beginning(1, 0) + KEY + struct.pack("<I", 2**31),
    "huge tensor": beginning(1, 0) + KEY + struct.pack("<IQQIQ", 2, 2**62, 2**62, 0, 0),
    "no rows": beginning(1, 0) + KEY + struct.pack("<IQQIQ", 2, 32, 0, 0, 0),
    "partial block": beginning(1, 0) + KEY + struct.pack("<IQIQ", 1, 33, 2, 0),
    "unknown type": beginning(1, 0) + KEY + struct.pack("<IQIQ", 1, 32, 4, 0),
    "outside": beginning(1, 0) + KEY + struct.pack("<IQIQ", 1, 1, 0, 2**62),
    "no alignment": beginning(0, 1) + number(17) + b"general.alignment" + struct.pack("<II", 4, 0),
    "other end first": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "first version": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_exceeds_a_limit_is_refused_at_once(name: str) -> None:
    content = HOSTILE[name] + b"\0" * 200
    with pytest.raises(CheckpointError) as refused:
        read(content)
    assert refused.value.problems[0].code == "damaged-gguf"


def test_every_type_that_can_be_read_is_known_by_its_name() -> None:
    readable = {kind.name for kind in gguf.GGMLQuantizationType if block_type(kind.value)}
    assert {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"} <= readable
    assert {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL", "IQ2_XXS"} <= readable
    assert not {"I8", "I32", "F64", "Q8_K"} & readable
