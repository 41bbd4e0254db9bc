"""A model that is written for llama.cpp answers there as it does in transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import alloy.__main__
from checkpoints.problems import MergeError
from evaluation import fetch_model, load_fetched, reply
from evaluation.answering_model import GenerationSettings
from evaluation.chat import chat_prompt
from evaluation.llama_model import LlamaModel, _request, load_gguf
from evaluation.runtime import load_to_answer
from examples.models import BASE, VOICES, model_folder
from merging.gguf_conversion import write_gguf
from tests.tiny import tiny_llama

for needed in ("xllamacpp", "conversion"):
    pytest.importorskip(needed, reason="the extra `llama` is not installed")

PROMPTS = ("What is the capital of Italy?", "Tell me about the sea.", "바다에 대해 말해 주세요.")


@pytest.mark.real_models
def test_the_demo_answers_in_bfloat16_as_in_transformers() -> None:
    fetched = fetch_model(model_folder(BASE))
    slow, quick = load_fetched(fetched, "cpu"), load_to_answer(fetched, "cpu", write_gguf=write_gguf)

    assert isinstance(quick, LlamaModel) and quick.runs_as == "BF16, llama.cpp"
    assert slow.dtype == "float32"
    for prompt in PROMPTS:
        ask = [{"role": "user", "content": prompt}]
        expected, said = (reply(model, ask, max_new_tokens=30, temperature=0) for model in (slow, quick))
        assert "".join(said) == "".join(expected)
        assert (said.prompt_tokens, said.new_tokens) == (expected.prompt_tokens, expected.new_tokens)


@pytest.mark.real_models
@pytest.mark.parametrize("voice", ["pirate", "korean"])
def test_answers_part_only_where_two_tokens_are_about_as_likely(voice: str) -> None:
    """llama.cpp rounds states to bfloat16 as well, so that a near tie may fall the other way."""
    fetched = fetch_model(model_folder(VOICES[voice]))
    slow, quick = load_fetched(fetched, "cpu"), load_to_answer(fetched, "cpu", write_gguf=write_gguf)

    for prompt in PROMPTS[1:]:
        text = chat_prompt(slow, [{"role": "user", "content": prompt}])
        tokens = slow.tokens(text)
        assert quick.tokens(text) == tokens
        settings = GenerationSettings(30, 0.0, 1.0, 0, ends=True)
        asked = {**_request(tokens, settings), "stream": False, "return_tokens": True}
        written = quick.server.ask("/completion", asked)["tokens"]
        with torch.inference_mode():
            logits = slow.network(torch.tensor([tokens + written])).logits[0, len(tokens) - 1 : -1]
        behind = logits.max(-1).values - logits[torch.arange(len(written)), torch.tensor(written)]
        assert behind.max() < 0.1, (prompt, behind)
        assert behind.count_nonzero() <= 2


@pytest.mark.real_models
def test_smaller_types_answer(tmp_path: Path) -> None:
    folder = str(model_folder(VOICES["pirate"]))
    for kind in ("Q8_0", "Q4_K_M"):
        (tmp_path / kind).mkdir()
        model = load_gguf(write_gguf(folder, kind, tmp_path / kind))
        answer = reply(
            model, [{"role": "user", "content": PROMPTS[0]}], max_new_tokens=20, temperature=0, ends=False
        )
        assert "".join(answer).strip() and answer.new_tokens == 20
        assert model.runs_as == f"{kind}, llama.cpp"
        model.server.close()


@pytest.mark.real_models
def test_alloy_chat_runs_llama_cpp(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(model_folder(VOICES["pirate"]))

    assert alloy.__main__.main(["chat", folder, "--new-tokens", "2", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["models"]
    assert found["ran_as"] == "BF16, llama.cpp"


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MergeError):
        write_gguf(str(tiny_llama(tmp_path / "no-tokenizer", 0)), "BF16", tmp_path)
