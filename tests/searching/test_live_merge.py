"""A live merge has the weights of the file that a merge would write, whatever it was before."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from checkpoints.problems import Cancelled, DestinationError, MergeError, PlanError
from evaluation import load_model, perplexity
from merging import METHODS, Parameter, make_plan, read_recipe, run_plan
from searching.live_merge import LiveMerge, held
from tests.hub import Hub
from tests.merging.test_adapters import adapter
from tests.tiny import save_tokenizer, tiny_llama

UPDATES = 10
EMBEDDING = "model.embed_tokens.weight"
TEXT = "A merge of two language models is a model."


def drawn(parameter: Parameter, source: random.Random) -> Any:
    """A value that the parameter may have."""
    if parameter.kind == "bool":
        return source.random() < 0.5
    if parameter.kind == "choice":
        return source.choice(parameter.choices)
    assert parameter.low is not None and parameter.high is not None
    if parameter.kind == "integer":
        return source.randint(int(parameter.low), int(parameter.high))
    return round(source.uniform(max(parameter.low, parameter.high / 100), parameter.high), 3)


def recipe_text(folder: Path, method_name: str, seed: int, **changes: Any) -> str:
    """A recipe of the family with numbers drawn at random."""
    source, method = random.Random(seed), METHODS[method_name]
    shared = {p.name: drawn(p, source) for p in method.parameters if not p.per_model}
    names = ["a", "b"][: method.max_models or 2]
    models = []
    for name in names:
        own = {p.name: drawn(p, source) for p in method.parameters if p.per_model}
        own |= {"density": round(source.uniform(0.3, 0.7), 2)} if "density" in own else {}
        own |= {"epsilon": 0.05} if "epsilon" in own else {}
        models.append({"model": str(folder / name), "parameters": own})
    recipe: dict[str, Any] = {"merge_method": method_name, "models": models, "parameters": shared}
    if method.base == "subtracted":
        recipe["base_model"] = str(folder / "base")
    elif method.base == "first":
        recipe["base_model"] = str(folder / "a")
    return yaml.safe_dump({**recipe, "dtype": "bfloat16", **changes})


def on_disk(text: str, to: Path) -> dict[str, torch.Tensor]:
    """The parameters of the model that a merge to a folder gives, widened."""
    run_plan(make_plan(read_recipe(text), str(to), overwrite=True), str(to), overwrite=True)
    network = AutoModelForCausalLM.from_pretrained(to, dtype=torch.float32)
    return dict(network.named_parameters())


def assert_same(live: LiveMerge, expected: dict[str, torch.Tensor]) -> None:
    found = dict(live.model.network.named_parameters())
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].view(torch.int32), tensor.view(torch.int32)), name


@pytest.mark.parametrize("method", METHODS)
def test_updates_give_the_weights_of_a_merge(method: str, family: Path, tmp_path: Path) -> None:
    texts = [recipe_text(family, method, seed) for seed in range(UPDATES)]

    with LiveMerge(read_recipe(texts[0])) as live:
        first = on_disk(texts[0], tmp_path / "first")
        assert_same(live, first)
        for text in texts:
            live.update(read_recipe(text))
        assert_same(live, on_disk(texts[-1], tmp_path / "last"))
        live.update(read_recipe(texts[0]))
        assert_same(live, first)
        assert live.model.dtype == "float32"
        assert live.model.stored_dtype == "bfloat16"


@pytest.mark.parametrize("memory", [None, "little"])
def test_only_what_changed_is_written(
    memory: str | None, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the parents' changes are kept or not."""
    monkeypatch.setattr("searching.live_merge.SHARE_KEPT", 0.0 if memory else 0.5)
    weight = [{"filter": "layers.2.mlp", "value": 0.3}, {"value": 0.5}]
    other = [{"filter": "layers.2.mlp", "value": 0.7}, {"value": 0.5}]
    texts = [_task_arithmetic(family, value) for value in (weight, other, 0.5)]

    with LiveMerge(read_recipe(texts[0])) as live:
        assert (live.held_bytes == 0) == (memory is not None)
        before = {name: tensor.clone() for name, tensor in live.model.network.named_parameters()}
        assert live.update(read_recipe(texts[1])) == 3
        changed = [
            name
            for name, tensor in live.model.network.named_parameters()
            if not torch.equal(tensor, before[name])
        ]
        assert changed and all("layers.2.mlp" in name for name in changed)
        assert live.update(read_recipe(texts[1])) == 0
        assert live.update(read_recipe(texts[2])) == 3
        assert_same(live, on_disk(texts[2], tmp_path / "merged"))


def _task_arithmetic(folder: Path, weight: Any) -> str:
    models = [
        {"model": str(folder / "a"), "parameters": {"weight": weight}},
        {"model": str(folder / "b"), "parameters": {"weight": 0.4}},
    ]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(folder / "base"), "models": models}
    return yaml.safe_dump(recipe)


def test_other_methods_and_a_parent_alone(family: Path, tmp_path: Path) -> None:
    texts = [recipe_text(family, name, 5) for name in ("task_arithmetic", "slerp", "ties", "linear")]
    alone = f"merge_method: passthrough\nmodels: [{{model: {family / 'b'}}}]"

    with LiveMerge(read_recipe(texts[0])) as live:
        for number, text in enumerate((*texts[1:], alone, texts[0])):
            live.update(read_recipe(text))
            assert_same(live, on_disk(text, tmp_path / str(number)))


def test_what_no_parent_changed_is_written_once(family: Path, tmp_path: Path) -> None:
    """The embeddings of `c` are those of the base: then nothing of them is kept, and no update touches them."""
    other = save_tokenizer(tiny_llama(tmp_path / "c", 3, family / "base", vocab_size=258))
    path = other / "model.safetensors"
    changed, base = load_file(path), load_file(family / "base" / "model.safetensors")
    save_file({**changed, EMBEDDING: base[EMBEDDING]}, path, {"format": "pt"})
    text = f"{{merge_method: task_arithmetic, base_model: {family / 'base'}, models: [{{model: {other}, parameters: "

    with LiveMerge(read_recipe(text + "{weight: 0.5}}]}")) as live:
        again = read_recipe(text + "{weight: -0.7}}]}")
        assert live.update(again) == len(live.plan.tensors) - 1
        assert_same(live, on_disk(again.text, tmp_path / "merged"))
        assert live.update(read_recipe(text + "{weight: 0}}]}")) == len(live.plan.tensors)
        assert_same(live, on_disk(text + "{weight: 0}}]}", tmp_path / "base"))


def test_the_model_is_scored_like_one_from_a_folder(family: Path, tmp_path: Path) -> None:
    text = recipe_text(family, "task_arithmetic", 1)
    on_disk(text, tmp_path / "merged")

    with LiveMerge(read_recipe(text)) as live:
        found = perplexity(live.model, [TEXT])

    assert found.documents == perplexity(load_model(tmp_path / "merged"), [TEXT]).documents


def test_bad_recipes_leave_the_model_as_it_is(family: Path, tmp_path: Path) -> None:
    text = recipe_text(family, "task_arithmetic", 1)
    missing = text.replace(str(family / "b"), str(tmp_path / "nowhere"))
    fewer = {"sources": [{"model": str(family / "a"), "layer_range": [0, 2]}]}
    stacked = yaml.safe_dump({"merge_method": "passthrough", "slices": [fewer]})

    with LiveMerge(read_recipe(text)) as live:
        before = {name: tensor.clone() for name, tensor in live.model.network.named_parameters()}
        with pytest.raises(PlanError, match="nowhere"):
            live.update(read_recipe(missing))
        with pytest.raises(MergeError, match=r"layers\.2"):
            live.update(read_recipe(stacked))
        assert live.update(read_recipe(text)) == 0
        assert_same(live, before)


def test_a_model_that_does_not_fit_is_refused_with_both_numbers(family: Path) -> None:
    recipe = read_recipe(recipe_text(family, "task_arithmetic", 1))
    needed = held(make_plan(recipe)).least

    with pytest.raises(DestinationError, match=f"needs {needed:,} bytes of memory; {needed - 1:,} are free"):
        LiveMerge(recipe, memory=needed - 1)
    with LiveMerge(recipe, memory=needed) as live:
        assert live.held_bytes == 0
    with LiveMerge(recipe) as live:
        assert 0 < live.held_bytes <= held(make_plan(recipe)).kept


def test_a_cancelled_update_is_completed_by_the_next(family: Path, tmp_path: Path) -> None:
    first, second = (recipe_text(family, "ties", seed) for seed in (1, 2))
    cancel = threading.Event()

    with LiveMerge(read_recipe(first), cancel=cancel) as live:
        cancel.set()
        with pytest.raises(Cancelled):
            live.update(read_recipe(second))
        cancel.clear()
        live.update(read_recipe(second))
        assert_same(live, on_disk(second, tmp_path / "merged"))


def test_adapters_other_vocabularies_and_chains(family: Path, tmp_path: Path) -> None:
    """What is computed when it is read: a parent under an adapter, one with other rows, and a merge on the way."""
    lora = adapter(family / "base", tmp_path / "lora", 1)
    more = tiny_llama(tmp_path / "more", 4, vocab_size=260)
    save_tokenizer(more, [("h", "e"), ("l", "l")])

    def text(kind: str, weight: float) -> str:
        first = {"adapter": f"{family / 'base'}+{lora}", "vocabulary": str(more), "chain": "mean"}[kind]
        models = [
            {"model": first, "parameters": {"weight": weight}},
            {"model": str(family / "b"), "parameters": {"weight": 0.4}},
        ]
        recipe = {"merge_method": "task_arithmetic", "base_model": str(family / "base"), "models": models}
        recipe |= {"tokenizer": {"source": "union"}} if kind == "vocabulary" else {}
        alone = [{"model": str(family / name), "parameters": {"weight": weight}} for name in "ab"]
        mean = {"name": "mean", "merge_method": "linear", "models": alone, "dtype": "bfloat16"}
        return yaml.safe_dump_all([mean, recipe] if kind == "chain" else [recipe])

    for kind in ("adapter", "vocabulary", "chain"):
        with LiveMerge(read_recipe(text(kind, 0.3))) as live:
            for weight in (0.9, 0.3):
                assert live.update(read_recipe(text(kind, weight)))
                assert_same(live, on_disk(text(kind, weight), tmp_path / kind))
            assert perplexity(live.model, [TEXT]).documents == scored_on_disk(tmp_path / kind)


def scored_on_disk(folder: Path) -> Any:
    return perplexity(load_model(folder, device="cpu"), [TEXT]).documents


def test_what_transformers_stacks_is_rewritten_too(tmp_path: Path) -> None:
    """Experts are separate tensors in the file, and one parameter in the model."""
    settings = {
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
    }
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        MixtralForCausalLM(MixtralConfig(**settings)).to(torch.bfloat16).save_pretrained(tmp_path / name)
        save_tokenizer(tmp_path / name)

    def text(weight: float) -> str:
        weights = zip("ab", (weight, 1.0), strict=True)
        models = [{"model": str(tmp_path / name), "parameters": {"weight": w}} for name, w in weights]
        return yaml.safe_dump({"merge_method": "linear", "models": models})

    with LiveMerge(read_recipe(text(0.5))) as live:
        assert_same(live, on_disk(text(0.5), tmp_path / "merged"))
        live.update(read_recipe(text(2.0)))
        assert_same(live, on_disk(text(2.0), tmp_path / "merged"))


def test_parents_on_the_hub_are_read_once(family: Path, hub: Hub, tmp_path: Path) -> None:
    token = hub.add_user("alice")
    for name in ("base", "a", "b"):
        hub.put(f"alice/{name}", family / name, private=True)
    local = [recipe_text(family, "task_arithmetic", seed) for seed in range(3)]
    texts = [text.replace(str(family), "alice") for text in local]

    with LiveMerge(read_recipe(texts[0]), token=token) as live:
        hub.log.clear()
        for text in texts[1:]:
            live.update(read_recipe(text))
        assert len(hub.log) == 0
        assert_same(live, on_disk(local[2], tmp_path / "merged"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_the_model_may_compute_in_the_dtype_of_the_recipe(dtype: str, family: Path, tmp_path: Path) -> None:
    for method in ("task_arithmetic", "slerp", "ties"):
        texts = [recipe_text(family, method, seed, dtype=dtype) for seed in (1, 2)]

        with LiveMerge(read_recipe(texts[0]), dtype="auto") as live:
            live.update(read_recipe(texts[1]))

            on_disk(texts[1], tmp_path / method)
            expected = AutoModelForCausalLM.from_pretrained(tmp_path / method, dtype="auto")
            assert live.model.dtype == dtype
            for name, tensor in expected.named_parameters():
                assert torch.equal(live.model.network.get_parameter(name), tensor), name
