"""Mixtures of experts: made of dense models, loaded by transformers, and compared with what they are made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merging import Plan, Problem, make_plan, read_recipe, run_plan
from merging.engine.run import ENGINES
from merging.experts.architectures import ARCHITECTURES
from merging.plan import PlannedTensor
from tests.merges import weight_files
from tests.merging.experts.dense import (
    HIDDEN,
    LAYERS,
    MIXTURES,
    ROWS,
    WIDTH,
    dense,
    loaded,
    logits,
    made,
    recipe,
)

KINDS = ("llama", "mistral", "qwen2", "qwen3")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each family a base and two others: `llama/base`, `llama/a`, `llama/b`, ..."""
    folder = tmp_path_factory.mktemp("dense")
    for kind in KINDS:
        for seed, name in enumerate(("base", "a", "b")):
            dense(folder / kind / name, kind, seed)
    return folder


def problems(text: str) -> list[Problem]:
    return list(make_plan(read_recipe(text)).problems)


def by_name(plan: Plan) -> dict[str, PlannedTensor]:
    return {tensor.name: tensor for tensor in plan.tensors}


@pytest.mark.parametrize(("kind", "has_shared"), MIXTURES)
def test_equal_experts_are_the_dense_model(kind: str, has_shared: bool, models: Path, tmp_path: Path) -> None:
    """Whatever the router says: the weights of the chosen experts add up to one."""
    base = models / kind / "base"
    silent = {"source_model": base, "residual_scale": 0} if has_shared else None

    made(recipe(base, [base, base, base], shared=silent), tmp_path / "out")

    torch.testing.assert_close(logits(loaded(tmp_path / "out")), logits(loaded(base)), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(("kind", "has_shared"), MIXTURES)
def test_a_mixture_loads_whole_and_is_made_of_copies(
    kind: str, has_shared: bool, models: Path, tmp_path: Path
) -> None:
    folder = models / kind
    text = recipe(
        folder / "base", [folder / "a", folder / "b"], shared=folder / "base" if has_shared else None
    )

    plan = made(text, tmp_path / "out")

    model = loaded(tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert type(model).__name__ == config["architectures"][0] == plan.mixture.architecture  # type: ignore[union-attr]
    found = load_file(tmp_path / "out/model.safetensors")
    source = {name: load_file(folder / name / "model.safetensors") for name in ("base", "a", "b")}
    architecture = next(each for each in ARCHITECTURES if each.model_class == config["architectures"][0])
    for layer in range(LAYERS):
        for number, name in enumerate(("a", "b")):
            for matrix in ("gate_proj", "up_proj", "down_proj"):
                own = f"model.layers.{layer}.{architecture.expert_name(number, matrix)}"
                assert torch.equal(found[own], source[name][f"model.layers.{layer}.mlp.{matrix}.weight"])
                assert by_name(plan)[own].copied_from == 0
        assert found[f"model.layers.{layer}.{architecture.router}"].shape == (2, HIDDEN)
    for name, tensor in source["base"].items():
        if ".mlp." not in name:
            assert torch.equal(found[name], tensor)
    assert Plan.from_json(plan.to_json()) == plan
    assert (tmp_path / "out/mergekit_moe_config.yml").read_text() == text


def test_a_shared_expert_counts_by_its_scale(models: Path, tmp_path: Path) -> None:
    base = models / "qwen2/base"
    shared = {"source_model": models / "qwen2/a", "residual_scale": 0.25}

    made(recipe(base, [base, base], shared=shared), tmp_path / "out")

    found = load_file(tmp_path / "out/model.safetensors")
    dense_model = load_file(models / "qwen2/a/model.safetensors")
    wanted = dense_model["model.layers.1.mlp.down_proj.weight"] * 0.25  # exact: a power of two
    assert torch.equal(found["model.layers.1.mlp.shared_expert.down_proj.weight"], wanted)
    assert found["model.layers.1.mlp.shared_expert_gate.weight"].shape == (1, HIDDEN)


def test_a_llama_with_a_shared_expert_has_biases_of_zeros(models: Path, tmp_path: Path) -> None:
    base = models / "llama/base"

    made(recipe(base, [base, base], shared=base), tmp_path / "out")

    found = load_file(tmp_path / "out/model.safetensors")
    assert not found["model.layers.0.self_attn.k_proj.bias"].any()
    assert json.loads((tmp_path / "out/config.json").read_text())["qkv_bias"] is True


def test_what_is_random_depends_on_the_seed_alone(models: Path, tmp_path: Path) -> None:
    noisy = {"source_model": models / "llama/a", "noise_scale": 0.5}
    text = recipe(models / "llama/base", [noisy, models / "llama/b"], gate_mode="random", seed=7)
    results = []
    for number, (engine, workers) in enumerate([(ENGINES[0], 2), (ENGINES[1], 1), (ENGINES[1], 3)]):
        made(text, tmp_path / str(number), workers=workers, on=engine)
        results.append(weight_files(tmp_path / str(number)))
    made(text.replace("seed: 7", "seed: 8"), tmp_path / "other")

    assert results[0] == results[1] == results[2]
    assert results[0] != weight_files(tmp_path / "other")
    found = load_file(tmp_path / "0/model.safetensors")
    name = "model.layers.2.block_sparse_moe.experts.0.w3.weight"
    plain = load_file(models / "llama/a/model.safetensors")["model.layers.2.mlp.up_proj.weight"]
    noise = (found[name] - plain).float()
    assert noise.std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(noise.mean().item()) < 0.05
    rows = torch.stack(
        [found[f"model.layers.{n}.block_sparse_moe.gate.weight"] for n in range(LAYERS)]
    ).float()
    assert rows.std().item() == pytest.approx(1, rel=0.2)
    assert not torch.equal(rows[0], rows[1])


def test_uniform_rows_stay_within_their_bounds(models: Path, tmp_path: Path) -> None:
    base = models / "qwen3/base"

    made(recipe(base, [base] * 8), tmp_path / "out")

    found = load_file(tmp_path / "out/model.safetensors")
    rows = torch.cat([found[f"model.layers.{n}.mlp.gate.weight"] for n in range(LAYERS)]).float()
    bound = HIDDEN**-0.5
    assert rows.abs().max() <= bound * 1.01  # rounded to bfloat16
    assert rows.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_a_result_has_the_dtype_that_is_asked_for(models: Path, tmp_path: Path) -> None:
    base = models / "llama/base"

    plan = made(recipe(base, [base, base], dtype="float32"), tmp_path / "out")

    assert {tensor.dtype for tensor in plan.tensors} == {"F32"}
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float32"


def test_shared_weights_are_averaged_where_asked(models: Path, tmp_path: Path) -> None:
    folder = models / "llama"
    text = recipe(folder / "base", [folder / "a", folder / "b"], shared_weights="average")

    made(text, tmp_path / "out")

    found = load_file(tmp_path / "out/model.safetensors")
    a, b = (load_file(folder / name / "model.safetensors") for name in "ab")
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"):
        wanted = ((a[name].float() + b[name].float()) / 2).bfloat16()
        assert torch.equal(found[name], wanted), name
    loaded(tmp_path / "out")


def test_a_head_of_its_own_and_a_tied_one(models: Path, tmp_path: Path) -> None:
    dense(tmp_path / "tied", "qwen2", 5, tie_word_embeddings=True)

    made(recipe(tmp_path / "tied", [tmp_path / "tied"] * 2, shared=tmp_path / "tied"), tmp_path / "out")

    model = loaded(tmp_path / "out")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_settings_that_a_config_leaves_out_keep_their_meaning(models: Path, tmp_path: Path) -> None:
    """Classes differ in what a missing key means: the base of the rotation, the epsilon of norms."""
    dense(tmp_path / "bare", "llama", 3)
    path = tmp_path / "bare/config.json"
    config = json.loads(path.read_text())
    for key in ("rope_parameters", "rope_theta", "rms_norm_eps", "head_dim", "tie_word_embeddings"):
        config.pop(key, None)
    path.write_text(json.dumps(config))

    made(recipe(tmp_path / "bare", [tmp_path / "bare"] * 2), tmp_path / "out")

    right, found = logits(loaded(tmp_path / "bare")), logits(loaded(tmp_path / "out"))
    torch.testing.assert_close(found, right, atol=2e-4, rtol=2e-4)


def test_a_window_stays_as_wide(tmp_path: Path) -> None:
    dense(tmp_path / "base", "mistral", 3, sliding_window=4)

    made(recipe(tmp_path / "base", [tmp_path / "base"] * 2), tmp_path / "out")

    right, found = logits(loaded(tmp_path / "base")), logits(loaded(tmp_path / "out"))
    torch.testing.assert_close(found, right, atol=2e-4, rtol=2e-4)
    assert problems(recipe(tmp_path / "base", [tmp_path / "base"] * 2, shared=tmp_path / "base"))[0].code == (
        "mixture-window"
    )


def test_a_mixture_can_be_used_by_another_recipe(models: Path, tmp_path: Path) -> None:
    base = models / "llama/base"
    mixture = recipe(base, [models / "llama/a", models / "llama/b"], name="mixture", gate_mode="random")
    text = f"{mixture}---\nmerge_method: passthrough\nmodels: [{{model: mixture}}]\n"

    made(text, tmp_path / "chained")

    tensors = load_file(tmp_path / "chained/model.safetensors")
    assert tensors["model.layers.0.block_sparse_moe.gate.weight"].any()
    loaded(tmp_path / "chained")


def test_a_merge_can_be_an_expert(models: Path, tmp_path: Path) -> None:
    folder = models / "llama"
    merge = (
        f"name: soup\nmerge_method: linear\nmodels: [{{model: {folder / 'a'}}}, {{model: {folder / 'b'}}}]\n"
        "parameters: {weight: 1}\n"
    )
    text = f"{merge}---\n{recipe(folder / 'base', ['soup', folder / 'a'])}"

    made(text, tmp_path / "out")

    found = load_file(tmp_path / "out/model.safetensors")[
        "model.layers.0.block_sparse_moe.experts.0.w2.weight"
    ]
    a, b = (
        load_file(folder / name / "model.safetensors")["model.layers.0.mlp.down_proj.weight"] for name in "ab"
    )
    assert torch.equal(found, ((a.float() + b.float()) / 2).bfloat16())


def test_what_does_not_fit_is_a_sentence(models: Path, tmp_path: Path) -> None:
    base, a = models / "llama/base", models / "llama/a"
    short = dense(tmp_path / "short", "llama", 1, num_hidden_layers=2)
    wide = dense(tmp_path / "wide", "llama", 1, intermediate_size=64)
    other = dense(tmp_path / "other", "llama", 1, hidden_size=16)
    gelu = dense(tmp_path / "gelu", "llama", 1, hidden_act="gelu")
    biased = dense(tmp_path / "biased", "llama", 1, mlp_bias=True)
    attentive = dense(tmp_path / "attentive", "llama", 1, attention_bias=True)
    qwen = models / "qwen2/base"
    made(recipe(base, [base, a]), tmp_path / "moe")
    cases = {
        "expert-layers": recipe(base, [a, short]),
        "expert-width": recipe(base, [a, wide]),
        "expert-shape": recipe(base, [a, other]),
        "expert-activation": recipe(base, [a, gelu]),
        "not-dense": recipe(base, [a, biased]),
        "mixture-has-no-place": recipe(attentive, [a, a]),
        "mixture-base": recipe(tmp_path / "moe", [a, a]),
        "needs-shared-expert": recipe(qwen, [qwen, qwen]),
        "no-shared-expert": recipe(
            models / "qwen3/base", [models / "qwen3/a"] * 2, shared=models / "qwen3/b"
        ),
        "deepseek-mixture": recipe(base, [a, a], architecture="deepseek"),
        "mixture-architecture": recipe(base, [a, a], architecture="gemma"),
        "mixture-of-others": recipe(base, [a, a], architecture="qwen3 moe"),
    }
    for code, text in cases.items():
        found = problems(text)
        assert [problem.code for problem in found] == [code], (code, found)
        assert all(problem.message for problem in found)


def test_headers_tell_what_makes_a_mixture_useless(models: Path) -> None:
    base = models / "llama/base"

    plan = make_plan(read_recipe(recipe(base, [models / "llama/a", models / "llama/b"])))

    assert {"random-routers", "every-expert"} <= {warning.code for warning in plan.warnings}
    assert plan.bytes_out == sum(tensor.bytes for tensor in plan.tensors)
    experts = LAYERS * 2 * 3 * HIDDEN * WIDTH
    routers = LAYERS * 2 * HIDDEN
    attention = LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN // 2 + 2 * HIDDEN)
    assert plan.bytes_out == 2 * (experts + routers + attention + 2 * ROWS * HIDDEN + HIDDEN)


def test_the_card_says_what_the_experts_are(models: Path, tmp_path: Path) -> None:
    base = models / "llama/base"

    made(recipe(base, [models / "llama/a", base]), tmp_path / "out")

    card = (tmp_path / "out/README.md").read_text()
    assert "A mixture of 2 experts (MixtralForCausalLM)" in card
    assert "| 0 | `a` |" in card
    assert "| 1 | `base` |" in card
    assert str(tmp_path) not in card.partition("## Recipe")[0]
    assert "- moe" in card


def test_a_run_needs_no_recipe(models: Path, tmp_path: Path) -> None:
    base = models / "llama/base"
    plan = make_plan(read_recipe(recipe(base, [base, models / "llama/a"], gate_mode="random")))

    run_plan(Plan.from_json(plan.to_json()), str(tmp_path / "one"))
    run_plan(plan, str(tmp_path / "two"))

    assert weight_files(tmp_path / "one") == weight_files(tmp_path / "two")
