"""What every view over a checkpoint must do.

A new one needs an entry in `CASES`, and one of `VIEWS` a model in `MODELS`.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import checkpoints
from checkpoints import Checkpoint, LocatedCheckpoint, locate, open_checkpoint, open_located
from checkpoints.aligned import AlignedCheckpoint, Alignment, Rows
from checkpoints.dtypes import itemsize, torch_name
from checkpoints.loading import Part
from checkpoints.quantized.dequantized import DequantizedCheckpoint
from checkpoints.renamed import Assembled, RenamedCheckpoint
from checkpoints.repositories.folder import Folder
from checkpoints.stored import read_headers
from checkpoints.view import View
from checkpoints.views import VIEWS


def model(folder: Path, seed: int = 0) -> Path:
    """A folder with an embedding (6, 4), a matrix (3, 5), and vectors (2,) and (4,)."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"embedding": (6, 4), "matrix": (3, 5), "vector": (2,), "norm": (4,)}
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def in_fp8(folder: Path) -> Path:
    model(folder)
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "plain": torch.randn(4, generator=draw),
        "packed": torch.randn(40, 24, generator=draw).to(torch.float8_e4m3fn),
        "packed_scale": torch.rand(40, 1, generator=draw) + 0.01,
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "fp8"}}))
    return folder


# By the name of a view that models are opened under: a model that it changes.
MODELS: dict[str, Callable[[Path], Path]] = {"dequantized": in_fp8}


def aligned(tmp_path: Path) -> View:
    """Rows in another order, an average, zeros, a row of another model, and padding."""
    own, other = (read_headers(Folder(model(tmp_path / str(seed), seed))) for seed in range(2))
    rows = Rows(2, ((0, 3),)), Rows(1, ((0, 0), (1, 5))), Rows(1, ()), Rows(2, ((1, 1),))
    names = {"embedding": ("embedding", "embedding")}
    return AlignedCheckpoint(own, Alignment(rows, 2, names), (own, other))


def renamed(tmp_path: Path) -> View:
    """A tensor under another name, and one of the pieces of two."""
    own = read_headers(Folder(model(tmp_path / "own")))
    pieces = Part("embedding", 8, 10), Part("matrix", 3, 2)
    new = {"bias": Assembled((2,), (Part("vector", 0, 2),)), "joined": Assembled((3, 4), pieces)}
    return RenamedCheckpoint(own, new)


def dequantized(tmp_path: Path) -> View:
    found = open_checkpoint(str(in_fp8(tmp_path / "own")))
    assert isinstance(found, View)
    return found


CASES: dict[type[View], Callable[[Path], View]] = {
    AlignedCheckpoint: aligned,
    DequantizedCheckpoint: dequantized,
    RenamedCheckpoint: renamed,
}


@pytest.fixture(params=CASES.values(), ids=lambda case: str(case.__name__))
def view(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[View]:
    with closing(request.param(tmp_path)) as opened:
        yield opened


def content(checkpoint: Checkpoint, name: str, start: int = 0, end: int | None = None) -> bytes:
    """Bytes of a tensor."""
    buffer = bytearray((checkpoint.tensors[name].nbytes if end is None else end) - start)
    checkpoint.read_into(name, start, memoryview(buffer))
    return bytes(buffer)


def whole(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {name: content(checkpoint, name) for name in checkpoint.tensors}


def test_every_view_is_here() -> None:
    for module in pkgutil.walk_packages(checkpoints.__path__, "checkpoints."):
        importlib.import_module(module.name)
    found = {one for one in View.__subclasses__() if one.__module__.startswith("checkpoints.")}
    assert found == CASES.keys()
    assert [view.__name__ for view in VIEWS] == [*MODELS]


def test_headers_say_what_is_read(view: View) -> None:
    for name, header in view.tensors.items():
        assert header.name == name
        assert header.nbytes == header.elements * itemsize(header.dtype) == len(content(view, name))
        assert view.bytes_to_read(name) > 0


def test_pieces_make_the_whole(view: View) -> None:
    draw = random.Random(0)
    for name, header in view.tensors.items():
        expected, width = content(view, name), itemsize(header.dtype)
        for _ in range(20):
            cuts = sorted({0, header.elements, *draw.choices(range(header.elements + 1), k=3)})
            parts = [content(view, name, first * width, last * width) for first, last in pairwise(cuts)]
            assert b"".join(parts) == expected, (name, cuts)


def test_several_threads_read_the_same(view: View) -> None:
    expected = whole(view)
    with ThreadPoolExecutor(8) as pool:
        names = [*view.tensors] * 20
        assert list(pool.map(lambda name: content(view, name), names)) == [expected[name] for name in names]


def test_what_it_does_not_change_is_the_checkpoints_own(view: View) -> None:
    kept = [name for name, header in view.tensors.items() if view.own.tensors.get(name) == header]
    assert kept
    for name in kept:
        assert content(view, name) == content(view.own, name)
        assert view.bytes_to_read(name) == view.own.bytes_to_read(name)
        assert [*view.own_names([name])] == [name]
    assert (view.name, view.version, view.files) == (view.own.name, view.own.version, view.own.files)
    assert view.read_file("config.json") == view.own.read_file("config.json")
    assert view.read_by == {"folder"} and not view.is_remote and view.is_folder


def test_a_tensor_is_read_from_the_tensors_that_the_view_names(
    view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    inner = view.own.read_into
    monkeypatch.setattr(view.own, "read_into", lambda name, *rest: (read.add(name), inner(name, *rest))[1])
    for name in view.tensors:
        read.clear()
        content(view, name)
        named = {*view.own_names([name])}
        assert read <= named <= view.own.tensors.keys(), name


def test_it_closes_the_checkpoint(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(view.own, "close", lambda: calls.append("close"))
    monkeypatch.setattr(view.own, "interrupt", lambda: calls.append("interrupt"))

    view.interrupt()
    view.close()

    assert calls == ["interrupt", "close"]


@pytest.mark.parametrize("name", MODELS)
def test_models_are_opened_under_it_here_and_elsewhere(name: str, tmp_path: Path) -> None:
    [apply] = [one for one in VIEWS if one.__name__ == name]
    folder = str(MODELS[name](tmp_path / "model"))
    stored, plain = (read_headers(Folder(made)) for made in (Path(folder), model(tmp_path / "plain")))

    assert isinstance(apply(stored), View)
    assert apply(plain) is plain
    with closing(open_checkpoint(folder)) as found:
        expected = whole(found)
        assert expected == whole(apply(stored))
        for asked in ([*expected], *([one] for one in expected)):
            sent = LocatedCheckpoint.from_json(locate(found, asked).to_json())
            with closing(open_located(sent, None)) as again:
                assert {one: content(again, one) for one in asked} == {one: expected[one] for one in asked}
                assert {one: again.tensors[one] for one in asked} == {
                    one: found.tensors[one] for one in asked
                }


@pytest.mark.parametrize("name", MODELS)
def test_a_result_is_not_changed_once_more(name: str, tmp_path: Path) -> None:
    """What is written of a model under the view, with the config that it shows, reads as it was."""
    with closing(open_checkpoint(str(MODELS[name](tmp_path / "model")))) as found:
        expected, headers, config = whole(found), found.tensors, found.config
    (tmp_path / "result").mkdir()
    dtypes = {one: getattr(torch, torch_name(header.dtype)) for one, header in headers.items()}
    tensors = {
        one: torch.frombuffer(bytearray(data), dtype=dtypes[one]).view(headers[one].shape)
        for one, data in expected.items()
    }
    save_file(tensors, tmp_path / "result" / "model.safetensors")
    (tmp_path / "result" / "config.json").write_text(json.dumps(config))

    with closing(open_checkpoint(str(tmp_path / "result"))) as again:
        assert whole(again) == expected
