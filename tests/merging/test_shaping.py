"""Recipes of cuts and stacks: they merge to the layers that they name, silent copies change no logit, and mergekit
reads the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml

from checkpoints.problems import CheckpointError
from merging import PlanError, cut_recipe, read_recipe, stack_recipe
from merging.__main__ import main
from tests.families import GPT2, TEXT
from tests.merges import merged
from tests.merging.test_against_mergekit import mergekit, tensors
from tests.tiny import tiny_llama

SIZES = {**TEXT, "num_hidden_layers": 4}
HEADS = {"head_dim": 8}
# Families whose layers add what two matrices write, biases at random where they have them.
SILENT: dict[str, Any] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**SIZES)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**SIZES)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZES, **HEADS)),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**{**SIZES, "num_key_value_heads": 4})),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**SIZES)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**{**GPT2, "n_layer": 4})),
    "gemma": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**SIZES, **HEADS)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**SIZES, **HEADS, sliding_window=4)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**SIZES, **HEADS, sliding_window=4)),
}
OTHERS: dict[str, Any] = {
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(vocab_size=96, hidden_size=32, ffn_dim=48, num_hidden_layers=4, num_attention_heads=4)
    ),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**SIZES, num_local_experts=2)),
}


def saved(network: Any, path: Path) -> Path:
    """Every number of it at random, so that no bias is zero by chance."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    network.save_pretrained(path)
    return path


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    network = hf.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    made: torch.Tensor = network(torch.arange(3, 23)[None], use_cache=False).logits
    return made


@pytest.mark.parametrize("family", SILENT)
def test_silent_copies_change_no_logit(family: str, tmp_path: Path) -> None:
    parent = saved(SILENT[family](), tmp_path / "parent")

    merged(stack_recipe(str(parent), [1, 3]), tmp_path / "silent")
    merged(stack_recipe(str(parent), [1, 3], silent=False), tmp_path / "plain")

    before = logits(parent)
    assert torch.equal(logits(tmp_path / "silent"), before)
    assert not torch.allclose(logits(tmp_path / "plain"), before)
    config = hf.AutoConfig.from_pretrained(tmp_path / "silent")
    assert config.num_hidden_layers == 6
    copies = tensors(tmp_path / "silent")
    zero = {name for name, tensor in copies.items() if not tensor.any()}
    assert zero
    assert {name.split(".")[2] for name in zero} == {"2", "5"}


@pytest.mark.parametrize("family", OTHERS)
def test_layers_that_add_something_else_are_refused_by_name(family: str, tmp_path: Path) -> None:
    parent = saved(OTHERS[family](), tmp_path / "parent")

    with pytest.raises(PlanError) as refused:
        stack_recipe(str(parent), [1])

    [problem] = refused.value.problems
    assert problem.code == "no-silent-copies"
    assert problem.values["kind"] in problem.message
    assert problem.values["name"] in problem.message
    assert stack_recipe(str(parent), [1], silent=False)


def test_a_bias_behind_the_last_matrix_is_refused(tmp_path: Path) -> None:
    """A norm that follows the matrix and has a bias makes something of zero."""
    network = SILENT["gemma2"]()
    for layer in network.model.layers:
        layer.post_feedforward_layernorm.register_parameter("bias", torch.nn.Parameter(torch.ones(32)))
    parent = saved(network, tmp_path / "parent")

    with pytest.raises(PlanError, match=r"post_feedforward_layernorm\.bias"):
        stack_recipe(str(parent), [1])


def test_layers_that_count_themselves_are_refused(tmp_path: Path) -> None:
    config = hf.GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True)
    parent = saved(hf.GPT2LMHeadModel(config), tmp_path / "parent")

    with pytest.raises(PlanError, match="scale_attn_by_inverse_layer_idx"):
        stack_recipe(str(parent), [0])


def test_a_cut_names_runs_of_what_remains(tmp_path: Path) -> None:
    parent = str(tiny_llama(tmp_path / "parent", 0, num_hidden_layers=8))

    text = cut_recipe(parent, [2, 3, 6])

    ranges = [part["sources"][0]["layer_range"] for part in yaml.safe_load(text)["slices"]]
    assert ranges == [[0, 2], [4, 6], [7, 8]]
    assert read_recipe(text).merge_method == "passthrough"
    merged(text, tmp_path / "cut")
    whole, cut = tensors(Path(parent)), tensors(tmp_path / "cut")
    for new, old in enumerate([0, 1, 4, 5, 7]):
        name = "model.layers.{}.mlp.down_proj.weight"
        assert torch.equal(cut[name.format(new)], whole[name.format(old)])


def test_a_stack_repeats_each_layer_behind_itself(tmp_path: Path) -> None:
    parent = str(tiny_llama(tmp_path / "parent", 0))

    silent = yaml.safe_load(stack_recipe(parent, [1, 2]))["slices"]
    plain = yaml.safe_load(stack_recipe(parent, [1, 2], silent=False))["slices"]

    assert [part["sources"][0]["layer_range"] for part in silent] == [[0, 2], [1, 2], [2, 3], [2, 3], [3, 4]]
    assert ["parameters" in part["sources"][0] for part in silent] == [False, True, False, True, False]
    assert [part["sources"][0]["layer_range"] for part in plain] == [[0, 2], [1, 3], [2, 4]]


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["cut", "silent", "plain"])
def test_mergekit_reads_the_same_recipe_and_makes_the_same_tensors(kind: str, tmp_path: Path) -> None:
    parent = str(tiny_llama(tmp_path / "parent", 0))
    text = {
        "cut": lambda: cut_recipe(parent, [1]),
        "silent": lambda: stack_recipe(parent, [1, 2]),
        "plain": lambda: stack_recipe(parent, [1, 2], silent=False),
    }[kind]()

    merged(text, tmp_path / "ours")
    mergekit(yaml.safe_load(text), tmp_path / "theirs")

    ours, theirs = tensors(tmp_path / "ours"), tensors(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert all(
        torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours
    )


def test_what_cannot_be_shaped_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parent = str(tiny_llama(tmp_path / "parent", 0))

    with pytest.raises(PlanError, match="no layers 4, 9: its 4 layers are 0 to 3"):
        cut_recipe(parent, [1, 9, 4])
    with pytest.raises(PlanError, match=r"No layer of .* is named"):
        stack_recipe(parent, [])
    with pytest.raises(PlanError, match="All 4 layers"):
        cut_recipe(parent, range(4))
    with pytest.raises(CheckpointError):
        cut_recipe(str(tmp_path / "nothing"), [1])
    assert main(["cut", parent, "--layers", "9"]) == 2
    assert "its 4 layers are 0 to 3" in capsys.readouterr().err


def test_the_commands_print_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parent = str(tiny_llama(tmp_path / "parent 1", 0))

    assert main(["cut", parent, "--layers", "1-2"]) == 0
    assert capsys.readouterr().out == cut_recipe(parent, [1, 2])
    assert main(["stack", parent, "--layers", "0,2-3"]) == 0
    silent = capsys.readouterr().out
    assert silent == stack_recipe(parent, [0, 2, 3])
    assert main(["stack", parent, "--layers", "0,2-3", "--plain"]) == 0
    assert capsys.readouterr().out == stack_recipe(parent, [0, 2, 3], silent=False)
    assert read_recipe(silent).references()[0].name == parent
    with pytest.raises(SystemExit):
        main(["cut", parent, "--layers", "1..2"])
