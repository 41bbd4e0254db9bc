"""Whatever the files of a model hold: they are read rightly, or refused in words, and never raise anything else."""

from __future__ import annotations

import io
import json
import pickletools
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from checkpoints import open_adapter, open_checkpoint
from checkpoints.adapters.adapter import OPTIONS
from checkpoints.dtypes import is_known
from checkpoints.formats.safetensors import read_safetensors
from checkpoints.formats.torch_zip import read_torch_zip
from checkpoints.json_value import MAX_DEPTH, parse_json
from checkpoints.problems import CheckpointError

# Seconds in every run of the tests, and some minutes in the night.
LONG = [pytest.mark.nightly, pytest.mark.timeout(7200)]
LENGTHS = [pytest.param(120, id="short"), pytest.param(20_000, id="long", marks=LONG)]


def fuzz(check: Callable[[Any], None], inputs: st.SearchStrategy[Any], examples: int) -> None:
    given(inputs)(
        settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=examples < 1000,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )(check)
    )()


def in_words(error: CheckpointError) -> bool:
    return all(problem.message and len(str(problem)) < 2000 for problem in error.problems)


# -- safetensors -------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 4, 8, 16]),
    st.integers(-4, 40),
    st.sampled_from([-1, 2**31, 2**63 - 1, 2**63, 10**4000, True, False, 2.0, float("nan"), "2", None, []]),
)
NAMES = st.one_of(
    st.sampled_from(["a.weight", "b", "__metadata__", "", "\ud800", "x" * 257]), st.text(max_size=6)
)
TYPES = st.one_of(
    st.sampled_from(["F32", "BF16", "I8", "F8_E4M3", "F4", "f32", None, 3]), st.text(max_size=3)
)
SHAPES = st.one_of(st.lists(NUMBERS, max_size=20), st.sampled_from(["22", None, {}, 4]))
ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={"dtype": TYPES, "shape": SHAPES, "data_offsets": st.lists(NUMBERS, max_size=3) | NUMBERS},
    ),
    st.builds(
        lambda size, first: {"dtype": "F32", "shape": [size], "data_offsets": [first, first + 4 * size]},
        st.integers(0, 4),
        st.sampled_from([0, 4, 8]),
    ),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.integers(), max_size=2),
    NUMBERS,
)
HEADERS = st.one_of(
    st.dictionaries(NAMES, ENTRIES, max_size=4).map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=40),
    st.integers(1, 3000).map(lambda deep: b'{"__metadata__":' + b"[" * deep + b"]" * deep + b"}"),
)
FILES = st.tuples(HEADERS, st.integers(0, 40), st.integers(-3, 3))


def check_safetensors(given: tuple[bytes, int, int]) -> None:
    header, size, off = given
    data = max(len(header) + off, 0).to_bytes(8, "little") + header + bytes(size)
    try:
        found = read_safetensors("f", len(data), lambda start, nbytes: data[start : start + nbytes])
    except CheckpointError as error:
        assert in_words(error)
        return
    if all(is_known(tensor.dtype) for tensor in found.values()):
        theirs = {name: tuple(tensor["shape"]) for name, tensor in safetensors.deserialize(data)}
        assert {name: tensor.shape for name, tensor in found.items()} == theirs


@pytest.mark.parametrize("examples", LENGTHS)
def test_headers_of_safetensors(examples: int) -> None:
    fuzz(check_safetensors, FILES, examples)


# -- files of torch.save -----------------------------------------------------------------------------------


def _saved() -> tuple[str, bytes, dict[str, bytes]]:
    """The name and bytes of the pickle in a file of torch.save, and its other entries."""
    whole = io.BytesIO()
    table = torch.ones(2, 3)
    torch.save({"a.weight": table, "b": table[1], "n": torch.tensor(1)}, whole)
    with zipfile.ZipFile(whole) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    [name] = [name for name in entries if name.endswith("data.pkl")]
    return name, entries.pop(name), entries


NAME, PICKLE, ENTRIES_BESIDE = _saved()
CODES = [operation.code.encode("latin-1") for operation in pickletools.opcodes]


def mutated(edits: list[tuple[int, int, bytes]]) -> bytes:
    """The pickle with pieces taken out and others put in their place."""
    data = PICKLE
    for place, length, piece in edits:
        at = place % (len(data) + 1)
        data = data[:at] + piece + data[at + length :]
    return data


PIECES = st.one_of(
    st.binary(max_size=3),
    st.sampled_from(CODES),
    st.sampled_from([b"}]", b"(K\x01K\x02t", b"\x86" * 200, b"cos\nsystem\n", b"\x8a\xff" + b"\x7f" * 255]),
)
PICKLES = st.one_of(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 4), PIECES), min_size=1, max_size=4).map(mutated),
    st.lists(PIECES, max_size=20).map(lambda pieces: b"\x80\x02" + b"".join(pieces) + b"."),
)


def check_pickle(pickled: bytes) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {NAME: pickled, **ENTRIES_BESIDE}.items():
            archive.writestr(name, data)
    data = whole.getvalue()
    try:
        found = read_torch_zip("f", len(data), lambda start, nbytes: data[start : start + nbytes])
    except CheckpointError as error:
        assert in_words(error)
        return
    for name, tensor in found.items():
        assert type(name) is str and 0 <= tensor.start <= tensor.start + tensor.nbytes <= len(data)


@pytest.mark.parametrize("examples", LENGTHS)
def test_pickles(examples: int) -> None:
    fuzz(check_pickle, PICKLES, examples)


# -- adapters ----------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 5), st.floats(), st.text(max_size=4), st.just("q_proj")
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
CONFIGS = st.fixed_dictionaries(
    {"peft_type": st.sampled_from(["LORA", "LORA", "LORA", "IA3", "LOHA"]) | VALUES},
    optional=dict.fromkeys(
        (*OPTIONS, "use_rslora", "fan_in_fan_out", "init_lora_weights", "use_dora"), VALUES
    ),
)
MODULE = "layers.0.q_proj"
PARTS = st.dictionaries(
    st.sampled_from(
        [
            *(f"{MODULE}.{part}" for part in ("lora_A.weight", "lora_B.weight", "lora_B.bias", "weight")),
            *(f"{MODULE}.{part}" for part in ("lora_magnitude_vector", "hada_w1_a", "ia3_l")),
            *(f"embed_tokens.lora_embedding_{factor}" for factor in "AB"),
            "embed_tokens.token_adapter.trainable_tokens_delta",
            "score.weight",
            "lm_head.weight",
        ]
    ),
    st.lists(st.sampled_from([1, 2, 4, 6]), min_size=1, max_size=3),
    min_size=1,
    max_size=5,
)
USUAL = st.just({f"{MODULE}.lora_A.weight": [2, 4], f"{MODULE}.lora_B.weight": [4, 2]})


def check_adapter(given: tuple[dict[str, Any], dict[str, list[int]]]) -> None:
    config, shapes = given
    with tempfile.TemporaryDirectory() as folder:
        base, adapter = Path(folder) / "base", Path(folder) / "adapter"
        for path in (base, adapter):
            path.mkdir()
        (base / "config.json").write_text('{"num_hidden_layers": 1}')
        save_file(
            {f"{MODULE}.weight": torch.ones(4, 4), "embed_tokens.weight": torch.ones(6, 4)},
            base / "model.safetensors",
        )
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        tensors = {f"base_model.model.{name}": torch.ones(shape) for name, shape in shapes.items()}
        save_file(tensors, adapter / "adapter_model.safetensors")
        opened = open_checkpoint(str(base))
        try:
            adapted = open_adapter(opened, str(adapter))
        except CheckpointError as error:
            assert in_words(error)
            return
        for name, header in adapted.tensors.items():
            adapted.read_into(name, 0, memoryview(bytearray(header.nbytes)))
        adapted.close()


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "LORA", "lora_alpha": None, "r": None},
        {"peft_type": "LORA", "lora_alpha": 1e400},
        {"peft_type": "LORA", "alpha_pattern": {"q_proj": 10**400}},
    ],
)
def test_numbers_of_an_adapter(config: dict[str, Any]) -> None:
    check_adapter((config, {f"{MODULE}.lora_A.weight": [2, 4], f"{MODULE}.lora_B.weight": [4, 2]}))


def test_an_adapter_of_no_tokens() -> None:
    config = {"peft_type": "TRAINABLE_TOKENS", "token_indices": []}
    check_adapter((config, {"embed_tokens.token_adapter.trainable_tokens_delta": [0, 4]}))


@pytest.mark.parametrize("examples", LENGTHS)
def test_adapters(examples: int) -> None:
    fuzz(check_adapter, st.tuples(CONFIGS, USUAL | PARTS), examples)


# -- configs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[" * MAX_DEPTH + "]" * MAX_DEPTH, '{"a": [1, {"b": "\\u00e9"}]}'])
def test_json_that_is_read(text: str) -> None:
    assert parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        "[" * 100_000 + "]" * 100_000,
        '"\\ud800"',
        "{",
        "1" * 5000,
    ],
)
def test_json_that_is_not(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_json(text.encode())
