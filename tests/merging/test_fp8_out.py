"""Results in eight-bit floats with scales: the bits of the rounded truth, readable by us and by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    FineGrainedFP8Config,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from checkpoints import open_checkpoint
from merging import MergeError, Plan, make_plan, merge_into_memory, read_recipe, run_plan
from merging.engine.run import ENGINES
from merging.engine.scaled import bands, rounded
from merging.fp8 import FP8
from tests.hub import Hub
from tests.tiny import tiny_llama

SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 4, "num_hidden_layers": 2}
FORMS = list(FP8)


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("wide")
    one = tiny_llama(place / "one", 1, **SIZES)
    return [one, tiny_llama(place / "two", 2, one, **SIZES)]


def recipe(models: list[Path], **keys: str) -> str:
    entries = "".join(f"  - {{model: {model}, parameters: {{weight: 1}}}}\n" for model in models)
    return f"merge_method: linear\nmodels:\n{entries}" + "".join(f"{k}: {v}\n" for k, v in keys.items())


def planned(models: list[Path], **keys: str) -> Plan:
    plan = make_plan(read_recipe(recipe(models, **keys)))
    assert plan.problems == ()
    return plan


def by_hand(matrix: torch.Tensor, form: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight-bit numbers and scales of a float32 matrix, block by block."""
    height, width = FP8[form].block[0], FP8[form].block[1] or matrix.shape[1]
    eight = torch.empty(matrix.shape, dtype=torch.float8_e4m3fn)
    scales = torch.empty(matrix.shape[0] // height, matrix.shape[1] // width)
    for row in range(scales.shape[0]):
        for column in range(scales.shape[1]):
            part = (slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
            scales[row, column] = matrix[part].abs().max() / 448
            eight[part] = (matrix[part] / scales[row, column]).to(torch.float8_e4m3fn)
    return eight, scales


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: str(engine.name))
def test_the_result_is_the_rounded_truth(form: str, engine: Any, parents: list[Path], tmp_path: Path) -> None:
    run_plan(planned(parents, out_dtype="float32"), str(tmp_path / "exact"))
    run_plan(planned(parents), str(tmp_path / "plain"))
    plan = planned(parents, out_dtype=form)

    run_plan(plan, str(tmp_path / "out"), workers=2, on=engine)

    exact, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("exact", "plain"))
    out = load_file(tmp_path / "out/model.safetensors")
    expected: dict[str, torch.Tensor] = {}
    truth = {}
    for name, tensor in plain.items():
        if name.endswith("proj.weight"):
            expected[name], expected[name + FP8[form].suffix] = eight, scales = by_hand(exact[name], form)
            height, width = eight.shape[0] // scales.shape[0], eight.shape[1] // scales.shape[1]
            truth[name] = eight.float() * torch.kron(scales, torch.ones(height, width))
        else:
            truth[name] = expected[name] = tensor
    assert out.keys() == expected.keys()
    for name, tensor in expected.items():
        assert out[name].dtype == tensor.dtype, name
        assert out[name].view(torch.uint8).equal(tensor.view(torch.uint8)), name
    assert plan.bytes_out == sum(tensor.nbytes for tensor in out.values())
    assert plan.shards[0].bytes == (tmp_path / "out/model.safetensors").stat().st_size
    assert Plan.from_json(plan.to_json()) == plan
    with_scales = open_checkpoint(str(tmp_path / "out"))
    for name, tensor in truth.items():
        header = with_scales.tensors[name]
        data = bytearray(header.nbytes)
        with_scales.read_into(name, 0, memoryview(data))
        assert torch.frombuffer(
            data, dtype=getattr(torch, "float32" if header.dtype == "F32" else "bfloat16")
        ).equal(tensor.flatten()), name
    assert with_scales.tensors.keys() == plain.keys()


@pytest.mark.parametrize("form", FORMS)
def test_transformers_reads_it(form: str, parents: list[Path], tmp_path: Path) -> None:
    run_plan(planned(parents, out_dtype="float32"), str(tmp_path / "exact"))
    run_plan(planned(parents, out_dtype=form), str(tmp_path / "out"))
    settings = json.loads((tmp_path / "out/config.json").read_text())
    assert settings["dtype"] == "bfloat16"
    quantization = settings["quantization_config"]
    if quantization["quant_method"] == "fp8":
        assert FineGrainedFP8Config.from_dict(quantization).weight_block_size == [128, 128]
    else:
        group = QuantizationConfig.model_validate(quantization).config_groups["group_0"]
        assert (group.weights.strategy, group.weights.num_bits) == ("channel", 8)

    exact = AutoModelForCausalLM.from_pretrained(tmp_path / "exact", dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    if form == "float8_e4m3":  # it becomes plain where there is no GPU, with the scales' type
        model = model.float()
    tokens = torch.arange(40).view(1, -1)
    with torch.no_grad():
        found, expected = model(tokens).logits, exact(tokens).logits
    assert (found - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("form", FORMS)
def test_experts_have_scales_and_routers_have_none(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_attention_heads": 4, "head_dim": 32, "vocab_size": 256}
    experts = {"moe_intermediate_size": 128, "num_experts": 4, "num_experts_per_tok": 2}
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **experts)).save_pretrained(tmp_path / "model")
    plan = make_plan(read_recipe(recipe([tmp_path / "model"], out_dtype=form)))
    assert plan.problems == ()

    run_plan(plan, str(tmp_path / "out"))

    scaled = {tensor.name for tensor in plan.tensors if tensor.scales}
    assert len([name for name in scaled if ".mlp.experts." in name]) == 2 * 4 * 3
    assert not [name for name in scaled if name.endswith("mlp.gate.weight")]
    before, after = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32).state_dict()
        for name in ("model", "out")
    )
    name = "model.layers.1.mlp.experts.gate_up_proj"
    assert 0 < (after[name] - before[name]).norm() < 0.04 * before[name].norm()
    assert after["model.layers.1.mlp.gate.weight"].equal(before["model.layers.1.mlp.gate.weight"])


def test_shards_and_the_hub_hold_the_scales(
    parents: list[Path], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.add_user("ann"))
    text = recipe(parents, out_dtype="float8_e4m3")
    run_plan(make_plan(read_recipe(text)), str(tmp_path / "whole"))
    whole = load_file(tmp_path / "whole/model.safetensors")
    plan = make_plan(read_recipe(text), "hf://ann/out", shard_size=100_000)
    assert plan.problems == () and len(plan.shards) > 2

    run_plan(plan, "hf://ann/out")

    index = json.loads(hub.read("ann/out", "model.safetensors.index.json"))
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())


@pytest.mark.parametrize(
    ("sizes", "keys", "code", "words"),
    [
        ({}, {"dtype": "float8_e4m3"}, "fp8-dtype", "Write `out_dtype: float8_e4m3`."),
        (
            {"intermediate_size": 192},
            {"out_dtype": "float8_e4m3"},
            "fp8-shape",
            "`out_dtype: float8_e4m3_rows`",
        ),
        ({"intermediate_size": 136}, {"out_dtype": "float8_e4m3_rows"}, "fp8-shape", "[136, 128]"),
        ({"architectures": ["OurModel"]}, {"out_dtype": "float8_e4m3"}, "fp8-no-linear", "OurModel"),
    ],
)
def test_what_cannot_be_is_refused(
    sizes: dict[str, Any], keys: dict[str, str], code: str, words: str, tmp_path: Path
) -> None:
    own = {key: value for key, value in sizes.items() if key != "architectures"}
    model = tiny_llama(tmp_path / "model", 1, **{**SIZES, **own})
    if "architectures" in sizes:
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, **sizes, "model_type": "ours"}))
    try:
        problems = make_plan(read_recipe(recipe([model], **keys))).problems
    except MergeError as error:
        problems = error.problems

    [problem] = problems
    assert problem.code == code
    assert words in str(problem)


def test_scales_are_for_files(parents: list[Path]) -> None:
    plan = planned(parents, out_dtype="float8_e4m3")
    with pytest.raises(MergeError, match="safetensors files"):
        merge_into_memory(plan)
    first = f"{recipe(parents, out_dtype='float8_e4m3')}name: first\n---\n"
    chain = f"{first}merge_method: passthrough\nmodels: [{{model: first}}]\n"
    [problem] = make_plan(read_recipe(chain)).problems
    assert problem.code == "fp8-not-in-files"


def test_bands_do_not_depend_on_the_blocks() -> None:
    matrix = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    data = memoryview(bytearray(matrix.numpy().tobytes()))
    for step in (1, 4, 7, 60):
        blocks = [(start, data[start * 4 : (start + step) * 4]) for start in range(0, 60, step)]
        found = [(first, band.clone()) for first, band in bands(blocks, 4, 6)]
        assert [first for first, _ in found] == [0, 4, 8]
        assert torch.cat([band for _, band in found]).equal(matrix)


@pytest.mark.parametrize("form", FORMS)
def test_extreme_numbers_keep_their_blocks(form: str) -> None:
    """Zeros stay zeros, the largest is exact, the smallest do not become NaN."""
    band = torch.zeros(128, 256)
    band[1, :128] = torch.linspace(-1e38, 1e38, 128)
    band[2, 128:] = 1e-42

    scales, eight = rounded(band, FP8[form])

    values = eight.float()
    assert values.isfinite().all() and scales.isfinite().all()
    assert (values[0] == 0).all() and (values[1, 0], values[1, 127]) == (-448, 448)
