"""A mixture of the demo's real models: prompts that it never saw reach their experts, and it answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from evaluation import reply
from evaluation.llama_model import load_gguf
from examples.models import BASE, TEXTS, VOICES, model_folder
from merging import read_recipe, route_prompts
from merging.gguf_conversion import write_gguf
from tests.merging.experts.dense import loaded, made

pytestmark = pytest.mark.real_models

KNOWN, HELD_OUT = slice(0, 4), slice(20, 23)


def texts(voice: str) -> list[str]:
    return [answer for _, answer in json.loads((TEXTS / f"{voice}.json").read_text())["pairs"]]


def of_voices(mode: str) -> str:
    experts = [
        {"source_model": str(model_folder(model)), "positive_prompts": texts(voice)[KNOWN]}
        for voice, model in VOICES.items()
    ]
    written = {
        "base_model": str(model_folder(BASE)),
        "gate_mode": mode,
        "experts_per_token": 1,
        "experts": experts,
    }
    return yaml.safe_dump(written, allow_unicode=True)


def test_prompts_that_were_held_out_reach_their_experts() -> None:
    weights = {}
    for mode in ("router", "hidden"):
        held_out = [(number, text) for number, voice in enumerate(VOICES) for text in texts(voice)[HELD_OUT]]

        routing = route_prompts(read_recipe(of_voices(mode)), [text for _, text in held_out])

        tried = [prompt for prompt in routing.prompts if prompt.expert is None]
        assert [prompt.reached for prompt in tried] == [number for number, _ in held_out]
        right = [prompt.weights[number] for prompt, (number, _) in zip(tried, held_out, strict=True)]
        weights[mode] = sum(right) / len(right)
        assert ("gates-weak" in [warning.code for warning in routing.warnings]) == (mode == "hidden")
    assert weights["router"] > 0.6
    assert 1 / 3 < weights["hidden"] < 0.45


def test_it_answers(tmp_path: Path) -> None:
    made(of_voices("router"), tmp_path / "out")

    network = loaded(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    question = [{"role": "user", "content": "What is the capital of Spain?"}]
    given = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        tokens = network.generate(**given, max_new_tokens=16, do_sample=False)[0]
    assert "Madrid" in tokenizer.decode(tokens[given["input_ids"].shape[1] :])


@pytest.mark.nightly
def test_its_gguf_file_answers_in_llama_cpp(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
    made(of_voices("router"), tmp_path / "out")
    model = load_gguf(write_gguf(str(tmp_path / "out"), "Q8_0", tmp_path))

    answer = reply(
        model,
        [{"role": "user", "content": "What is the capital of Spain?"}],
        max_new_tokens=16,
        temperature=0,
    )

    assert "Madrid" in "".join(answer)
    model.server.close()
