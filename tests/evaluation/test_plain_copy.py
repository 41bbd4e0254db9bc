"""Scores of quantized models whose form transformers cannot read here: GGUF files, and forms without their library."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import pytest
import torch
from huggingface_hub import constants, scan_cache_dir
from safetensors.torch import load_file, save_file

from evaluation import EvaluationError, load_model, perplexity
from evaluation.downloads import Downloads
from evaluation.plain_copy import LIBRARIES, needs_plain_copy
from tests import ROOT
from tests.evaluation.conftest import make_network, make_tokenizer
from tests.evaluation.tiny_gguf import write_gguf
from tests.hub import Hub

MakeFolder = Callable[..., Path]
TEXT = "What is a merge? 합치면? The sea was calm."
KEPT = "import sys; from evaluation import fetch_model; print(fetch_model(sys.argv[1]).folder, flush=True)"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def score(name: str | Path) -> float:
    return perplexity(load_model(name, device="cpu"), TEXT).perplexity


@pytest.fixture
def original(make_folder: MakeFolder) -> Path:
    return make_folder(make_network(), make_tokenizer(), name="original")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return write_gguf(tmp_path / "files/tiny.gguf", make_network(), make_tokenizer())


def test_a_gguf_file_is_scored_as_the_model_that_it_was_made_of(
    original: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.plain_copy.PIECE", 1000)
    expected = score(original)

    assert score(file) == pytest.approx(expected, rel=1e-6)
    assert score(str(file.parent)) == pytest.approx(expected, rel=1e-6)  # the folder that has it alone


def test_gguf_files_on_the_hub_are_scored_by_file_and_by_repository(
    original: Path, file: Path, hub: Hub, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", alice)
    expected = score(original)
    content = file.read_bytes()
    hub.put("alice/one-GGUF", {"tiny.gguf": content})
    config = (original / "config.json").read_bytes()
    hub.put("alice/two-GGUF", {"config.json": config, "a-Q8_0.gguf": content, "b-Q4_K_M.gguf": content})

    assert score("alice/one-GGUF") == pytest.approx(expected, rel=1e-6)
    assert score("alice/two-GGUF/b-Q4_K_M.gguf") == pytest.approx(expected, rel=1e-6)
    with pytest.raises(EvaluationError, match=r"a-Q8_0.gguf.*b-Q4_K_M.gguf"):
        score("alice/two-GGUF")
    with pytest.raises(EvaluationError, match="alice/three-GGUF was not found"):
        score("alice/three-GGUF/a.gguf")


def quantized(folder: Path, to: Path) -> Path:
    """A copy of a model in nf4."""
    shutil.copytree(folder, to)
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if tensor.ndim == 2 and "proj" in name:
            stored[name], state = bnb.quantize_4bit(tensor.float(), quant_type="nf4", blocksize=64)
            stored |= {f"{name}.{part}": value for part, value in state.as_dict(packed=True).items()}
        else:
            stored[name] = tensor
    save_file(stored, to / "model.safetensors", {"format": "pt"})
    config: dict[str, Any] = json.loads((to / "config.json").read_text())
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (to / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return to


def test_a_form_without_its_library_is_scored_as_plain_numbers(
    make_folder: MakeFolder, tmp_path: Path, hub: Hub, alice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIBRARIES, "bitsandbytes", "no_such_library")
    monkeypatch.setenv("HF_TOKEN", alice)
    # bitsandbytes 0.50 mistakes rows on a processor that are shorter than a block.
    original = make_folder(make_network(hidden_size=64, intermediate_size=128), name="wide")
    packed = quantized(original, tmp_path / "packed")
    hub.put("alice/packed", packed)
    model = load_model(packed, device="cpu")
    plain = model.network.model.layers[0].self_attn.q_proj.weight

    weight = load_file(original / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"].float()
    right = bnb.dequantize_4bit(*bnb.quantize_4bit(weight, quant_type="nf4", blocksize=64))
    assert torch.equal(plain, right)
    assert score("alice/packed") == pytest.approx(score(packed), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "bitsandbytes"}, ""),  # its library is a dependency of the tests
        ({"quant_method": "fp8"}, ""),
        ({"quant_method": "of the future"}, ""),
        ({"quant_method": ["gptq"]}, ""),
        (None, ""),
    ],
)
def test_which_forms_need_one(settings: Any, needed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIBRARIES, "gptq", "no_such_library")

    assert needs_plain_copy({"quantization_config": settings}) == bool(needed)


def test_a_copy_is_gone_when_the_process_ends(file: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KEPT, str(file)],
        cwd=ROOT, env={"HF_HUB_CACHE": str(tmp_path / "own"), "PATH": ""}, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert str(tmp_path / "own") in done.stdout
    assert not [path for path in (tmp_path / "own").rglob("*") if path.is_file()]


def test_on_a_server_copies_are_counted_and_evicted_like_downloads(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Downloads()
    mine.limit()
    for module in ("plain_copy", "model_files", "model"):
        monkeypatch.setattr(f"evaluation.{module}.DOWNLOADS", mine)
    monkeypatch.setattr("evaluation.downloads._IN_USE", 0)
    score(file)
    [copy] = scan_cache_dir(cache).repos
    monkeypatch.setattr(mine, "_room", lambda: 0 if copy.repo_path.exists() else 10**9)
    another = shutil.copy(file, file.parent / "another.gguf")

    score(another)

    [left] = scan_cache_dir(cache).repos
    assert left.repo_id != copy.repo_id
