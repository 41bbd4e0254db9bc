"""Which layers matter: states between layers, cuts that are named, and what the model predicts without them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from alloy.__main__ import main as alloy
from evaluation import EvaluationError, LanguageModel, candidates, influence, load_model, perplexity, try_cuts
from evaluation.__main__ import CANNOT_BE_JUDGED, DONE, main
from evaluation.influence import Cut, without_layers
from merging import cut_recipe
from tests.evaluation.conftest import TEXT, make_network
from tests.merges import merged

MakeModel = Callable[..., LanguageModel]
TEXTS = [TEXT, "Another document, which is read on its own. " * 8]


def with_an_identity(layer: int, **sizes: Any) -> Any:
    """A random Llama of which one layer hands its input on."""
    network = make_network(**{"num_hidden_layers": 4, **sizes})
    with torch.no_grad():
        network.model.layers[layer].self_attn.o_proj.weight.zero_()
        network.model.layers[layer].mlp.down_proj.weight.zero_()
    return network


def states_by_transformers(model: LanguageModel) -> list[torch.Tensor]:
    """(layers + 1, width) for each position of all texts, in float64; the last states are behind the final norm."""
    size = model.context
    found = []
    for text in TEXTS:
        ids = model.tokens(text, begins=True)
        for begin in range(0, len(ids), size):
            window = torch.tensor([ids[begin : begin + size]])
            states = model.network(window, output_hidden_states=True).hidden_states
            found += torch.cat(states).double().unbind(1)
    return found


def test_an_identity_has_no_influence_and_no_length(make_model: MakeModel) -> None:
    found = influence(make_model(with_an_identity(2)), TEXTS)

    assert found.by_layer[2] == pytest.approx(0, abs=1e-12)
    assert found.distances[2][0] == pytest.approx(0, abs=1e-6)
    assert min(found.by_layer[:2] + found.by_layer[3:]) > 0.01
    assert [len(row) for row in found.distances] == [4, 3, 2, 1]


def test_it_is_what_hidden_states_say_up_to_the_final_norm(make_model: MakeModel) -> None:
    model = make_model(with_an_identity(2))

    found = influence(model, TEXTS)

    positions = states_by_transformers(model)
    assert found.tokens == len(positions)
    for first in range(3):
        for last in range(first + 1, 4):  # the last layer's states are normed there
            cosines = [
                float(torch.cosine_similarity(states[first], states[last], dim=0)) for states in positions
            ]
            angles = [math.acos(min(cosine, 1)) / math.pi for cosine in cosines]
            assert found.distances[first][last - first - 1] == pytest.approx(
                sum(angles) / len(angles), abs=1e-5
            )
            if last == first + 1:
                assert found.by_layer[first] == pytest.approx(1 - sum(cosines) / len(cosines), abs=1e-6)


def test_no_more_tokens_are_read_than_were_asked_for(model: LanguageModel) -> None:
    assert influence(model, TEXTS, tokens=40).tokens == 40


def test_the_identity_is_named_first_and_the_ends_remain(make_model: MakeModel) -> None:
    model = make_model(with_an_identity(2, num_hidden_layers=5))
    found = influence(model, TEXTS)

    cuts = candidates(model, found, 1, 10)
    trials = try_cuts(model, TEXTS, cuts)

    assert cuts[0].dropped == (2,)
    assert {layer for cut in cuts for layer in cut.dropped} == {1, 2, 3}
    without = next(trial for trial in trials.tried if trial.cut.dropped == (2,))
    assert without.perplexity.perplexity == pytest.approx(trials.whole.perplexity, rel=1e-6)
    assert without.difference.bits_per_byte == pytest.approx(0, abs=1e-5)
    assert [t.perplexity.nll_nats for t in trials.tried] == sorted(
        t.perplexity.nll_nats for t in trials.tried
    )
    assert trials.best is trials.tried[0]


def test_blocks_by_distance_and_layers_by_influence_are_named(make_model: MakeModel) -> None:
    network = with_an_identity(2, num_hidden_layers=7)
    for parameter in network.model.layers[4].parameters():
        parameter.data.mul_(0.1)  # it does little, and its neighbours do more
    model = make_model(network)
    found = influence(model, TEXTS)

    cuts = candidates(model, found, 2, 20)

    single = cuts[1]
    assert (single.by, single.dropped) == ("influence", (2, 4))
    assert single.score == pytest.approx(sum(sorted(found.by_layer[1:-1])[:2]))
    blocks = [cut for cut in cuts if cut.by == "distance"]
    assert [cut.score for cut in blocks] == sorted(cut.score for cut in blocks)
    assert all(cut.score == found.distances[cut.dropped[0]][1] for cut in blocks)
    assert len({cut.dropped for cut in cuts}) == len(cuts)
    assert candidates(model, found, 2, 1) == cuts[:1]


@pytest.mark.parametrize(
    ("dropped", "name"), [((12, 13, 14), "12-14"), ((1,), "1"), ((1, 3, 4, 6), "1, 3-4, 6")]
)
def test_a_cut_is_called_by_its_layers(dropped: tuple[int, ...], name: str) -> None:
    assert Cut(20, dropped, "influence", 0.0).name == name


def make_gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=400, n_embd=32, n_layer=5, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1
        )
    )


def make_gemma() -> Any:
    """Layers of two kinds, which its config lists one by one."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 5,
        "head_dim": 8,
    }
    return Gemma2ForCausalLM(
        Gemma2Config(
            **sizes, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, sliding_window=4,
            bos_token_id=0, eos_token_id=1, pad_token_id=0,
        )
    )  # fmt: skip


@pytest.mark.parametrize("network", [lambda: make_network(num_hidden_layers=5), make_gpt2, make_gemma])
def test_the_merge_of_a_cut_predicts_what_was_said_in_memory(
    network: Callable[[], Any], make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder(network())
    model = load_model(folder, device="cpu")
    cuts = candidates(model, influence(model, TEXTS), 2, 3)

    best = try_cuts(model, TEXTS, cuts).best

    merged(cut_recipe(str(folder), best.cut.dropped), tmp_path / "cut")
    again = perplexity(load_model(tmp_path / "cut", device="cpu"), TEXTS)
    assert again.nll_nats == best.perplexity.nll_nats


def test_the_model_stays_as_it_is(make_model: MakeModel) -> None:
    model = make_model(make_network(num_hidden_layers=4))
    before = perplexity(model, TEXTS).nll_nats
    config = model.network.config.to_dict()

    cut = without_layers(model, [1, 2])
    influence(model, TEXTS)

    assert len(model.network.model.layers) == 4
    assert model.network.config.to_dict() == config
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in model.network.model.layers)
    assert perplexity(model, TEXTS).nll_nats == before
    own = {id(parameter) for parameter in model.network.parameters()}
    assert {id(parameter) for parameter in cut.network.parameters()} < own


def test_what_cannot_be_measured_is_said(model: LanguageModel, make_model: MakeModel) -> None:
    with pytest.raises(EvaluationError, match="3 tokens"):
        influence(model, [TEXT], tokens=3)
    found = influence(model, TEXTS)
    with pytest.raises(EvaluationError, match="1 to 0 layers"):
        candidates(model, found, 1)
    other = make_model(make_network(num_hidden_layers=4), name="other")
    with pytest.raises(EvaluationError, match="count=0"):
        candidates(other, influence(other, TEXTS), 1, 0)
    del model.network.config.num_hidden_layers
    model.network.config.num_hidden_layers = 9
    with pytest.raises(EvaluationError, match="its layers were not found"):
        influence(model, TEXTS)


def test_layers_of_a_pattern_are_cut_by_whole_periods(make_model: MakeModel) -> None:
    """A number in the config that says after how many layers a kind returns holds for no other cut."""
    model = make_model(make_network(num_hidden_layers=8))
    model.network.config.sliding_window_pattern = 3
    found = influence(model, TEXTS)

    with pytest.raises(EvaluationError, match="sliding_window_pattern"):
        candidates(model, found, 2)
    assert all(cut.dropped[-1] - cut.dropped[0] == 2 for cut in candidates(model, found, 3, 20))


def test_the_command_prints_a_table_and_the_recipe_of_the_best(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(with_an_identity(2))
    command = ["influence", str(folder), "--drop", "1", "--try", "2", "--text", "english", "--tokens", "200"]

    assert alloy(command) == DONE
    told = capsys.readouterr().out
    assert "Influence of each of 4 layers on 200 tokens" in told
    assert "merge_method: passthrough\nslices:" in told
    assert alloy([*command, "--recipe", str(tmp_path / "cut.yaml"), "--json"]) == DONE
    data = json.loads(capsys.readouterr().out)
    best, other = data["trials"]["cuts"]
    assert data["recipe"] == (tmp_path / "cut.yaml").read_text() == cut_recipe(str(folder), best["dropped"])
    assert best["perplexity"]["nll_nats"] < other["perplexity"]["nll_nats"]
    assert {best["name"], other["name"]} == {"1", "2"}
    assert len(data["influence"]["by_layer"]) == 4


def test_the_command_says_what_is_wrong(
    make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["influence", str(make_folder()), "--text", "english", "--json"]

    assert main(command) == CANNOT_BE_JUDGED

    out, err = capsys.readouterr()
    assert "Its first and its last layer always remain" in err
    assert not json.loads(out)["ok"]
