"""GGUF files beside those of llama.cpp's own converter and quantizer: every byte of every tensor, every key."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.models import BASE, model_folder
from merging import make_plan, read_recipe, run_plan
from merging.gguf.types import FILE_TYPES
from tests import llama_cpp
from tests.merging.gguf.models import FAMILIES, OF_BYTES, keys, ours, tensors, theirs, tiny
from tests.tiny import tiny_llama

TEXTS = ("the cat and a thin hat", "in 1024 or 3,14", "안녕하세요 세계", "a thin hat</s>", "éß\n\t☃")
# Families, widths and layers: few layers take seconds.
SAMPLE = [("llama", 256, 4), ("mixtral-of-8", 576, 2)]
ALL = [(family, width, 9) for family in FAMILIES for width in (256, 576)]
# The type of the file, which is compared apart, and what our card says of the model.
OTHER = {"general.file_type", "general.tags"}


def same(model: Path, tmp_path: Path, *types: str) -> None:
    """Our files of a model are llama.cpp's."""
    made = ours(model, tmp_path / "model-GGUF", *types)
    known = theirs(model, tmp_path / "theirs", "model", *types)
    for kind in types:
        file = made / f"model-{kind}.gguf"
        if kind in known:
            found, expected = tensors(file), tensors(known[kind])
            assert found.keys() == expected.keys()
            for name in found:
                assert found[name][:2] == expected[name][:2], (kind, name)
                assert found[name][2] == expected[name][2], (kind, name, found[name][0])
            own, other = keys(file), keys(known[kind])
            assert own["general.file_type"] == FILE_TYPES[kind].number
            assert {k: v for k, v in own.items() if k not in OTHER} == {
                k: v for k, v in other.items() if k not in OTHER
            }


@llama_cpp.needs_llama_cpp
@pytest.mark.parametrize(
    ("family", "width", "layers"), [*SAMPLE, *(pytest.param(*one, marks=pytest.mark.nightly) for one in ALL)]
)
def test_every_byte_is_llama_cpps(family: str, width: int, layers: int, tmp_path: Path) -> None:
    model = tiny(tmp_path / "model", family, width, layers)
    same(model, tmp_path, *FILE_TYPES)


@llama_cpp.needs_llama_cpp
@pytest.mark.nightly
@pytest.mark.real_models
@pytest.mark.parametrize("family", OF_BYTES)
def test_families_of_byte_level_tokens_are_llama_cpps(family: str, tmp_path: Path) -> None:
    """Mixtures of experts among them; the tokenizer is SmolLM2's, which the converter knows."""
    model = tiny(tmp_path / "model", family, 256, 2, vocab_size=49152)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_folder(BASE) / name, model / name)

    same(model, tmp_path, "BF16", "Q8_0", "Q4_K_M")


@llama_cpp.needs_llama_cpp
@pytest.mark.nightly
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_are_quantized_from_what_they_hold(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny(tmp_path / "model", "llama", 256, 2, dtype)
    same(model, tmp_path, "Q8_0", "Q4_K_M", "F16")


@llama_cpp.needs_llama_cpp
@pytest.mark.nightly
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_shape_of_a_70b_has_its_own_rules(family: str, tmp_path: Path) -> None:
    model = tiny(tmp_path / "model", family, 256, 80)
    same(model, tmp_path, "Q4_K_M", "Q3_K_M")


@llama_cpp.needs_llama_cpp
def test_tokens_and_answers_are_those_of_transformers(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", "llama", 256, 2)
    made = ours(folder, tmp_path / "model-GGUF", "BF16", "Q8_0")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer(TEXTS[0])["input_ids"]
    with torch.inference_mode():
        expected = torch.log_softmax(model(torch.tensor([prompt])).logits[0], -1).numpy()

    divergence = {}
    for kind in ("BF16", "Q8_0"):
        with llama_cpp.loaded(made / f"model-{kind}.gguf") as native:
            for text in TEXTS:
                assert native.tokens(text, special=True) == tokenizer(text)["input_ids"], text
            found = torch.log_softmax(torch.from_numpy(native.logits(prompt)), -1).numpy()
        divergence[kind] = float((np.exp(expected) * (expected - found)).sum(-1).mean())

    assert divergence["BF16"] < 1e-3
    assert divergence["Q8_0"] < 1e-2


@llama_cpp.needs_llama_cpp
@pytest.mark.real_models
def test_a_union_keeps_the_name_of_how_a_parent_splits_texts(tmp_path: Path) -> None:
    """A token that a parent added occurs in the text by which llama.cpp knows tokenizers."""
    own = model_folder(BASE)
    for name, added in (("a", []), ("b", ["工作", "조약돌"])):
        tokenizer = AutoTokenizer.from_pretrained(own)
        tokenizer.add_tokens(added)
        tokenizer.save_pretrained(tmp_path / name)
        tiny_llama(tmp_path / name, 0, vocab_size=len(tokenizer))
    models = "".join(f"  - model: {tmp_path / name}\n    parameters: {{weight: 1}}\n" for name in "ab")
    text = f"merge_method: linear\nmodels:\n{models}tokenizer: {{source: union}}\n"
    plan = make_plan(read_recipe(text))
    assert plan.problems == ()

    run_plan(plan, str(tmp_path / "out"), gguf=["BF16"])

    file = tmp_path / "out-GGUF" / "out-BF16.gguf"
    assert keys(file)["tokenizer.ggml.pre"] == "smollm"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    with llama_cpp.loaded(file) as native:
        for text in (*TEXTS, "我想在apple工作1314151天 조약돌", "<|im_start|>user\nHi<|im_end|>"):
            assert native.tokens(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text
