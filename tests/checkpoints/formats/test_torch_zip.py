"""Pickled checkpoints: read like safetensors, and never run."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from checkpoints import Checkpoint, open_checkpoint
from checkpoints.formats.pickled import PickleError, read_pickle
from checkpoints.problems import Problem
from merging import CheckpointError, make_plan, read_recipe, run_plan
from tests.hub import Hub
from tests.tiny import tiny_llama

BIN = "pytorch_model.bin"


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models in safetensors, and the same as pickles: in one file with its tied head, and in two with an index."""
    folder = tmp_path_factory.mktemp("models")
    base = tiny_llama(folder / "base", 0)
    tiny_llama(folder / "a", 1, base)
    for name in ("base", "a"):
        weights = load_file(folder / name / "model.safetensors")
        pickled = folder / f"{name}-pickled"
        pickled.mkdir()
        (pickled / "config.json").write_text((folder / name / "config.json").read_text())
        if name == "base":
            state = OrderedDict(weights) | {"lm_head.weight": weights["model.embed_tokens.weight"]}
            state._metadata = OrderedDict({"": {"version": 1}})  # as module.state_dict() has it
            torch.save(state, pickled / BIN)
            continue
        names = sorted(weights)
        parts = {"one.bin": names[::2], "two.bin": names[1::2]}
        for part, own in parts.items():
            torch.save({name: torch.nn.Parameter(weights[name]) for name in own}, pickled / part)
        where = {name: part for part, own in parts.items() for name in own}
        (pickled / f"{BIN}.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def recipe(place: Path | str, suffix: str) -> str:
    models = [{"model": f"{place}/a{suffix}", "parameters": {"weight": 0.3}}]
    base = f"{place}/base{suffix}"
    return yaml.safe_dump({"merge_method": "task_arithmetic", "base_model": base, "models": models})


def merged(text: str, to: Path, token: str | None = None) -> bytes:
    plan = make_plan(read_recipe(text), token=token)
    assert plan.problems == ()
    run_plan(plan, str(to), token=token)
    return (to / "model.safetensors").read_bytes()


def test_a_pickled_model_merges_to_the_bytes_of_its_twin(twins: Path, tmp_path: Path, hub: Hub) -> None:
    token = hub.add_user("alice")
    for name in ("base-pickled", "a-pickled"):
        hub.put(f"alice/{name}", twins / name, private=True)
    expected = merged(recipe(twins, ""), tmp_path / "safetensors")

    assert merged(recipe(twins, "-pickled"), tmp_path / "folder") == expected
    assert merged(recipe("alice", "-pickled"), tmp_path / "hub", token) == expected


def model_of(folder: Path, state: Any, **save: Any) -> Path:
    (folder / "config.json").write_text("{}")
    torch.save(state, folder / BIN, **save)
    return folder


def values(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> torch.Tensor:
    header = checkpoint.tensors[name]
    buffer = bytearray(header.nbytes)
    checkpoint.read_into(name, 0, memoryview(buffer))
    return torch.frombuffer(buffer, dtype=dtype).view(header.shape)


def test_tensors_of_all_kinds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    floats = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    integers = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
    state = {str(dtype): (torch.rand(3, 5) * 100).to(dtype) for dtype in floats + integers}
    state["scalar"] = torch.tensor(2.5)
    state["part of a storage"] = torch.arange(100.0)[10:30].view(4, 5)
    state["one row"] = torch.arange(100.0).view(10, 10).T[:, :1].T
    state["of memory that it shares"] = state["part of a storage"][1:3]

    checkpoint = open_checkpoint(str(model_of(tmp_path, state)))

    assert checkpoint.tensors.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(values(checkpoint, name, tensor.dtype), tensor), name


def test_safetensors_are_preferred(twins: Path, tmp_path: Path) -> None:
    for file in (twins / "a").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / BIN).write_bytes(b"never looked at")

    assert {tensor.file for tensor in open_checkpoint(str(tmp_path)).tensors.values()} == {
        "model.safetensors"
    }


def test_a_large_file_is_opened_with_two_requests(tmp_path: Path, hub: Hub) -> None:
    token = hub.add_user("alice")
    state = {f"layer.{i}": torch.zeros(300, 100) for i in range(300)}
    hub.put("alice/large", model_of(tmp_path, state))
    hub.log.clear()

    checkpoint = open_checkpoint("alice/large", token=token)

    assert sum(header.elements for header in checkpoint.tensors.values()) == 300 * 300 * 100
    assert len(hub.log.find("GET", f"^/lfs/.*{BIN}")) == 2
    assert hub.log.bytes_out("^/lfs/") < 200_000 < (tmp_path / BIN).stat().st_size / 100
    checkpoint.close()


def test_a_file_that_was_zipped_again(tmp_path: Path) -> None:
    """Its entries are not aligned, and each has to be looked at."""
    weight = torch.rand(5, 7)
    model_of(tmp_path, {"w": weight})
    with zipfile.ZipFile(tmp_path / BIN) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / BIN, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)

    assert torch.equal(values(open_checkpoint(str(tmp_path)), "w", torch.float32), weight)


# -- what is refused -----------------------------------------------------------------------------------------


class Evil:
    """Runs something when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class EvilState:
    """Runs something by its state."""

    def __reduce__(self) -> Any:
        return OrderedDict, (), {"x": Evil(os.mkdir, "pwned")}


def refused(folder: Path, what: str) -> None:
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(str(folder))
    assert what in str(error.value)
    assert "safetensors/convert" in str(error.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_code_in_a_pickle_is_not_run(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for evil, what in (
        (Evil(os.mkdir, "pwned"), f"it asks for {os.name}.mkdir"),
        (Evil(eval, "__import__('os').mkdir('pwned')"), ".eval"),
        (EvilState(), "mkdir"),
        (Evil(getattr, os, "mkdir"), "it asks for"),
    ):
        try:
            model_of(tmp_path, {"weight": torch.zeros(2), "evil": evil}, pickle_protocol=protocol)
        except (TypeError, pickle.PicklingError):
            continue  # a module itself cannot be pickled
        refused(tmp_path, what)
        assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cos\nsystem\n(S'mkdir pwned'\ntR.",
        b"(S'mkdir pwned'\nios\nsystem\n.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02ctorch\nFloatStorage\n)\x81.",
        b"\x80\x02ccollections\nOrderedDict\n)R}(X\x01\x00\x00\x00aK\x01udb.",
        b"\x80\x02ccollections\nOrderedDict\n}b.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02\x82\x01.",
        b"",
        b".",
        b"\x80\x02}",
        b"\x80\x02h\x07.",
        b"\x80\x02X\xff\xff\xff\x7fa.",
        b"\x80\x02K\x01K\x02s.",
        b"\x80\x02t.",
    ],
)
def test_pickles_that_are_not_of_tensors(opcodes: bytes) -> None:
    with pytest.raises(PickleError):
        read_pickle(opcodes)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_pickle_never_does_more_than_fail(data: st.DataObject) -> None:
    good = pickle.dumps(OrderedDict({"a": (1, [2, {"b": None}])}), 2)
    where = data.draw(st.integers(0, len(good) - 1))
    damaged = (
        good[:where] + data.draw(st.binary(max_size=8)) + good[data.draw(st.integers(where, len(good))) :]
    )
    try:
        read_pickle(damaged)
    except PickleError as error:
        assert "its pickle" in Problem(error.code, {"file": "x", **error.values}).message


def test_a_pickle_of_before_torch_1_6(tmp_path: Path) -> None:
    refused(
        model_of(tmp_path, {"w": torch.zeros(2)}, _use_new_zipfile_serialization=False),
        "older than torch 1.6",
    )


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    whole = (model_of(tmp_path, {"w": torch.zeros(1000)}) / BIN).read_bytes()
    for end in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / BIN).write_bytes(whole[:end])
        refused(tmp_path, "cut short")


def rewritten(folder: Path, change: Callable[[str, bytes], bytes], **options: Any) -> Path:
    with zipfile.ZipFile(folder / BIN) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / BIN, "w", **options) as archive:
        for name, data in content.items():
            archive.writestr(name, change(name, data))
    return folder


def test_archives_that_are_not_torchs(tmp_path: Path) -> None:
    model_of(tmp_path, {"w": torch.zeros(1000)})
    original = (tmp_path / BIN).read_bytes()

    refused(rewritten(tmp_path, lambda _, data: data, compression=zipfile.ZIP_DEFLATED), "is compressed")
    for change, what in (
        (lambda name, data: b"big" if name.endswith("byteorder") else data, "big-endian"),
        (lambda name, data: data[:-4] if name.endswith("data/0") else data, "the bytes of w are not in it"),
        (lambda name, data: b"\x80\x02K\x01." if name.endswith("data.pkl") else data, "no tensors by name"),
    ):
        (tmp_path / BIN).write_bytes(original)
        refused(rewritten(tmp_path, change), what)
    with zipfile.ZipFile(tmp_path / BIN, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path, "not a whole file of torch.save")


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ({"w": torch.zeros(3, 4).T}, "w in it is not contiguous"),
        ({"w": torch.zeros(1).expand(4)}, "w in it is not contiguous"),
        ({"w": torch.zeros(10)[::2]}, "w in it is not contiguous"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "it asks for torch.ComplexFloatStorage"),
        ({"w": torch.zeros(2, dtype=torch.float8_e4m3fn)}, "it asks for torch._utils._rebuild_tensor_v3"),
        ({"epoch": 3, "w": torch.zeros(2)}, "epoch in it is not a tensor"),
        ([torch.zeros(2)], "no tensors by name"),
        ({"w": torch.zeros(2).to_sparse()}, "it asks for torch._utils._rebuild_sparse_tensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_named(state: Any, what: str, tmp_path: Path) -> None:
    refused(model_of(tmp_path, state), what)
