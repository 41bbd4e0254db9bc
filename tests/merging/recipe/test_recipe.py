"""Reading recipes: mergekit's language in full, and every fault at once with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkpoints.problems import Place
from checkpoints.yaml import RECIPE
from merging import RecipeError, read_recipe
from merging.recipe.gradients import ConditionalParameter, on_gradient, value_at
from merging.recipe.reader import MOST_MODELS
from merging.recipe.recipe import AdapterReference, ModelReference, Source
from merging.recipe.yaml import MOST_PROBLEMS

GRADIENT_SLERP = """\
slices:
  - sources:
      - model: org/first
        layer_range: [0, 48]
      - model: org/second@v1.0
        layer_range: [0, 48]
merge_method: slerp
base_model: org/first
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: float16
"""


def problems(text: str) -> list[tuple[str, str]]:
    """Code and place of everything that is wrong with a recipe."""
    with pytest.raises(RecipeError) as caught:
        read_recipe(text)
    return [(problem.code, problem.where) for problem in caught.value.problems]


def test_a_slerp_with_gradients_reads_in_full() -> None:
    recipe = read_recipe(GRADIENT_SLERP)

    assert recipe.merge_method == "slerp"
    assert recipe.base_model == ModelReference("org/first")
    assert recipe.dtype == "float16"
    first, second = recipe.slices[0].sources
    assert (first.model, first.layer_range) == (ModelReference("org/first"), (0, 48))
    assert second.model == ModelReference("org/second", "v1.0")
    assert recipe.parameters["t"] == (
        ConditionalParameter((0.0, 0.5, 0.3, 0.7, 1.0), "self_attn"),
        ConditionalParameter((1.0, 0.5, 0.7, 0.3, 0.0), "mlp"),
        ConditionalParameter(0.5),
    )
    assert recipe.references() == (ModelReference("org/first"), ModelReference("org/second", "v1.0"))
    assert recipe.text == GRADIENT_SLERP


def test_json_is_a_recipe_too() -> None:
    models = [{"model": "a/b", "parameters": {"weight": 1}}]

    recipe = read_recipe(json.dumps({"merge_method": "linear", "models": models}))

    assert recipe.models == (
        Source(ModelReference("a/b"), parameters={"weight": (ConditionalParameter(1.0),)}),
    )


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("0.5", (ConditionalParameter(0.5),)),
        ("[0, 1]", (ConditionalParameter((0.0, 1.0)),)),
        ("{filter: mlp, value: 0.5}", (ConditionalParameter(0.5, "mlp"),)),
        (
            "[{filter: mlp, value: [0, 1]}, {value: 1e-1}]",
            (ConditionalParameter((0.0, 1.0), "mlp"), ConditionalParameter(0.1)),
        ),
        ("[]", None),
    ],
)
def test_forms_of_a_setting(setting: str, expected: tuple[ConditionalParameter, ...] | None) -> None:
    text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n"
    recipe = read_recipe(text + f"parameters: {{weight: {setting}}}")

    assert recipe.parameters.get("weight") == expected


def test_the_dict_form_of_a_model() -> None:
    text = "merge_method: linear\nmodels: [{model: {model: {path: a+b@c, revision: r}}, parameters: {weight: 1}}]"

    assert read_recipe(text).models[0].model == ModelReference("a+b@c", "r")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("a@1+b@2+c", ModelReference("a", "1", (AdapterReference("b", "2"), AdapterReference("c")))),
        ("{model: {path: a, revision: r}, lora: {path: b, revision: s}}", "a@r+b@s"),
        ("{model: a@r, adapters: [b@s, {model: {path: c+d}, scale: 0.5}]}", "a@r+b@s+c+d (scale 0.5)"),
        ("{model: a+b, lora: c}", "a+b+c"),
        ("{model: a@r, override_architecture: X}", ModelReference("a", "r", architecture="X")),
    ],
)
def test_adapters_behind_a_model(model: str, expected: ModelReference | str) -> None:
    [source] = read_recipe(f"merge_method: passthrough\nmodels: [{{model: {model}}}]").models

    assert (str(source.model) if isinstance(expected, str) else source.model) == expected


def test_what_mergekit_reads_and_does_nothing_with_is_let_through() -> None:
    text = """\
merge_method: slerp
base_model: a
dtype: torch.bfloat16
parameters: {t: 0.5, embed_slerp: true}
slices:
  - residual_weight: 0.1
    sources: [{model: a, layer_range: [0, 0]}, {model: b, layer_range: [4, 4]}]
"""
    recipe = read_recipe(text)

    assert recipe.dtype == "bfloat16"
    assert set(recipe.parameters) == {"t"}
    assert [source.layer_range for source in recipe.slices[0].sources] == [(0, 0), (4, 4)]


def test_a_folder_with_a_plus_or_an_at_in_its_name_is_that_folder(tmp_path: Path) -> None:
    for name in ("base+more@home", "ada@work+b"):
        (tmp_path / name).mkdir()
    base, adapter = f"{tmp_path}/base+more@home", f"{tmp_path}/ada@work+b"

    [source] = read_recipe(f"merge_method: passthrough\nmodels: [{{model: {base}+{adapter}+c@d}}]").models

    assert source.model == ModelReference(base, None, (AdapterReference(adapter), AdapterReference("c", "d")))


def test_parameters_that_change_nothing_are_let_through() -> None:
    text = "merge_method: ties\nbase_model: a\nmodels: [{model: b, parameters: {weight: 1}}]\n"

    assert read_recipe(text + "parameters: {int8_mask: true, normalize: 1}").parameters == {
        "normalize": (ConditionalParameter(True),)
    }


def test_every_fault_is_found_at_once() -> None:
    text = """\
merge_method: ties
base_model: a/base
models:
  - model: a/b
    paramters: {weight: 1}
  - model: a/c
    parameters: {densty: 0.5, weight: much}
dtype: bf16
extra: 1
extra: 2
"""
    assert problems(text) == [
        ("missing-parameter", Place(4, 12)),
        ("unknown-key", Place(5, 5)),
        ("unknown-parameter", Place(7, 18)),
        ("parameter-value", Place(7, 39)),
        ("dtype", Place(8, 8)),
        ("unknown-key", Place(9, 1)),
        ("repeated-key", Place(10, 1)),
    ]


@pytest.mark.parametrize("slip", [("method", "metod"), ("models", "modles")])
def test_a_misspelt_key_is_not_missing_as_well(slip: tuple[str, str]) -> None:
    text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]"

    assert [code for code, _ in problems(text.replace(*slip))] == ["unknown-key"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("a: [", "yaml"),
        ("a: b: c", "yaml"),
        ("[" * 100_000, "too-deep"),
        ("a: " + "x" * RECIPE, "too-long"),
        ("a: &a [*a]", "endless-alias"),
        ("a: !!python/name:os.system x", "yaml-tag"),
        ("- 1", "not-a-mapping"),
        ("models: [{model: a}]", "no-method"),
        ("merge_method: linear", "no-models"),
        ("merge_method: dare-ties\nmodels: [{model: a}]", "unknown-method"),
        ("merge_method: [1]\nmodels: [{model: a}]", "not-text"),
        ("merge_method: linear\nmodels: []", "not-a-list"),
        ("merge_method: linear\nmodels: 3", "not-a-list"),
        ("merge_method: linear\nmodels: [3]", "not-a-mapping"),
        ("merge_method: linear\nmodels: [{parameters: {weight: 1}}]", "no-model"),
        ("merge_method: linear\nmodels: [{model: a@, parameters: {weight: 1}}]", "model-name"),
        ("merge_method: linear\nmodels: [{model: a+, parameters: {weight: 1}}]", "model-name"),
        ("merge_method: linear\nmodels: [{model: a+b@, parameters: {weight: 1}}]", "model-name"),
        ("merge_method: passthrough\nmodels: [{model: {model: a, adapters: [b+c]}}]", "several-adapters"),
        ("merge_method: passthrough\nmodels: [{model: {model: a, adapters: []}}]", "not-a-list"),
        (
            "merge_method: passthrough\nmodels: [{model: {model: a, adapters: [{model: b, scale: x}]}}]",
            "scale",
        ),
        (
            "merge_method: passthrough\nmodels: [{model: {model: a, lora: b, adapters: [c]}}]",
            "lora-or-adapters",
        ),
        ("merge_method: passthrough\nmodels: [{model: {override_architecture: x}}]", "no-model"),
        ("merge_method: passthrough\nmodels: [{model: {model: a, override_architecture: []}}]", "not-text"),
        ("merge_method: passthrough\nmodels: [{model: {model: {revision: a}}}]", "no-path"),
        ("merge_method: passthrough\nmodels: [{model: a, layer_range: [0, 4]}]", "layers-of-models"),
        ("merge_method: passthrough\nmodels: [{model: a}]\nslices: [{sources: []}]", "models-or-slices"),
        ("merge_method: passthrough\nmodels: [{model: a}]\ndtype: int64", "dtype"),
        ("merge_method: passthrough\nmodels: [{model: a}]\nseed: -1", "seed"),
        ("merge_method: passthrough\nmodules: {}", "no-modules"),
        ("merge_method: passthrough\nmodules: {text: {}}", "no-models"),
        (
            "merge_method: passthrough\nmodules: {text: {models: [{model: a}], slices: []}}",
            "models-or-slices",
        ),
        ("genome: {models: [a, b], merge_method: ties}\ntasks: []", "other-program"),
        ("merge_method: linear\nmodels: [{model: a}]", "missing-parameter"),
        ("merge_method: linear\nmodels: [{model: a, parameters: {weight: .inf}}]", "parameter-value"),
        ("merge_method: slerp\nmodels: [{model: a}, {model: b}]\nparameters: {t: 1}", "no-base"),
        (
            "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}, {model: c}]\nparameters: {t: 1}",
            "number-of-models",
        ),
        ("merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: 1.5}", "parameter-value"),
        (
            "merge_method: ties\nbase_model: a\nmodels: [{model: a}]\nparameters: {weight: 1}",
            "too-few-models",
        ),
        (
            "merge_method: ties\nparameters: {weight: 1}\nslices:\n"
            "- {base_model: a, sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]}\n"
            "- {sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]}",
            "slice-without-base",
        ),
        ("merge_method: passthrough\nslices: [{}]", "no-sources"),
        ("merge_method: passthrough\nslices: [{sources: [{model: a}]}]", "no-layer-range"),
        (
            "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, -1]}]}]",
            "not-a-layer-range",
        ),
        (
            "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [3, 1]}]}]",
            "not-a-layer-range",
        ),
        ("merge_method: passthrough\nmodels: [{model: a}]\nchat_template: chatlm", "chat-template"),
        ("merge_method: passthrough\nmodels: [{model: a}]\ntokenizer: {sauce: base}", "unknown-key"),
        (
            "merge_method: passthrough\nmodels: [{model: a}]\ntokenizer: {pad_to_multiple_of: 0}",
            "pad-to-multiple-of",
        ),
        (
            "merge_method: passthrough\nmodels: [{model: a}]\ntokenizer: {tokens: {x: {source: {kind: y}}}}",
            "token-kind",
        ),
        (
            "merge_method: passthrough\nmodels: [{model: a}]\n"
            "tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}",
            "token-source",
        ),
        (
            "merge_method: passthrough\nmodels: [{model: a}]\ntokenizer: {source: base}\ntokenizer_source: base",
            "tokenizer-or-source",
        ),
    ],
)
def test_faults(text: str, expected: str) -> None:
    assert expected in [code for code, _ in problems(text)]


def test_a_shared_parameter_under_a_model_is_a_fault() -> None:
    text = "merge_method: slerp\nbase_model: a\nmodels:\n- model: b\n  parameters: {t: 0.5}\n"

    assert ("shared-parameter", Place(5, 16)) in problems(text)


def test_slices_need_the_base_and_equal_ranges() -> None:
    text = """\
merge_method: ties
base_model: a
parameters: {weight: 1}
slices:
  - sources:
      - {model: b, layer_range: [0, 2]}
      - {model: c, layer_range: [0, 3]}
"""
    assert set(problems(text)) == {
        ("base-not-in-slice", Place(5, 5)),
        ("unequal-ranges", Place(5, 5)),
    }


def test_messages_name_the_nearest_word() -> None:
    with pytest.raises(RecipeError, match=r"There is no merge method 'tise'\. Did you mean 'ties'\?"):
        read_recipe("merge_method: tise\nmodels: [{model: a}]")


def test_aliases_cannot_multiply_without_end() -> None:
    lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\ndtype: *a8\n"

    assert "too-many-values" in [code for code, _ in problems("\n".join(lines) + "\n" + text)]


def test_gradients_are_lines_between_equally_spaced_anchors() -> None:
    assert [on_gradient([0, 1, 0.5], position) for position in (0, 0.25, 0.5, 0.75, 1)] == [
        0,
        0.5,
        1,
        0.75,
        0.5,
    ]
    assert [on_gradient([True, False], position) for position in (0, 0.9, 1)] == [True, True, False]
    assert on_gradient([0.3], 0.7) == 0.3


def test_the_first_matching_filter_decides() -> None:
    setting = (ConditionalParameter(1.0, "self_attn.q"), ConditionalParameter(2.0, "self_attn"))

    assert value_at(setting, "model.layers.0.self_attn.q_proj.weight", 0) == 1.0
    assert value_at(setting, "model.layers.0.self_attn.k_proj.weight", 0) == 2.0
    assert value_at(setting, "model.norm.weight", 0) is None
    assert value_at((ConditionalParameter(3.0, "*"),), "model.norm.weight", 0) == 3.0


def test_numbers_with_an_exponent_are_numbers() -> None:
    text = "{merge_method: nearswap, base_model: a/b, models: [{model: a/c}], parameters: {t: 1e-4}}"

    recipe = read_recipe(text)

    assert value_at(recipe.parameters["t"], "any.weight", 0) == 0.0001
    assert [source.model.name for source in recipe.with_base(recipe.models)] == ["a/c", "a/b"]


HEAD = "merge_method: sce\nbase_model: a/b\nmodels:\n- {model: c/d}\n- {model: e/f}\n"
LINEAR = "merge_method: linear\nparameters: {weight: 1}\nmodels:\n- model: c/d\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + "parameters: {normalize: true}", "ignored-parameter"),
        (HEAD + "parameters: {int8_mask: true, weight: 3}", "ignored-parameter"),
        (HEAD + "density: 0.5", "ignored-parameter"),
        (HEAD + "author: me", "ignored-key"),
        (HEAD + "tags: [a, b]", "ignored-key"),
        (HEAD + "trust_remote_code: true", "ignored-key"),
        (LINEAR + "  name: the first", "ignored-key"),
        (HEAD.replace("c/d", "*m") .replace("merge", "m: &m c/d\nmerge", 1), "anchor-key"),
        (HEAD + "x: {y: [&p {select_topk: 0.5}]}\nparameters: *p", "anchor-key"),
        ("x-models: &m [{model: a}, {model: b}]\nmerge_method: karcher\nmodels: *m", "anchor-key"),
        ("merge_method: karcher\nmodels: [{model: a}, {model: b}]\nparameters: {tol: 1e-10}", "clamped-value"),
        ("merge_method: karcher\nmodels: [{model: a}, {model: b}]\nparameters: {max_iter: 20000}", "clamped-value"),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_ignored_with_a_warning(text: str, expected: str) -> None:
    assert {warning.code for warning in read_recipe(text).warnings} == {expected}


def test_models_have_a_limit() -> None:
    def text(count: int) -> str:
        models = ", ".join(f"{{model: a/b{number}+a/c}}" for number in range(count))
        return f"merge_method: karcher\nmodels: [{models}, {{model: a/b0}}]"

    assert len(read_recipe(text(MOST_MODELS - 1)).models) == MOST_MODELS
    assert problems(text(MOST_MODELS)) == [("many-models", Place(1, 1))]


@pytest.mark.parametrize("value", ["1.5", "[-0.2, 0.5]", ".nan", "[{filter: mlp, value: x}]", "half"])
def test_a_wrong_value_is_no_missing_parameter(value: str) -> None:
    text = f"merge_method: slerp\nbase_model: a\nmodels: [{{model: a}}, {{model: b}}]\nparameters: {{t: {value}}}"

    with pytest.raises(RecipeError) as caught:
        read_recipe(text)

    assert [problem.code for problem in caught.value.problems] == ["parameter-value"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + "select_topk: 0.5", "misplaced-parameter"),
        (HEAD + "parameters: {dtype: bfloat16}", "misplaced-key"),
        (HEAD + "parameters: {tokenizer_source: base}", "misplaced-key"),
        (LINEAR + "  dtype: float16", "misplaced-key"),
        (LINEAR + "  weight: 2", "misplaced-parameter"),
        (LINEAR + "  revision: v1", "revision-beside-model"),
        (HEAD.replace("a/b", "{model: a/b, revision: v1}"), "revision-beside-model"),
        (LINEAR + "  filter: mlp", "stray-filter"),
        (LINEAR + "  parameters: {weight: 1, filter: mlp}", "stray-filter"),
        (LINEAR.replace("1}", "[{filter: [mlp, attn], value: 1}, {value: 2}]}"), "filter"),
        (LINEAR + "random_seed: 3", "unknown-key"),
        (HEAD + "paremeters: &p {select_topk: 0.5}\nauthor: *p", "unknown-key"),
        (HEAD + "flavour: sweet", "unknown-key"),
    ],
)
def test_what_was_meant_is_never_lost(text: str, expected: str) -> None:
    assert expected in [code for code, _ in problems(text)]


def test_merged_keys_are_those_of_the_mapping_below_them() -> None:
    """`<<` takes over what the mapping does not have itself, from the first mapping that has it."""
    text = (
        "x: &x {parameters: {scale: 2}, layer_range: [0, 1]}\ny: &y {layer_range: [5, 9]}\n"
        "merge_method: passthrough\nslices:\n- sources: [{<<: [*x, *y], model: a}]\n"
        "- sources: [{<<: *x, model: a, layer_range: [1, 3]}]\n"
    )
    first, second = read_recipe(text).slices

    assert first.sources[0].layer_range == (0, 1)
    assert second.sources[0].layer_range == (1, 3)
    assert first.sources[0].parameters == second.sources[0].parameters != {}


def test_a_value_beyond_a_limit_counts_as_the_limit() -> None:
    text = (
        "merge_method: karcher\nmodels: [{model: a}, {model: b}]\nparameters: {tol: 1e-10, max_iter: 20000}"
    )

    parameters = read_recipe(text).parameters

    assert {name: setting[0].value for name, setting in parameters.items()} == {"tol": 1e-6, "max_iter": 100}


def test_an_adapter_alone_on_its_base_is_no_task_vector() -> None:
    text = (
        "merge_method: task_arithmetic\nbase_model: a/b+c/d\nparameters: {weight: 1, normalize: false}\n"
        "slices: [{sources: [{model: a/b+c/d, layer_range: [0, 32]}]}]\n"
    )
    assert [code for code, _ in problems(text)] == ["adapter-on-base"]
    assert read_recipe(text.replace("task_arithmetic", "passthrough")).method.name == "passthrough"


def test_there_is_an_end_to_problems() -> None:
    text = HEAD + "".join(f"key{number}: 1\n" for number in range(5000))

    assert len(problems(text)) <= MOST_PROBLEMS
