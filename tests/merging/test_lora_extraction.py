"""Extracting an adapter: at full rank it gives the fine-tune back, and never promises more than it keeps."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from checkpoints import open_adapter, open_checkpoint
from merging import CheckpointError, make_plan, read_recipe, run_plan
from merging.__main__ import main
from merging.lora_extraction import decompose, extract_lora
from tests.checkpoints.adapters.test_adapter import answers, gpt_oss, mixtral, saved, tensors, trained
from tests.hub import Hub
from tests.tiny import tiny_llama


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base = tiny_llama(folder / "base", 0, dtype=torch.float32, attention_bias=True)
    tiny_llama(folder / "tuned", 1, base, dtype=torch.float32, attention_bias=True)
    return folder


def rebuilt(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    return tensors(open_adapter(open_checkpoint(str(base)), str(adapter)))


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((one[name] - other[name]).double().square().sum()) for name in one) ** 0.5


@pytest.mark.filterwarnings("ignore")
def test_full_rank_gives_the_fine_tune_back_to_us_and_to_peft(models: Path, tmp_path: Path) -> None:
    extract_lora(f"{models}/tuned", f"{models}/base", f"{tmp_path}/lora", rank=1000)

    tuned = load_file(models / "tuned/model.safetensors")
    ours = rebuilt(models / "base", tmp_path / "lora")
    assert ours.keys() == tuned.keys()
    for name, tensor in tuned.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=1e-6, msg=name)
    model = AutoModelForCausalLM.from_pretrained(models / "base", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(model, tmp_path / "lora")
    wanted = AutoModelForCausalLM.from_pretrained(models / "tuned", dtype=torch.float32)
    torch.testing.assert_close(answers(theirs), answers(wanted), atol=1e-4, rtol=1e-4)


def test_the_error_falls_as_the_rank_grows_and_is_the_one_reported(models: Path, tmp_path: Path) -> None:
    tuned = load_file(models / "tuned/model.safetensors")
    base = load_file(models / "base/model.safetensors")
    before = float("inf")
    for rank in (1, 4, 16, 48):
        done = extract_lora(f"{models}/tuned", f"{models}/base", f"{tmp_path}/{rank}", rank=rank)
        ours = rebuilt(models / "base", tmp_path / str(rank))
        left = distance(ours, tuned)
        assert left < before
        before = left
        for matrix in done.matrices:
            name = f"{matrix.module}.weight"
            error = (ours[name] - tuned[name]).norm() / (base[name] - tuned[name]).norm()
            assert matrix.error == pytest.approx(error.item(), rel=1e-3, abs=1e-5)
            assert matrix.rank == min(rank, *matrix.shape)


def test_an_energy_chooses_the_smallest_rank_for_each_matrix(models: Path, tmp_path: Path) -> None:
    done = extract_lora(f"{models}/tuned", f"{models}/base", f"{tmp_path}/lora", rank=1000, energy=0.9)

    assert len({matrix.rank for matrix in done.matrices}) > 1
    tuned, base = (load_file(models / name / "model.safetensors") for name in ("tuned", "base"))
    for matrix in done.matrices:
        name = f"{matrix.module}.weight"
        kept = torch.linalg.svdvals(tuned[name] - base[name]).square().cumsum(0)
        assert matrix.rank == int((kept < 0.9 * kept[-1]).sum()) + 1
        assert 0.9 <= matrix.captured < 1
    assert rebuilt(models / "base", tmp_path / "lora").keys() == tuned.keys()


@pytest.mark.parametrize(("rank", "energy"), [(8, None), (40, 0.8)])
def test_the_randomised_decomposition_is_nearly_the_best(rank: int, energy: float | None) -> None:
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(400, 300))[0], torch.linalg.qr(torch.randn(300, 300))[0]
    values = 1 / torch.arange(1.0, 301.0)
    delta = left * values @ right.T

    b, a = decompose(delta, rank, energy)

    best = values.square().cumsum(0) / values.square().sum()
    count = rank if energy is None else int((best < energy).sum()) + 1
    assert (b.shape, a.shape) == ((400, count), (count, 300))
    error = (delta - b @ a).square().sum() / delta.square().sum()
    assert 1 - error.item() == pytest.approx(best[count - 1].item(), abs=1e-4)


def test_what_is_no_matrix_is_kept_and_what_did_not_change_is_not(models: Path, tmp_path: Path) -> None:
    tuned = load_file(models / "base/model.safetensors")
    for name in ("model.norm.weight", "model.layers.1.self_attn.q_proj.weight", "model.embed_tokens.weight"):
        tuned[name] = tuned[name] + 0.1 * torch.randn_like(tuned[name])
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/config.json").write_text((models / "base/config.json").read_text())
    save_file(tuned, tmp_path / "tuned/model.safetensors")

    done = extract_lora(f"{tmp_path}/tuned", f"{models}/base", f"{tmp_path}/lora", rank=64)

    assert [matrix.module for matrix in done.matrices] == ["model.layers.1.self_attn.q_proj"]
    assert sorted(done.whole) == ["model.embed_tokens.weight", "model.norm.weight"]
    config = json.loads((tmp_path / "lora/adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    assert config["modules_to_save"] == ["model.embed_tokens", "model.norm"]
    ours = rebuilt(models / "base", tmp_path / "lora")
    assert ours.keys() == tuned.keys()  # tied as before
    assert distance(ours, tuned) < 1e-4


@pytest.mark.filterwarnings("ignore")
def test_matrices_that_are_stored_the_other_way_round(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    for seed, name in enumerate(("base", "tuned")):
        torch.manual_seed(seed)
        GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / name)

    extract_lora(f"{tmp_path}/tuned", f"{tmp_path}/base", f"{tmp_path}/lora", rank=1000)

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = PeftModel.from_pretrained(base, tmp_path / "lora")
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")
    torch.testing.assert_close(answers(theirs), answers(wanted), atol=1e-4, rtol=1e-4)
    tuned = load_file(tmp_path / "tuned/model.safetensors")
    assert distance(rebuilt(tmp_path / "base", tmp_path / "lora"), tuned) < 1e-4


def fine_tuned(make: Callable[[], nn.Module], folder: Path, *words: str) -> None:
    """Save `base`, and as `tuned` the same with other numbers in the parameters whose names hold one of the words."""
    model = saved(make, folder / "base")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(word in name for word in words):
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(folder / "tuned")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "words", "whole"),
    [
        (
            gpt_oss,
            ["q_proj.weight", "experts.down_proj"],
            ["down_proj", "down_proj_bias", "gate_up_proj", "gate_up_proj_bias"],
        ),
        (mixtral, ["q_proj"], []),
    ],
)
def test_packed_experts_go_along_whole_if_they_changed(
    make: Callable[[], nn.Module], words: list[str], whole: list[str], tmp_path: Path
) -> None:
    fine_tuned(make, tmp_path, *words)

    done = extract_lora(f"{tmp_path}/tuned", f"{tmp_path}/base", f"{tmp_path}/lora", rank=1000)

    assert {matrix.module.rpartition(".")[2] for matrix in done.matrices} == {"q_proj"}
    assert sorted({name.rpartition(".")[2] for name in done.whole}) == whole
    tuned = tensors(open_checkpoint(f"{tmp_path}/tuned"))
    assert distance(rebuilt(tmp_path / "base", tmp_path / "lora"), tuned) < 1e-4
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    wanted = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned", dtype=torch.float32).state_dict()
    theirs = PeftModel.from_pretrained(base, tmp_path / "lora").merge_and_unload().state_dict()
    for name, tensor in wanted.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-6, rtol=1e-5, msg=name)


def test_experts_of_an_unknown_kind_are_refused_by_name_if_they_changed(tmp_path: Path) -> None:
    """How loaders pack them is not known, and PEFT would look for a layer for each."""
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"num_hidden_layers": 1}')
        weights = {f"layers.0.experts.{number}.fc.weight": torch.randn(4, 4) for number in range(2)}
        save_file(weights, tmp_path / name / "model.safetensors")

    with pytest.raises(CheckpointError, match=r"experts\.0\.\w+\.weight changed: loaders pack the experts"):
        extract_lora(f"{tmp_path}/tuned", f"{tmp_path}/base", f"{tmp_path}/lora")

    assert not (tmp_path / "lora").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "rank"), [("cat", 1000), ("svd", 5)])
def test_adapters_become_one_as_with_peft(kind: str, rank: int, models: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(models / "base", dtype=torch.float32)
    for seed, name in enumerate(("one", "two")):
        config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"])
        trained(copy.deepcopy(base), config, tmp_path / name, seed)
    model = PeftModel.from_pretrained(base, tmp_path / "one", adapter_name="one")
    model.load_adapter(tmp_path / "two", adapter_name="two")
    how = {"svd_rank": rank} if kind == "svd" else {}
    model.add_weighted_adapter(["one", "two"], [1.0, 0.25], "both", combination_type=kind, **how)
    model.set_adapter("both")
    wanted = model.merge_and_unload().state_dict()

    adapters = f"[{tmp_path}/one, {{model: {tmp_path}/two, scale: 0.25}}]"
    done = extract_lora(
        f"{{model: {models}/base, adapters: {adapters}}}", f"{models}/base", f"{tmp_path}/both", rank=rank
    )

    assert {matrix.rank for matrix in done.matrices} == {min(rank, 8)}
    assert len(done.matrices) == 8 and not done.whole
    assert all((matrix.error < 1e-9) == (kind == "cat") for matrix in done.matrices)
    for name, tensor in rebuilt(models / "base", tmp_path / "both").items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.fixture(scope="module")
def pair(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters of the base, `one` and `two`."""
    folder = tmp_path_factory.mktemp("pair")
    base = AutoModelForCausalLM.from_pretrained(models / "base", dtype=torch.float32)
    for seed, name in enumerate(("one", "two")):
        config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"])
        trained(copy.deepcopy(base), config, folder / name, seed)
    return folder


def merge_of(models: Path, pair: Path, method: str, **more: Any) -> str:
    listed = [
        {"model": f"{models}/base+{pair}/{name}", "parameters": {"weight": weight}}
        for name, weight in (("one", 1.0), ("two", more.pop("second", 1.0)))
    ]
    return yaml.safe_dump({"merge_method": method, "base_model": f"{models}/base", "models": listed, **more})


@pytest.mark.parametrize("method", ["ties", "dare_ties", "dare_linear", "task_arithmetic"])
def test_merged_adapters_are_an_adapter_again_without_the_merge_being_stored(
    method: str, models: Path, pair: Path, tmp_path: Path
) -> None:
    parameters = {} if method == "task_arithmetic" else {"density": 0.4}
    # In bfloat16 the difference to the base would be mostly rounding; an adapter is taken before it.
    text = merge_of(models, pair, method, parameters=parameters, dtype="bfloat16", seed=3)
    written = make_plan(read_recipe(text.replace("bfloat16", "float32")))
    run_plan(written, str(tmp_path / "merge"))

    done = extract_lora(read_recipe(text), f"{models}/base", f"{tmp_path}/ours", rank=6)
    extract_lora(f"{tmp_path}/merge", f"{models}/base", f"{tmp_path}/theirs", rank=6)

    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys() and len(done.matrices) == 8
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert {matrix.module.rpartition(".")[2] for matrix in done.matrices} == {"q_proj", "up_proj"}
    assert f"merge_method: {method}" in (tmp_path / "ours/README.md").read_text()


@pytest.mark.parametrize(("kind", "weight"), [("ties_svd", 1.0), ("ties_svd", 0.5), ("svd", 0.5)])
def test_a_merge_of_adapters_is_that_of_peft(
    kind: str, weight: float, models: Path, pair: Path, tmp_path: Path
) -> None:
    """`add_weighted_adapter` of kind `ties_svd`: PEFT elects signs by the unweighted changes, and divides the weighted
    sum by the number of adapters that agree, where we divide by the sum of their weights; so equal weights of w are
    a `lambda` of w there. `dare_*` draw at random, each in its own way; `ties`, `dare_ties`, `dare_linear` and
    `magnitude_prune` without `_svd` treat the two factors as if they were task vectors, which no delta is.
    """
    base = AutoModelForCausalLM.from_pretrained(models / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, pair / "one", adapter_name="one")
    model.load_adapter(pair / "two", adapter_name="two")
    how = {"density": 0.3} if kind == "ties_svd" else {}
    model.add_weighted_adapter(
        ["one", "two"], [weight, weight], "both", combination_type=kind, svd_rank=7, **how
    )
    model.set_adapter("both")
    wanted = model.merge_and_unload().state_dict()
    ties = {"density": 0.3, "lambda": weight, "election": "unweighted"}
    method, parameters = ("ties", ties) if kind == "ties_svd" else ("task_arithmetic", {"lambda": weight})

    text = merge_of(models, pair, method, parameters=parameters)
    extract_lora(read_recipe(text), f"{models}/base", f"{tmp_path}/both", rank=7)

    before = load_file(models / "base/model.safetensors")
    for name, tensor in rebuilt(models / "base", tmp_path / "both").items():
        torch.testing.assert_close(tensor, wanted[name], atol=2e-6, rtol=1e-5, msg=name)
        assert torch.equal(tensor, before[name]) == (not name.endswith(("q_proj.weight", "up_proj.weight")))


def test_a_recipe_that_cannot_be_merged_is_refused_as_by_a_plan(
    models: Path, pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(merge_of(models, pair, "ties").replace(f"{pair}/two", f"{pair}/three"))
    arguments = ["extract-lora", str(recipe), "--base", f"{models}/base", "--to", f"{tmp_path}/lora"]

    assert main(arguments) == 2
    assert "three" in capsys.readouterr().err
    recipe.write_text(merge_of(models, pair, "ties"))
    assert main([*arguments, "--rank", "3"]) == 0
    assert "8 matrices" in capsys.readouterr().out


def test_from_the_hub_to_the_hub(models: Path, hub: Hub) -> None:
    token = hub.add_user("alice")
    for name in ("base", "tuned"):
        hub.put(f"alice/{name}", models / name, private=True)

    done = extract_lora("alice/tuned", "alice/base", "hf://alice/lora", rank=2, token=token)

    config = json.loads(hub.read("alice/lora", "adapter_config.json"))
    assert config["base_model_name_or_path"] == "alice/base"
    assert hub.repo("alice/lora").private
    assert b"base_model: alice/base" in hub.read("alice/lora", "README.md")
    opened = open_adapter(open_checkpoint("alice/base", token=token), "alice/lora", token=token)
    assert {len(matrix.shape) for matrix in done.matrices} == {2}
    assert sum(bool(header.rounds_to) for header in opened.tensors.values()) == len(done.matrices) + len(
        done.whole
    )
    opened.close()


def test_the_command_line_prints_a_table(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["extract-lora", f"{models}/tuned", "--base", f"{models}/base", "--to", f"{tmp_path}/lora"]

    assert main([*arguments, "--rank", "4", "--dtype", "bfloat16"]) == 0

    out = capsys.readouterr().out
    assert "model.layers.3.mlp.up_proj                                       4" in out
    assert "28 matrices" in out
    kinds = {tensor.dtype for tensor in load_file(tmp_path / "lora/adapter_model.safetensors").values()}
    assert torch.bfloat16 in kinds
    assert main([*arguments, "--rank", "4"]) == 1  # it stands there already
    with pytest.raises(SystemExit):
        main([*arguments, "--energy", "1.5"])


def test_models_that_do_not_belong_together(models: Path, tmp_path: Path) -> None:
    tiny_llama(tmp_path / "wide", 0, intermediate_size=160)

    with pytest.raises(CheckpointError, match="no fine-tune of"):
        extract_lora(f"{tmp_path}/wide", f"{models}/base", f"{tmp_path}/lora")
    with pytest.raises(CheckpointError, match="same numbers"):
        extract_lora(f"{models}/base", f"{models}/base", f"{tmp_path}/lora")
    assert not (tmp_path / "lora").exists()
