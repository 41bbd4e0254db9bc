"""How far a GGUF file is from its original: measured in llama.cpp, beside transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation import EvaluationError, LanguageModel, load_model
from evaluation.command_line import main
from evaluation.divergence import Divergence, _decoder, divergence, markdown
from tests.evaluation.conftest import MakeFolder, make_network, make_tokenizer
from tests.evaluation.tiny_gguf import write_gguf

pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")

TEXTS = [f"The sea was calm on day {day}, and the wind was fair. " * 12 for day in range(6)]


@pytest.fixture
def original(make_folder: MakeFolder) -> LanguageModel:
    return load_model(make_folder(make_network(max_position_embeddings=512)), device="cpu")


def gguf_of(model: LanguageModel, file: Path) -> Path:
    return write_gguf(file, model.network, make_tokenizer())


def test_logits_are_those_of_transformers(original: LanguageModel, tmp_path: Path) -> None:
    tokens = original.tokens(TEXTS[0])[:40]
    with _decoder(gguf_of(original, tmp_path / "same.gguf")) as decoder:
        whole, again = decoder(tokens), decoder(tokens[:10])

    # llama.cpp holds keys and values in float16.
    with torch.inference_mode():
        expected = original.network(torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(whole, expected, atol=0.03)
    np.testing.assert_allclose(again, expected[:10], atol=0.03)  # nothing is left of the text before


def test_the_same_weights_do_not_diverge_and_others_do(original: LanguageModel, tmp_path: Path) -> None:
    same = divergence(gguf_of(original, tmp_path / "same.gguf"), original, TEXTS)
    network = make_network(2, max_position_embeddings=512)
    other = divergence(write_gguf(tmp_path / "other.gguf", network, make_tokenizer()), original, TEXTS)

    assert same.tokens == other.tokens > 500
    assert abs(same.kl) < 1e-4 and same.same_top > 0.98
    assert same.perplexity == pytest.approx(same.other_perplexity, rel=1e-3)
    assert other.kl > 10 * abs(same.kl) and other.same_top < 0.5
    assert other.interval and other.interval[0] < other.kl < other.interval[1]
    assert other.other_perplexity == pytest.approx(same.other_perplexity)


def test_the_divergence_is_that_of_its_definition(original: LanguageModel, tmp_path: Path) -> None:
    network = make_network(2, max_position_embeddings=512)
    found = divergence(
        write_gguf(tmp_path / "other.gguf", network, make_tokenizer()), original, TEXTS[:1], most_tokens=100
    )

    tokens = torch.tensor([original.tokens(TEXTS[0], begins=True)[: found.tokens]])
    with torch.inference_mode():
        p, q = (one(tokens).logits[0].log_softmax(-1) for one in (original.network, network))
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), abs=0.01)
    assert found.same_top == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).float().mean()), abs=0.03)


def test_another_vocabulary_and_no_gguf_are_refused(original: LanguageModel, tmp_path: Path) -> None:
    wider = make_network(2, max_position_embeddings=512, vocab_size=original.network.config.vocab_size + 8)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))

    with pytest.raises(EvaluationError, match=r"llama\.cpp ended"):
        divergence(broken, original, TEXTS)
    with pytest.raises(EvaluationError, match="Give a longer text"):
        divergence(broken, original, ["sea"])
    original.network.resize_token_embeddings(wider.config.vocab_size)
    file = write_gguf(tmp_path / "narrow.gguf", make_network(max_position_embeddings=512), make_tokenizer())
    with pytest.raises(EvaluationError, match="Name the model that the file was made of"):
        divergence(file, original, TEXTS)


def test_the_command_measures_a_folder_and_writes_the_card(
    original: LanguageModel, make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(make_network(max_position_embeddings=512), name="original")
    files, text = tmp_path / "files-GGUF", tmp_path / "text.txt"
    files.mkdir()
    for name in ("a", "b"):
        gguf_of(original, files / f"{name}.gguf")
    text.write_text(TEXTS[0])

    status = main(
        ["divergence", str(files), str(folder), "--text", str(text), "--card", str(files), "--json"]
    )

    assert status == 0
    found = json.loads(capsys.readouterr().out)["files"]
    assert [one["file"] for one in found] == ["a.gguf", "b.gguf"] and found[0]["kl"] < 1e-4
    card = (files / "README.md").read_text()
    assert "| `b.gguf` | 0.0000" in card and "(original, perplexity" in card
    assert str(folder) not in card


def test_the_table_names_what_was_read() -> None:
    one = Divergence("m-Q8_0.gguf", "me/m", 4000, 0.0045, (0.004, 0.005), 0.964, 27.5, 27.25)

    table = markdown([one], "a text")

    assert "| `m-Q8_0.gguf` | 0.0045 (0.0040 to 0.0050) | 96.4% | 27.50 |" in table
    assert "perplexity 27.25" in table and "4,000 tokens of a text" in table
