"""Linear CKA: what it must not see, a formula of its own, and models with other tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evaluation import EvaluationError, LanguageModel
from evaluation.__main__ import CANNOT_BE_JUDGED, DONE, main
from evaluation.cka import linear_cka
from tests.evaluation.conftest import TEXT, make_network, make_tokenizer

MakeModel = Callable[..., LanguageModel]


def test_a_model_is_like_itself_and_less_like_another(model: LanguageModel, make_model: MakeModel) -> None:
    itself = linear_cka(model, model, TEXT)
    other = linear_cka(model, make_model(make_network(seed=1), name="other"), TEXT)

    assert itself.by_layer == pytest.approx([1.0] * 3, abs=1e-5)
    assert all(0 <= value < 0.95 for value in other.by_layer)
    assert len(other.cka) == len(other.cka[0]) == 3


def test_it_is_the_formula_on_features(model: LanguageModel, make_model: MakeModel) -> None:
    """||Y'X||^2 / (||X'X|| ||Y'Y||) of centred states (tokens, width), of the first 48 tokens."""
    ascii_text = (
        "what can go wrong later is found here, in seconds, all problems at once, each with the fix. " * 3
    )
    other = make_model(make_network(seed=1, num_hidden_layers=3), name="other")
    ids = torch.tensor([model.tokenizer(ascii_text)["input_ids"][:48]])

    found = linear_cka(model, other, ascii_text, tokens=48)

    states = [
        [
            layer[0].double() - layer[0].double().mean(0)
            for layer in one.network(ids, output_hidden_states=True)[-1]
        ]
        for one in (model, other)
    ]
    for i, x in enumerate(states[0]):
        for j, y in enumerate(states[1]):
            expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
            assert found.cka[i][j] == pytest.approx(float(expected), abs=1e-4)


def test_other_tokenizers_are_compared_where_tokens_end_for_both(make_model: MakeModel) -> None:
    model = make_model(make_network(max_position_embeddings=512))
    single = make_tokenizer()  # each byte a token: there are no merges
    single.backend_tokenizer.model = type(single.backend_tokenizer.model)(single.get_vocab(), [])

    found = linear_cka(model, replace(model, name="bytes", tokenizer=single), TEXT)

    tokens = len(model.tokenizer(TEXT)["input_ids"])
    assert 32 <= found.positions <= tokens < len(single(TEXT)["input_ids"])
    assert max(found.by_layer) <= 1


def test_what_cannot_be_compared_is_said(model: LanguageModel) -> None:
    for text, words in (("", "There is no text"), ("A b.", "Give a longer text")):
        with pytest.raises(EvaluationError, match=words):
            linear_cka(model, model, text)


def test_activations_on_the_command_line(
    make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = make_folder(), make_folder(make_network(seed=1), name="two")
    command = ["weights", str(one), "--activations", "english"]

    assert main([*command, "--against", str(two), "--json"]) == DONE
    assert len(json.loads(capsys.readouterr().out)["activations"][0]["by_layer"]) == 3

    assert main([*command, "--against", str(two)]) == DONE
    assert "Linear CKA" in capsys.readouterr().out
    assert main(command) == CANNOT_BE_JUDGED
    assert "--against" in capsys.readouterr().err
