"""What is too large, or no index, is refused in words before a plan is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from checkpoints import open_checkpoint, stored
from checkpoints.formats.header import MAX_AXES, MAX_TENSORS, TensorHeader
from checkpoints.formats.safetensors import MAX_MARKS, read_safetensors, write_header
from checkpoints.problems import CheckpointError

INDEX = "model.safetensors.index.json"


def model(folder: Path, shards: int = 2) -> Path:
    """A model of two tensors a shard."""
    (folder / "config.json").write_text("{}")
    places: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number}.safetensors"
        tensors = {f"{number}.{part}": torch.ones(2) for part in "ab"}
        save_file(tensors, folder / file)
        places |= dict.fromkeys(tensors, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return folder


def code_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(folder))
    [problem] = caught.value.problems
    assert str(problem)
    return problem.code


@pytest.mark.parametrize(
    ("limit", "code"),
    [("MAX_TENSORS", "too-many-tensors"), ("MAX_HEADER", "large-headers"), ("MAX_CONFIG", "large-file")],
)
def test_limits_hold_for_a_model_as_a_whole(
    limit: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model(tmp_path) / "config.json").write_text("{" + 500 * " " + "}")
    opened = open_checkpoint(str(tmp_path))
    tensors = sorted(opened.tensors.values(), key=lambda tensor: -tensor.start)
    headers = sum({tensor.file: tensor.start for tensor in tensors}.values())
    reached = {"MAX_TENSORS": len(opened.tensors), "MAX_HEADER": headers, "MAX_CONFIG": 502}[limit]
    monkeypatch.setattr(stored, limit, reached)
    assert len(open_checkpoint(str(tmp_path)).tensors) == 4
    monkeypatch.setattr(stored, limit, reached - 1)
    assert code_of(tmp_path) == code


TENSOR = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
LONG_HEADERS: dict[str, Callable[[], str]] = {
    "tensors": lambda: ",".join(f'"{number}":{TENSOR}' for number in range(MAX_TENSORS + 1)),
    "lists": lambda: f'"a":[{"[]," * (MAX_MARKS // 2)}[]]',
    "numbers": lambda: f'"a":[{"1," * MAX_MARKS}1]',
    "metadata": lambda: f'"__metadata__":{{{",".join([chr(34) * 2 + ":" + chr(34) * 2] * MAX_MARKS)}}}',
}


@pytest.mark.parametrize("kind", LONG_HEADERS)
def test_a_header_of_too_many_entries_is_not_parsed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.loads", None)
    header = f"{{{LONG_HEADERS[kind]()}}}".encode()
    data = len(header).to_bytes(8, "little") + header

    with pytest.raises(CheckpointError) as raised:
        read_safetensors("f", len(data), lambda start, nbytes: data[start : start + nbytes])

    [problem] = raised.value.problems
    assert problem.code == "long-header"
    assert "200,000" in problem.message


def test_a_header_of_the_most_tensors_and_axes_is_parsed() -> None:
    axes = [1] * MAX_AXES
    header = write_header([TensorHeader(str(n), "F32", tuple(axes), "", 0, 4) for n in range(1000)])

    assert sum(map(header.count, (b",", b"[", b"{"))) <= MAX_MARKS / MAX_TENSORS * 1000


@pytest.mark.parametrize(
    "content", [[], {}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": None}}]
)
def test_an_index_that_says_nothing_is_damaged(content: Any, tmp_path: Path) -> None:
    (model(tmp_path) / INDEX).write_text(json.dumps(content))

    assert code_of(tmp_path) == "damaged-index"


@pytest.mark.parametrize("file", ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"])
def test_a_part_of_a_model_is_no_model(file: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.ones(2)}, tmp_path / file)
    assert code_of(tmp_path) == "missing-part"

    for number in (1, 2, 3):
        save_file({str(number): torch.ones(2)}, tmp_path / f"model-0000{number}-of-00003.safetensors")

    assert set(open_checkpoint(str(tmp_path)).tensors) == {"1", "2", "3"}


def test_a_file_that_stands_for_another_one_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 9\n"
    (tmp_path / "model.safetensors").write_text(pointer)

    assert code_of(tmp_path) == "lfs-pointer"


@pytest.mark.parametrize(
    "config", ["[" * 1000 + "]" * 1000, '{"a": "\\ud800"}', "[]", '{"a": ' + "1" * 5000 + "}"]
)
def test_configs_that_are_none(config: str, tmp_path: Path) -> None:
    (model(tmp_path) / "config.json").write_text(config)

    assert code_of(tmp_path) in {"not-json", "damaged-config"}
