"""Which GGUF files are a model, and what a config and a tokenizer beside them count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from checkpoints import open_checkpoint
from checkpoints.problems import CheckpointError
from tests.checkpoints.gguf.written import LLAMA, write_gguf
from tests.hub import Hub

EMBEDDING = {"token_embd.weight": ("F32", np.arange(8 * 32, dtype=np.float32).reshape(8, 32))}
UP = {"blk.0.ffn_up.weight": ("F32", np.arange(3 * 32, dtype=np.float32).reshape(3, 32))}
TOKENS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "<end>", "[PAD4]", "[PAD5]"],
    "tokenizer.ggml.token_type": [1, 1, 1, 3, 5, 5],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 3,
    "tokenizer.ggml.eot_token_id": 2,
}


def refusal(place: Path | str) -> Any:
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(str(place))
    [problem] = refused.value.problems
    return problem


def read(checkpoint: Any, name: str) -> torch.Tensor:
    buffer = bytearray(checkpoint.tensors[name].nbytes)
    checkpoint.read_into(name, 0, memoryview(buffer))
    return torch.frombuffer(buffer, dtype=torch.float32)


def test_of_several_models_the_largest_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a-Q8_0.gguf", EMBEDDING)
    write_gguf(tmp_path / "a-BF16.gguf", EMBEDDING | UP)
    write_gguf(tmp_path / "mmproj-a.gguf", EMBEDDING | UP)
    write_gguf(tmp_path / "a.imatrix.gguf", EMBEDDING | UP)

    problem = refusal(tmp_path)

    assert problem.code == "several-gguf"
    assert problem.values["files"] == {"first": ["a-BF16.gguf", "a-Q8_0.gguf"], "more": 0}
    assert problem.values["file"] == "a-BF16.gguf"
    assert open_checkpoint(str(tmp_path / "a-BF16.gguf")).tensors.keys() == {
        "model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight",
    }


@pytest.mark.parametrize("place", ["", "/BF16", "/BF16/a-00001-of-00002.gguf", "/BF16/a-00002-of-00002.gguf"])
def test_the_parts_of_a_model_are_read_as_one(place: str, hub: Hub, tmp_path: Path) -> None:
    write_gguf(tmp_path / "1.gguf", EMBEDDING)
    write_gguf(tmp_path / "2.gguf", UP, {})
    parts = {f"BF16/a-0000{n}-of-00002.gguf": (tmp_path / f"{n}.gguf").read_bytes() for n in (1, 2)}
    hub.add_user("ann")
    hub.put("ann/big-GGUF", parts)

    checkpoint = open_checkpoint(f"ann/big-GGUF{place}", token=False)

    assert torch.equal(read(checkpoint, "model.embed_tokens.weight"), torch.arange(256.0))
    assert torch.equal(read(checkpoint, "model.layers.0.mlp.up_proj.weight"), torch.arange(96.0))
    checkpoint.close()


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a-00001-of-00002.gguf", EMBEDDING)

    problem = refusal(tmp_path)

    assert (problem.code, problem.values["file"]) == ("missing-shard", "a-00002-of-00002.gguf")


def test_other_weights_come_first(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", EMBEDDING)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")

    assert open_checkpoint(str(tmp_path)).tensors.keys() == {"x"}


def test_a_config_beside_it_counts_if_it_is_the_models(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", EMBEDDING)
    own = open_checkpoint(str(tmp_path)).config
    (tmp_path / "config.json").write_text(json.dumps({**own, "more": 1, "dtype": "float16"}))
    beside = open_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**own, "more": 1, "hidden_size": 3}))

    assert beside.config == {**own, "more": 1, "dtype": "float16"}
    assert beside.tensors["model.embed_tokens.weight"].rounds_to == "F16"
    assert open_checkpoint(str(tmp_path)).config == own


def test_the_tokenizer_is_written_as_data(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", EMBEDDING, metadata=TOKENS)

    checkpoint = open_checkpoint(str(path))

    document = json.loads(checkpoint.read_file("tokenizer.json"))
    assert document["model"]["vocab"] == {"a": 0, "b": 1, "ab": 2, "<end>": 3}
    assert document["model"]["merges"] == [["a", "b"]]
    assert [(token["id"], token["special"]) for token in document["added_tokens"]] == [(3, True)]
    assert json.loads(checkpoint.read_file("generation_config.json")) == {"eos_token_id": [3, 2]}
    assert json.loads(checkpoint.read_file("tokenizer_config.json"))["eos_token"] == "<end>"


@pytest.mark.parametrize("changes", [{"pre": "unheard-of"}, {"model": "rwkv"}, {"tokens": ["a", "a"]}])
def test_a_tokenizer_that_cannot_be_rebuilt_is_left_out(changes: dict[str, Any], tmp_path: Path) -> None:
    metadata = TOKENS | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    path = write_gguf(tmp_path / "a.gguf", EMBEDDING, metadata=metadata)

    checkpoint = open_checkpoint(str(path))

    assert "tokenizer.json" not in checkpoint.files
    assert [problem.code for problem in checkpoint.warnings] == ["gguf-tokenizer"]


NOT_UNDERSTOOD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "architecture": ({}, {"general.architecture": "bert"}, "architecture 'bert'"),
    "missing": ({"block_count": None}, {}, "block_count"),
    "unknown": ({"attention.strange": 1}, {}, "attention.strange"),
    "by layer": ({"attention.head_count": [4, 4]}, {}, "num_attention_heads"),
    "scaling": ({"rope.scaling.type": "longrope"}, {}, "longrope"),
    "partly rotated": ({"attention.key_length": 64, "rope.dimension_count": 32}, {}, "rope.dimension_count"),
}


@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
def test_what_a_config_could_not_say_is_refused(name: str, tmp_path: Path) -> None:
    """Else the result would be a model that computes something else."""
    changes, metadata, words = NOT_UNDERSTOOD[name]
    settings = {key: value for key, value in (LLAMA | changes).items() if value is not None}
    architecture = metadata.pop("general.architecture", "llama")
    path = write_gguf(tmp_path / "a.gguf", EMBEDDING, settings, metadata, architecture)

    problem = refusal(path)

    assert problem.code == "gguf-not-understood"
    assert words in problem.values["error"]


@pytest.mark.parametrize("name", ["blk.0.attn_strange.weight", "blk.0.attn_q.more.weight", "strange.weight"])
def test_a_tensor_without_a_name_in_transformers_is_refused(name: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", EMBEDDING | {name: UP["blk.0.ffn_up.weight"]})

    problem = refusal(path)

    assert problem.code == "unknown-quantization"
    assert name in problem.values["error"]


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "a.gguf", EMBEDDING)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    problem = refusal(path)

    assert problem.code == "gguf-not-installed"
    assert "alloy-merge[gguf]" in problem.fix
