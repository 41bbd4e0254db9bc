"""What every format must do. A new one needs a writer here, and passes all of this."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file

from checkpoints import Checkpoint, open_checkpoint
from checkpoints.dtypes import torch_name
from checkpoints.formats import FORMATS, format_of, read_tensors
from checkpoints.formats.format import Format
from checkpoints.problems import CheckpointError
from checkpoints.repositories.folder import Folder

Tensors = Mapping[str, torch.Tensor]

WRITERS: dict[str, Callable[[Tensors, Path], None]] = {
    "safetensors": lambda tensors, path: save_file(dict(tensors), path),
    "torch zip": lambda tensors, path: torch.save(dict(tensors), path),
}

each_format = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)


class Counting(Folder):
    """A folder that counts the bytes that are read from it."""

    count = 0

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        self.count += len(buffer)
        super().read_into(file, start, buffer)


def examples() -> Tensors:
    torch.manual_seed(0)
    return {
        "matrix": torch.randn(5, 3),
        "half": torch.randn(7).bfloat16(),
        "other half": torch.randn(2, 2).half(),
        "double": torch.randn(3).double(),
        "whole": torch.tensor([1, -2, 3]),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "nothing": torch.zeros(0, 4),
        "blocks.0.weight": torch.randn(2, 3, 4),
    }


def content(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    header = checkpoint.tensors[name]
    dtype = getattr(torch, torch_name(header.dtype))
    buffer = bytearray(header.nbytes)
    checkpoint.read_into(name, 0, memoryview(buffer))
    return (torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)).view(
        header.shape
    )


def test_every_format_has_a_writer_here_and_names_of_its_own() -> None:
    assert WRITERS.keys() == {form.name for form in FORMATS}
    suffixes = [suffix for form in FORMATS for suffix in form.suffixes]
    assert len(suffixes) == len(set(suffixes)) and all(suffix.startswith(".") for suffix in suffixes)
    for form in FORMATS:
        assert format_of(form.model) is format_of(form.adapter) is format_of(f"any{form.suffixes[0]}") is form
    assert format_of("config.json") is None


@each_format
def test_tensors_come_back_bit_for_bit(form: Format, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    WRITERS[form.name](examples(), tmp_path / form.model)

    checkpoint = open_checkpoint(str(tmp_path))

    assert checkpoint.tensors.keys() == examples().keys()
    for name, tensor in examples().items():
        header = checkpoint.tensors[name]
        assert (header.name, header.file, header.shape) == (name, form.model, tuple(tensor.shape))
        assert header.nbytes == tensor.nbytes
        found = content(checkpoint, name)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor), name


@each_format
def test_a_model_in_several_files_is_found_by_its_index(form: Format, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    where = {name: f"part-{number % 2}{form.suffixes[0]}" for number, name in enumerate(examples())}
    for file in set(where.values()):
        part = {name: tensor for name, tensor in examples().items() if where[name] == file}
        WRITERS[form.name](part, tmp_path / file)
    (tmp_path / form.index).write_text(json.dumps({"weight_map": where}))

    checkpoint = open_checkpoint(str(tmp_path))

    assert {name: header.file for name, header in checkpoint.tensors.items()} == where
    assert all(torch.equal(content(checkpoint, name), tensor) for name, tensor in examples().items())
    (tmp_path / where["matrix"]).unlink()
    with pytest.raises(CheckpointError, match=f"{where['matrix']}, which is missing"):
        open_checkpoint(str(tmp_path))


@each_format
def test_a_file_alone_is_a_checkpoint_without_a_config(form: Format, tmp_path: Path) -> None:
    path = tmp_path / f"weights{form.suffixes[-1]}"
    WRITERS[form.name](examples(), path)

    assert open_checkpoint(str(path)).tensors.keys() == examples().keys()


@each_format
def test_only_the_header_is_read(form: Format, tmp_path: Path) -> None:
    tensors = {f"layer.{number}": torch.zeros(300, 300) for number in range(10)}
    WRITERS[form.name](tensors, tmp_path / form.model)
    folder = Counting(tmp_path)

    headers = read_tensors(folder, form.model)

    assert headers.keys() == tensors.keys()
    assert 0 < folder.count < 150_000 < folder.files[form.model]


@each_format
@example(cut=0.999, byte=0.5, value=0)  # without a last byte of the tensors
@given(cut=st.floats(0, 0.999), byte=st.floats(0, 0.999), value=st.integers(0, 255))
def test_a_damaged_file_is_refused_or_read(
    form: Format, cut: float, byte: float, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One that was cut short is always refused; one with another byte may be, and never does anything else."""
    folder = tmp_path_factory.mktemp("damaged")
    WRITERS[form.name](examples(), folder / form.model)
    whole = (folder / form.model).read_bytes()

    (folder / form.model).write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(CheckpointError):
        read_tensors(Folder(folder), form.model)

    place = int(byte * len(whole))
    (folder / form.model).write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
    try:
        headers = read_tensors(Folder(folder), form.model)
    except CheckpointError:
        return
    assert all(header.start + header.nbytes <= len(whole) for header in headers.values())


def test_a_model_in_two_formats_is_read_in_the_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for form in FORMATS:
        WRITERS[form.name]({form.name: torch.zeros(1)}, tmp_path / form.model)

    assert open_checkpoint(str(tmp_path)).tensors.keys() == {FORMATS[0].name}
