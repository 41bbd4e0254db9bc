"""A quantized parent merges as its plain numbers do."""

from __future__ import annotations

import json
from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import Plan, make_plan, read_recipe, run_plan
from merging.__main__ import main
from merging.engine.run import ENGINES
from tests.hub import Hub
from tests.merges import weight_files


def linear(*models: Path | str) -> str:
    entries = "".join(f"  - {{model: {model}, parameters: {{weight: 1}}}}\n" for model in models)
    return f"merge_method: linear\nmodels:\n{entries}"


@pytest.fixture
def quantized(folder: Path, tmp_path: Path) -> dict[str, Path]:
    """Model a in eight-bit floats by rows and in nf4, and the plain numbers of both: `fp8`, `fp8 plain`, ..."""
    config = json.loads((folder / "a/config.json").read_text()) | {"dtype": "float32"}
    plain = load_file(folder / "a/model.safetensors")
    found = {}
    for form in ("fp8", "nf4"):
        stored: dict[str, torch.Tensor] = {}
        numbers: dict[str, torch.Tensor] = {}
        for name, tensor in plain.items():
            if tensor.ndim != 2 or "embed" in name:
                stored[name] = numbers[name] = tensor
            elif form == "fp8":
                scale = tensor.float().abs().amax(1, keepdim=True) / 448
                stored[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
                stored[f"{name}_scale"] = scale
                numbers[name] = stored[name].float() * scale
            else:
                stored[name], state = bnb.quantize_4bit(tensor.float(), quant_type="nf4", blocksize=64)
                stored |= {f"{name}.{part}": value for part, value in state.as_dict(packed=True).items()}
                numbers[name] = bnb.dequantize_4bit(stored[name], state)
        settings = {"quantization_config": {"quant_method": form}}
        for key, tensors, more in ((form, stored, settings), (f"{form} plain", numbers, {})):
            place = tmp_path / key
            place.mkdir()
            (place / "config.json").write_text(json.dumps({**config, **more}))
            save_file(tensors, place / "model.safetensors")
            found[key] = place
    return found


def planned(*models: Path | str, to: str | None = None) -> Plan:
    plan = make_plan(read_recipe(linear(*models)), to)
    assert plan.problems == ()
    return plan


@pytest.mark.parametrize("form", ["fp8", "nf4"])
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: str(engine.name))
def test_it_merges_as_its_plain_numbers(
    form: str, engine: object, folder: Path, quantized: dict[str, Path], tmp_path: Path
) -> None:
    run_plan(planned(quantized[f"{form} plain"], folder / "b"), str(tmp_path / "right"))
    plan = planned(quantized[form], folder / "b")

    run_plan(plan, str(tmp_path / "out"), workers=2, on=engine)  # type: ignore[arg-type]

    assert weight_files(tmp_path / "out") == weight_files(tmp_path / "right")
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    assert [warning.code for warning in plan.warnings if warning.code == "dequantized"]
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.models[0].quantized_bytes > 0 == plan.models[1].quantized_bytes


def test_it_is_read_from_the_hub_by_ranges(
    folder: Path, quantized: dict[str, Path], hub: Hub, alice: str, tmp_path: Path
) -> None:
    hub.put("alice/quantized", {path.name: path.read_bytes() for path in quantized["nf4"].iterdir()})
    run_plan(planned(quantized["nf4"], folder / "b"), str(tmp_path / "right"))

    run_plan(planned("alice/quantized", folder / "b"), str(tmp_path / "out"))

    assert weight_files(tmp_path / "out") == weight_files(tmp_path / "right")


def test_an_adapter_is_applied_to_its_plain_numbers(quantized: dict[str, Path], tmp_path: Path) -> None:
    plain = load_file(quantized["nf4 plain"] / "model.safetensors")
    name = next(name for name in plain if name.endswith("up_proj.weight"))
    height, width = plain[name].shape
    (tmp_path / "lora").mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]}
    (tmp_path / "lora/adapter_config.json").write_text(json.dumps(settings))
    generator = torch.Generator().manual_seed(0)
    key = f"base_model.model.{name.removesuffix('.weight')}"
    factors = {
        "lora_A": torch.randn(2, width, generator=generator),
        "lora_B": torch.randn(height, 2, generator=generator),
    }
    save_file(
        {f"{key}.{part}.weight": factor for part, factor in factors.items()},
        tmp_path / "lora/adapter_model.safetensors",
    )

    for form in ("nf4", "nf4 plain"):
        recipe = f"merge_method: passthrough\nmodels:\n  - model: {quantized[form]}+{tmp_path / 'lora'}\n"
        plan = make_plan(read_recipe(recipe))
        assert plan.problems == ()
        run_plan(plan, str(tmp_path / f"out {form}"))

    assert weight_files(tmp_path / "out nf4") == weight_files(tmp_path / "out nf4 plain")


def test_an_adapter_of_a_quantized_model_is_offered_the_original(
    quantized: dict[str, Path],
    folder: Path,
    hub: Hub,
    alice: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By `alloy plan --fix`, from the adapter alone to its full-precision base, without a complaint afterwards."""
    hub.put("alice/big", {path.name: path.read_bytes() for path in (folder / "a").iterdir()})
    hub.put("alice/big-bnb-4bit", {path.name: path.read_bytes() for path in quantized["nf4"].iterdir()})
    settings = {
        "peft_type": "LORA",
        "r": 2,
        "target_modules": ["up_proj"],
        "base_model_name_or_path": "alice/big-bnb-4bit",
    }
    plain = load_file(folder / "a/model.safetensors")
    name = next(name for name in plain if name.endswith("up_proj.weight"))
    key = f"base_model.model.{name.removesuffix('.weight')}"
    save_file(
        {
            f"{key}.lora_A.weight": torch.ones(2, plain[name].shape[1]),
            f"{key}.lora_B.weight": torch.ones(plain[name].shape[0], 2),
        },
        tmp_path / "weights",
    )
    hub.put(
        "alice/lora",
        {
            "adapter_config.json": json.dumps(settings).encode(),
            "adapter_model.safetensors": (tmp_path / "weights").read_bytes(),
        },
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("merge_method: passthrough\nmodels:\n  - model: alice/lora\n")

    assert main(["plan", str(recipe), "--fix", "--in-place"]) == 0

    assert recipe.read_text().endswith("model: alice/big+alice/lora\n")
    assert "fixed: Use alice/big, in full precision" in capsys.readouterr().err
    plan = make_plan(read_recipe(recipe.read_text()))
    assert plan.problems == plan.warnings == ()
    before = make_plan(read_recipe(recipe.read_text().replace("alice/big", "alice/big-bnb-4bit")))
    [warning] = [warning for warning in before.warnings if warning.code == "dequantized"]
    assert warning.fix == "Name alice/big instead, which has the full precision."


def test_tensors_that_do_not_fit_their_form_are_refused(quantized: dict[str, Path], folder: Path) -> None:
    place = quantized["fp8"] / "model.safetensors"
    stored = load_file(place)
    scale = next(name for name in stored if name.endswith("_scale"))
    save_file({**stored, scale: torch.ones(3, 3)}, place)

    plan = make_plan(read_recipe(linear(quantized["fp8"], folder / "b")))

    [problem] = plan.problems
    assert problem.code == "unknown-quantization"
    assert scale in problem.message and "[3, 3]" in problem.message


@pytest.mark.parametrize("form", ["plain", "fp8"])
def test_packed_numbers_that_the_config_does_not_explain_are_refused(
    form: str, quantized: dict[str, Path], folder: Path
) -> None:
    """They would be averaged as if they were weights, or be left out of them."""
    place = quantized["fp8" if form == "fp8" else "fp8 plain"] / "model.safetensors"
    stored = load_file(place)
    name = next(name for name in stored if name.endswith("up_proj.weight"))
    index = torch.zeros(stored[name].shape[1], dtype=torch.int32)
    if form == "fp8":
        stored[f"{name}_g_idx"] = index
    else:
        stored[f"{name.removesuffix('.weight')}.g_idx"] = index
    save_file(stored, place)

    [problem] = make_plan(read_recipe(linear(place.parent, place.parent))).problems

    assert problem.code == "quantized"
