"""Weights of anything: files without a config, parts of a pipeline, vision models: equal names are merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml
from safetensors.torch import load_file, save_file

from checkpoints.problems import DestinationError
from merging import Plan, make_plan, merge_into_memory, read_recipe, run_plan
from tests.hub import Hub

UNET = "diffusion_pytorch_model.safetensors"


def unet(path: Path, seed: int, dtype: torch.dtype = torch.float32) -> Path:
    """Save something like the weights of a diffusion model: convolutions, a time embedding, names of their own."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "conv_in.weight": (4, 2, 3, 3),
        "time_embedding.linear_1.weight": (6, 4),
        "down_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3),
        "down_blocks.1.resnets.0.conv1.weight": (8, 4, 3, 3),
        "down_blocks.1.attentions.0.to_q.weight": (8, 8),
        "mid_block.norm.bias": (8,),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}, path
    )
    return path


def mean(*models: Path | str, **more: Any) -> str:
    listed = [{"model": str(model), "parameters": {"weight": 1}} for model in models]
    return yaml.safe_dump({"merge_method": "linear", "models": listed, **more})


def merge(text: str, to: str, **options: Any) -> Plan:
    plan = make_plan(read_recipe(text), to, **options)
    assert plan.problems == ()
    run_plan(plan, to, **options)
    return plan


def test_two_files(tmp_path: Path) -> None:
    files = [unet(tmp_path / f"{name}/{UNET}", seed, torch.float16) for seed, name in enumerate("ab")]

    plan = merge(mean(*files), str(tmp_path / "out"))

    assert {path.name for path in (tmp_path / "out").iterdir()} == {UNET, "README.md", "mergekit_config.yml"}
    assert plan.warnings == ()
    a, b = map(load_file, files)
    for name, tensor in load_file(tmp_path / "out" / UNET).items():
        torch.testing.assert_close(tensor, ((a[name].float() + b[name].float()) / 2).half())
    card = (tmp_path / "out/README.md").read_text()
    assert "transformers" not in card


def test_a_pickle_and_a_file_of_safetensors(tmp_path: Path) -> None:
    a = unet(tmp_path / "a.safetensors", 1)
    torch.save(load_file(unet(tmp_path / "x.safetensors", 2)), tmp_path / "b.pt")

    merge(mean(a, tmp_path / "b.pt"), str(tmp_path / "out"))

    merged = load_file(tmp_path / "out/a.safetensors")
    name = "conv_in.weight"
    expected = (load_file(a)[name] + load_file(tmp_path / "x.safetensors")[name]) / 2
    torch.testing.assert_close(merged[name], expected)


def test_a_part_of_a_pipeline_keeps_its_config(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        unet(tmp_path / f"{name}/unet/{UNET}", seed)
        config = {"_class_name": "UNet2DConditionModel", "sample_size": 8}
        (tmp_path / f"{name}/unet/config.json").write_text(json.dumps(config))

    merge(mean(tmp_path / "a/unet", tmp_path / "b/unet"), str(tmp_path / "out"))

    assert (tmp_path / "out" / UNET).exists()
    assert json.loads((tmp_path / "out/config.json").read_text()) == config


def test_parts_of_repositories_on_the_hub(hub: Hub, alice: str, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        unet(tmp_path / f"{name}/unet/{UNET}", seed)
        unet(tmp_path / f"{name}/vae/{UNET}", seed + 7)
        hub.put(f"alice/sd-{name}", tmp_path / name, private=True)
    text = mean("alice/sd-a/unet/" + UNET, "alice/sd-b/unet/" + UNET)

    plan = make_plan(read_recipe(text), "hf://alice/mixed", token=alice)
    assert plan.problems == ()
    result = run_plan(plan, "hf://alice/mixed", token=alice)

    assert result.verified
    merge(mean(*(tmp_path / f"{name}/unet/{UNET}" for name in "ab")), str(tmp_path / "out"))
    assert hub.read("alice/mixed", UNET) == (tmp_path / "out" / UNET).read_bytes()
    assert "- alice/sd-a\n" in hub.read("alice/mixed", "README.md").decode()
    missing = make_plan(read_recipe(mean("alice/sd-a/text_encoder")), token=alice)
    [problem] = missing.problems
    assert (problem.code, problem.fix) == ("no-part", "Its folders: unet, vae.")


def test_a_vision_model(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        config = hf.ViTConfig(**sizes, image_size=16, patch_size=8)
        hf.ViTForImageClassification(config).save_pretrained(tmp_path / name)
    slices = [
        {"sources": [{"model": str(tmp_path / "a"), "layer_range": [0, 2]}]},
        {"sources": [{"model": str(tmp_path / "b"), "layer_range": [1, 3]}]},
    ]

    merge(mean(tmp_path / "a", tmp_path / "b"), str(tmp_path / "mean"))
    merge(yaml.safe_dump({"merge_method": "passthrough", "slices": slices}), str(tmp_path / "tall"))

    for name, layers in (("mean", 3), ("tall", 4)):
        model = hf.ViTForImageClassification.from_pretrained(tmp_path / name)
        assert model.config.num_hidden_layers == layers
        assert model(torch.zeros(1, 3, 16, 16)).logits.isfinite().all()


def test_weights_without_a_config_are_no_live_model(tmp_path: Path) -> None:
    plan = make_plan(
        read_recipe(mean(unet(tmp_path / "a.safetensors", 1), unet(tmp_path / "b.safetensors", 2)))
    )

    with pytest.raises(DestinationError, match="Merge it to a folder"):
        merge_into_memory(plan)


def test_a_folder_without_a_config_is_still_a_mistake(tmp_path: Path) -> None:
    unet(tmp_path / "a/model.safetensors", 1)

    [problem] = make_plan(read_recipe(mean(tmp_path / "a"))).problems

    assert problem.code == "no-config"


@pytest.mark.oracle
def test_files_come_out_as_from_mergekit(tmp_path: Path) -> None:
    from click.testing import CliRunner
    from mergekit.scripts.merge_raw_pytorch import main

    base, a, b = (
        unet(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate(("base", "a", "b"))
    )
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [{"model": str(m), "parameters": {"weight": w}} for m, w in ((a, 0.3), (b, 0.6))],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = CliRunner().invoke(main, [str(tmp_path / "recipe.yaml"), str(tmp_path / "theirs")])
    assert result.exit_code == 0, result.output

    merge(yaml.safe_dump(recipe), str(tmp_path / "ours"))

    theirs = load_file(next((tmp_path / "theirs").glob("*.safetensors")))
    ours = load_file(tmp_path / "ours/base.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
