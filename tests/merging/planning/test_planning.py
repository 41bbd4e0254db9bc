"""Plans: every problem at once, without reading weights; and exactly what will be done when there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from checkpoints.problems import Place
from merging import Plan, make_plan, read_recipe, run_plan
from merging.planning import make
from merging.planning.result_tensors import ResultTensors
from merging.planning.runs import MAX_LAYERS
from tests.tiny import save_tokenizer, tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_llama(folder / "a", 1)
    tiny_llama(folder / "b", 2)
    tiny_llama(folder / "same", 9)
    tiny_llama(folder / "untied", 3, tie_word_embeddings=False)
    tiny_llama(folder / "shallow", 4, num_hidden_layers=3)
    tiny_llama(folder / "wide", 5, intermediate_size=160)
    tiny_llama(folder / "narrow", 8, hidden_size=32)
    tiny_llama(folder / "words", 6, vocab_size=260)
    tiny_llama(folder / "precise", 7, dtype=torch.float32)
    return folder


def plan_of(recipe: dict[str, Any], **options: Any) -> Plan:
    return make_plan(read_recipe(yaml.safe_dump(recipe)), **options)


def linear(*models: Path | str, **more: Any) -> dict[str, Any]:
    listed = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    return {"merge_method": "linear", "models": listed, **more}


def codes(plan: Plan) -> list[str]:
    return [problem.code for problem in plan.problems]


def test_a_plan_goes_through_json_unchanged(folder: Path) -> None:
    plan = plan_of(linear(folder / "a", folder / "b", dtype="float32"))

    assert plan.ok
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_says_what_will_be_done(folder: Path) -> None:
    plan = plan_of(linear(folder / "a", folder / "b"))

    tensor = next(t for t in plan.tensors if t.name == "model.layers.2.mlp.up_proj.weight")
    assert (tensor.dtype, tensor.shape, tensor.layer) == ("BF16", (128, 64), 2)
    assert tensor.parameters == {"weight": [0.5, 0.5], "normalize": True}
    assert [(plan.models[i.model].name, i.tensor) for i in tensor.inputs] == [
        (str(folder / "a"), tensor.name),
        (str(folder / "b"), tensor.name),
    ]
    weights = load_file(folder / "a/model.safetensors")
    size = sum(t.numel() * 2 for t in weights.values())
    assert (plan.bytes_in, plan.bytes_out) == (2 * size, size)
    assert {t.name for t in plan.tensors} == weights.keys()


def test_the_summary_is_what_programs_read(folder: Path) -> None:
    summary = plan_of(linear(folder / "a", folder / "b")).summary()

    assert summary["ok"] is True
    assert summary["problems"] == []
    assert (summary["tensors"], summary["shards"]) == (38, 1)
    assert {"bytes_in", "bytes_out", "peak_memory_bytes", "disk_bytes"} <= summary.keys()
    json.dumps(summary)


def test_all_missing_models_are_named_with_their_lines(folder: Path, hub: Any) -> None:
    text = f"""\
merge_method: linear
parameters: {{weight: 1}}
models:
  - model: {folder / "a"}
  - model: nobody/nothing
  - model: ../etc
"""
    plan = make_plan(read_recipe(text))

    assert [(p.code, p.where) for p in plan.problems] == [
        ("model-not-found", Place(5, 12)),
        ("no-folder-or-model-id", Place(6, 12)),
    ]


def test_a_server_reads_no_folders(folder: Path) -> None:
    plan = plan_of(linear(folder / "a"), allow_folders=False)

    assert codes(plan) == ["no-model-id"]


@pytest.mark.parametrize(
    ("other", "code", "said"),
    [
        ("shallow", "unequal-layers", "shallow: 3"),
        ("wide", "shape", "[160, 64] instead of [128, 64]"),
        ("narrow", "shape", "model.embed_tokens.weight [256, 32] instead of [256, 64]"),
        ("words", "vocabulary", "model.embed_tokens.weight [260, 64] instead of [256, 64]"),
    ],
)
def test_models_that_do_not_fit(folder: Path, other: str, code: str, said: str) -> None:
    [problem] = plan_of(linear(folder / "a", folder / other)).problems

    assert problem.code == code
    assert said in str(problem)
    assert problem.fix


def test_a_model_that_lacks_tensors(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "a/model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    (tmp_path / "config.json").write_text((folder / "a/config.json").read_text())
    save_file(weights, tmp_path / "model.safetensors")

    [problem] = plan_of(linear(tmp_path, folder / "a")).problems

    assert problem.code == "missing-keys"
    assert problem.where == str(tmp_path)
    assert "model.layers.1.mlp.up_proj.weight" in problem.message


def test_layers_beyond_the_model(folder: Path) -> None:
    source = {"model": str(folder / "a"), "layer_range": [2, 9]}

    [problem] = plan_of({"merge_method": "passthrough", "slices": [{"sources": [source]}]}).problems

    assert problem.code == "layer-range"
    assert "has 4 layers, 0 to 3; the recipe takes 2 to 8" in problem.message


def test_a_result_of_more_layers_than_are_stacked_is_refused_before_it_is_laid_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = {"sources": [{"model": str(folder / "a"), "layer_range": [0, 4]}]}
    monkeypatch.setattr(ResultTensors, "layer", None)

    plan = plan_of({"merge_method": "passthrough", "slices": [part] * (MAX_LAYERS // 4 + 1)})

    assert codes(plan) == ["too-many-layers"]
    assert plan.problems[0].values == {"count": MAX_LAYERS + 4, "most": MAX_LAYERS}


def test_a_result_has_no_more_tensors_than_can_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = {"sources": [{"model": str(folder / "a"), "layer_range": [0, 4]}]}
    recipe = {"merge_method": "passthrough", "slices": [part] * 3}
    monkeypatch.setattr("merging.planning.result_tensors.MAX_TENSORS", 50)

    assert codes(plan_of(linear(folder / "a", folder / "b"))) == []
    assert codes(plan_of(recipe)) == ["large-result"]


def test_filters_that_leave_a_tensor_out(folder: Path) -> None:
    recipe = linear(folder / "a", folder / "b")
    recipe["models"][1]["parameters"] = {"weight": [{"filter": "mlp", "value": 1}]}

    [problem] = plan_of(recipe).problems

    assert problem.code == "no-filter-matches"
    assert "No filter of `weight` matches model.embed_tokens.weight" in problem.message


@pytest.mark.parametrize(
    ("method", "first", "second", "said"),
    [
        ("linear", {"weight": 0.5}, {"weight": -0.5}, "the weights [0.5, -0.5] add up to zero"),
        ("multislerp", {"weight": 1}, {"weight": -1}, "the weights [1.0, -1.0] add up to zero"),
        (
            "della",
            {"weight": 1, "density": 0.9},
            {"weight": 1},
            "must be between 0 and 1, but with density 0.9 and epsilon 0.15 it goes from 0.75 to 1.05",
        ),
        (
            "della",
            {"weight": 1, "density": 0.9},
            {"weight": 1, "density": 0.1},
            "it goes from 0.75 to 1.05, with density 0.1 and epsilon 0.15 it goes from -0.05 to 0.25",
        ),
        ("della_linear", {"weight": 1}, {"weight": 1, "density": 0.3, "epsilon": 0.4}, "from -0.1 to 0.7"),
    ],
)
def test_parameters_that_do_not_go_together(
    folder: Path, method: str, first: dict[str, Any], second: dict[str, Any], said: str
) -> None:
    models = [
        {"model": str(folder / "a"), "parameters": first},
        {"model": str(folder / "b"), "parameters": second},
    ]
    base = {"base_model": str(folder / "same")} if method.startswith("della") else {}

    [problem] = plan_of({"merge_method": method, "models": models, **base}).problems

    assert problem.code == "parameters"
    assert said in problem.message
    assert "Change `weight`" in problem.fix


def test_the_problems_of_all_slices_are_found_at_once(folder: Path) -> None:
    def sources(*given: tuple[str, list[int], float]) -> dict[str, Any]:
        return {
            "sources": [
                {"model": str(folder / name), "layer_range": layers, "parameters": {"weight": weight}}
                for name, layers, weight in given
            ]
        }

    slices = [
        sources(("a", [3, 5], 1), ("shallow", [2, 4], 1)),
        sources(("a", [0, 2], 1), ("wide", [0, 2], 1)),
        sources(("a", [0, 1], 1), ("b", [0, 1], -1)),
    ]

    plan = plan_of({"merge_method": "linear", "slices": slices})

    assert sorted(codes(plan)) == ["layer-range", "layer-range", "parameters", "shape"]
    assert all(problem.fix for problem in plan.problems)


def test_another_architecture_is_what_the_config_names(folder: Path) -> None:
    model = {"model": str(folder / "a"), "override_architecture": "LlamaForSequenceClassification"}

    plan = plan_of({"merge_method": "passthrough", "models": [{"model": model}]})

    assert plan.ok
    assert json.loads(plan.files["config.json"])["architectures"] == ["LlamaForSequenceClassification"]


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({}, "no-config"),
        ({"a-q4_k_m.gguf": "x"}, "damaged-gguf"),
        ({"a-q4_k_m.gguf": "x", "a-q8_0.gguf": "x"}, "several-gguf"),
        ({"config.json": "{}"}, "no-weights"),
        ({"config.json": "nonsense"}, "not-json"),
        ({"config.json": "{}", "pytorch_model.bin": "x"}, "pickle-old"),
        ({"config.json": "{}", "consolidated.pth": "x"}, "pickle-only"),
        ({"config.json": "{}", "model.gguf": "x"}, "damaged-gguf"),
        ({"model-00001-of-00002.gguf": "x"}, "missing-shard"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": "x"}, "adapter"),
        ({"config.json": "{}", "model.safetensors": "x"}, "header-length"),
        ({"config.json": "{}", "model.safetensors": "\xff" * 20}, "header-length"),
        ({"config.json": "{}", "model.safetensors": "\x02\0\0\0\0\0\0\0[]"}, "header-unreadable"),
        ({"config.json": "{}", "model.safetensors": "\x02\0\0\0\0\0\0\0{}too long"}, "header-file-size"),
        (
            {"config.json": "{}", "model.safetensors.index.json": '{"weight_map": {"a": "b"}}'},
            "missing-shard",
        ),
    ],
)
def test_folders_that_are_no_models(files: dict[str, str], code: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode("latin-1"))

    assert codes(plan_of(linear(tmp_path))) == [code]


def quantized(folder: Path, to: Path, method: object, changes: dict[str, torch.Tensor | None]) -> Path:
    """A copy whose config says that it is quantized, with other tensors (None: without one)."""
    config = json.loads((folder / "a/config.json").read_text())
    config["quantization_config"] = config["text_config"] = {"quantization_config": 1, "quant_method": method}
    (to / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "a/model.safetensors") | changes
    save_file(
        {name: tensor for name, tensor in tensors.items() if tensor is not None}, to / "model.safetensors"
    )
    return to


WEIGHT = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({f"{WEIGHT}_scale": torch.ones(1)}, "quantized"),
        ({f"{WEIGHT}_scale_inv": torch.ones(1)}, "quantized"),
        ({WEIGHT: torch.ones(128, 64).to(torch.float8_e4m3fn)}, "quantized"),
        ({WEIGHT: torch.ones(128, 64, dtype=torch.int8)}, "quantized"),
        (
            {WEIGHT: None, WEIGHT.replace("weight", "qweight"): torch.ones(16, 64, dtype=torch.int32)},
            "unknown-quantization",
        ),
        ({f"{WEIGHT}.absmax": torch.ones(3)}, "quantized"),
        (
            {f"{WEIGHT}.quant_state.bitsandbytes__nf4": torch.ones(3, dtype=torch.uint8)},
            "unknown-quantization",
        ),
        (
            {WEIGHT.replace("weight", "weight_packed"): torch.ones(4, dtype=torch.int32)},
            "unknown-quantization",
        ),
    ],
)
def test_what_cannot_be_read_as_plain_numbers_is_refused(
    changes: dict[str, torch.Tensor | None], code: str, folder: Path, tmp_path: Path
) -> None:
    recipe = linear(folder / "b", quantized(folder, tmp_path, "gptq", changes))

    [problem] = plan_of(recipe).problems

    assert problem.code == code
    assert code != "quantized" or "gptq" in problem.message
    assert "averaged" not in problem.message


@pytest.mark.parametrize("method", ["fp8", None])
def test_plain_weights_are_judged_by_themselves(method: str | None, folder: Path, tmp_path: Path) -> None:
    """Whatever the config still says of the model that they were unpacked from."""
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    one = quantized(folder, tmp_path, method, buffers if method is None else {})
    plan = plan_of(linear(one, folder / "b"))

    assert plan.ok
    assert "plain-weights" in [warning.code for warning in plan.warnings]
    assert "quantization_config" not in plan.files["config.json"]


@pytest.mark.parametrize("name", ["k_scale", "q_scale", "attn.kv_scale", "k_proj.output_scale"])
def test_scales_of_a_cache_may_be_missing_somewhere(name: str, folder: Path, tmp_path: Path) -> None:
    scale = {f"model.layers.{layer}.self_attn.{name}": torch.tensor(0.5) for layer in range(4)}
    scaled = quantized(folder, tmp_path, None, scale)
    (tmp_path / "config.json").write_text((folder / "a/config.json").read_text())

    for models in [(scaled, folder / "b"), (folder / "b", scaled)]:
        plan = plan_of(linear(*models))
        assert plan.ok
        assert "derived-tensor" in [warning.code for warning in plan.warnings]


def test_a_head_of_its_own_makes_the_result_untied(folder: Path) -> None:
    plan = plan_of(linear(folder / "a", folder / "untied"))

    head = next(tensor for tensor in plan.tensors if tensor.name == "lm_head.weight")
    assert [part.tensor for part in head.inputs] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert json.loads(plan.files["config.json"])["tie_word_embeddings"] is False


def test_a_matrix_that_is_only_called_like_a_head_unties_nothing(folder: Path, tmp_path: Path) -> None:
    for name in "ab":
        weights = load_file(folder / name / "model.safetensors")
        weights["mask_decoder.iou_prediction_head.proj_out.weight"] = torch.ones(4, 32)
        (tmp_path / name).mkdir()
        save_file(weights, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / name / "config.json").write_text((folder / name / "config.json").read_text())

    plan = plan_of(linear(tmp_path / "a", tmp_path / "b"))

    assert json.loads(plan.files["config.json"])["tie_word_embeddings"] is True


def test_tied_models_stay_tied(folder: Path) -> None:
    plan = plan_of(linear(folder / "a", folder / "b"))

    assert "lm_head.weight" not in {tensor.name for tensor in plan.tensors}
    assert json.loads(plan.files["config.json"])["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("models", "asked", "dtype"),
    [
        (["a", "b"], {}, "BF16"),
        (["a", "precise"], {}, "F32"),
        (["a", "b"], {"dtype": "float16"}, "F16"),
        (["a", "b"], {"dtype": "float32", "out_dtype": "bfloat16"}, "BF16"),
    ],
)
def test_dtype_of_the_result(folder: Path, models: list[str], asked: dict[str, str], dtype: str) -> None:
    plan = plan_of(linear(*(folder / name for name in models), **asked))

    assert {tensor.dtype for tensor in plan.tensors} == {dtype}
    names = {"BF16": "bfloat16", "F32": "float32", "F16": "float16"}
    assert json.loads(plan.files["config.json"])["dtype"] == names[dtype]


def test_what_one_model_decides_is_copied(folder: Path) -> None:
    recipe = linear(folder / "a", folder / "b")
    recipe["models"][1]["parameters"] = {"weight": [{"filter": "mlp", "value": 1}, {"value": 0}]}
    plan = plan_of(recipe)

    for tensor in plan.tensors:
        assert (tensor.copied_from is None) == ("mlp" in tensor.name)
    recipe["dtype"] = "float16"  # another type is no copy
    assert all(tensor.copied_from is None for tensor in plan_of(recipe).tensors)


def test_no_trace_of_a_parents_path(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "a/config.json").read_text())
    config |= {"_name_or_path": "/home/me/secret", "text_config": {"_name_or_path": "/home/me/secret"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text('{"name_or_path": "/home/me/secret", "eos_token": "x"}')
    save_file(load_file(folder / "a/model.safetensors"), tmp_path / "model.safetensors")

    plan = plan_of({"merge_method": "passthrough", "models": [{"model": str(tmp_path)}]})

    assert "secret" not in plan.files["config.json"] + plan.files["tokenizer_config.json"]
    assert json.loads(plan.files["tokenizer_config.json"]) == {"eos_token": "x"}


def test_stacking_rebuilds_lists_that_have_an_entry_a_layer(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "a/config.json").read_text())
    config |= {"layer_types": ["w", "x", "y", "z"], "eos_token_id": [1, 2, 3, 4], "max_window_layers": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(load_file(folder / "a/model.safetensors"), tmp_path / "model.safetensors")
    sources = [[{"model": str(tmp_path), "layer_range": r}] for r in ([0, 3], [2, 4])]

    plan = plan_of({"merge_method": "passthrough", "slices": [{"sources": s} for s in sources]})

    written = json.loads(plan.files["config.json"])
    assert written["num_hidden_layers"] == 5
    assert written["layer_types"] == ["w", "x", "y", "y", "z"]
    assert written["eos_token_id"] == [1, 2, 3, 4]
    assert plan.models[0].layers == 4


def test_a_large_result_has_larger_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """About a hundred, as the Hub advises for a commit; here about three. What is asked for is kept."""
    monkeypatch.setattr(make, "SHARD_SIZE", 1000)
    monkeypatch.setattr(make, "FILES", 3)
    text = linear(folder / "a", folder / "b")

    large, asked = (plan_of(text, **size) for size in ({}, {"shard_size": 60_000}))

    assert max(shard.bytes for shard in large.shards) > 60_000
    assert 3 <= len(large.shards) <= 4
    assert len(asked.shards) == 6
    monkeypatch.setattr(make, "SHARD_SIZE", 10**9)
    assert len(plan_of(text).shards) == 1


def test_shards_are_filled_in_the_order_of_the_model(folder: Path) -> None:
    plan = plan_of(linear(folder / "a", folder / "b"), shard_size=100_000)

    count = len(plan.shards)
    assert count > 1
    assert [s.filename for s in plan.shards] == [
        f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)
    ]
    assert all(sum(t.bytes for t in shard.tensors) <= 100_000 for shard in plan.shards)
    layers = [
        max(t.layer for t in s.tensors if t.layer is not None) for s in plan.shards if s.tensors[0].layer
    ]
    assert layers == sorted(layers)
    index = json.loads(plan.files["model.safetensors.index.json"])
    assert index["weight_map"] == {t.name: s.filename for s in plan.shards for t in s.tensors}
    assert index["metadata"]["total_size"] == plan.bytes_out


def test_the_header_is_the_one_that_safetensors_writes(folder: Path, tmp_path: Path) -> None:
    from merging.plan import shard_header

    plan = plan_of(linear(folder / "a", folder / "precise"))
    [shard] = plan.shards
    tensors = {t.name: torch.zeros(t.shape, dtype=torch.float32) for t in shard.tensors}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})

    header = shard_header(shard)

    assert (tmp_path / "x.safetensors").read_bytes()[: len(header)] == header
    assert (tmp_path / "x.safetensors").stat().st_size == shard.bytes
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert set(file.keys()) == {t.name for t in plan.tensors}


def test_a_file_of_several_dtypes_is_the_one_that_safetensors_writes(folder: Path, tmp_path: Path) -> None:
    """It puts wide elements first, so that all are aligned, and sorts by name among equals."""
    tensors = load_file(folder / "a/model.safetensors")
    wide = [name for name in tensors if "norm" in name or "up_proj" in name]
    mixed = tensors | {name: tensors[name].float() for name in wide}
    mixed |= {name: tensors[name].half() for name in tensors if "k_proj" in name}
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text((folder / "a/config.json").read_text())
    save_file(mixed, model / "model.safetensors", metadata={"format": "pt"})

    recipe = read_recipe(yaml.safe_dump({"merge_method": "passthrough", "models": [{"model": str(model)}]}))
    run_plan(make_plan(recipe, str(tmp_path / "out")), str(tmp_path / "out"))

    assert {tensor.dtype for tensor in mixed.values()} == {torch.float32, torch.float16, torch.bfloat16}
    assert (tmp_path / "out/model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_a_model_without_tokenizer_is_a_warning(folder: Path) -> None:
    plan = plan_of(linear(folder / "a"))

    assert plan.ok
    assert [warning.code for warning in plan.warnings] == ["result-without-tokenizer"]


def test_the_tokenizer_comes_from_where_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "b/config.json").read_text())
    save_file(load_file(folder / "b/model.safetensors"), tmp_path / "model.safetensors")
    save_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{}")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates/tools.jinja").write_text("x")

    plan = plan_of(linear(folder / "a", tmp_path, tokenizer_source=str(tmp_path), base_model=str(tmp_path)))

    names = ("additional_chat_templates/tools.jinja", "chat_template.jinja", "tokenizer.json")
    assert plan.copied_files == dict.fromkeys(names, 0)
    assert "tokenizer-assumed" in [warning.code for warning in plan.warnings]  # a has none
