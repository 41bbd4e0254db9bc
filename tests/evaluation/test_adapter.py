"""Base and adapter judged as one model: the numbers of the merge, and words for what does not fit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from evaluation import EvaluationError, LanguageModel, check_independence, load_model, perplexity
from evaluation.footprint import footprint
from evaluation.weights import open_weights
from tests.evaluation.conftest import TEXT, make_network, make_tokenizer
from tests.hub import Hub
from tests.merges import merged

MakeFolder = Callable[..., Path]
TARGETS = ["q_proj", "down_proj"]
KINDS: dict[str, Any] = {
    "plain": LoraConfig(r=4, target_modules=TARGETS),
    "DoRA": LoraConfig(r=4, target_modules=TARGETS, use_dora=True),
    "whole modules": LoraConfig(r=4, target_modules=TARGETS, modules_to_save=["embed_tokens", "lm_head"]),
    "token rows": LoraConfig(
        r=4, target_modules=TARGETS, trainable_token_indices={"embed_tokens": [5], "lm_head": [5]}
    ),
}


def adapter(base: Path, folder: Path, config: Any = None, seed: int = 1, rows: int | None = None) -> Path:
    """An adapter of random numbers; returns its folder."""
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        network.resize_token_embeddings(rows)
    adapted = get_peft_model(network, config or LoraConfig(r=4, target_modules=TARGETS))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def logits(model: LanguageModel) -> torch.Tensor:
    tokens = model.tokenizer(TEXT[:60], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return torch.as_tensor(model.network(input_ids=tokens).logits)


def alone(model: str) -> str:
    return yaml.safe_dump({"merge_method": "passthrough", "models": [{"model": model}], "dtype": "float32"})


@pytest.mark.parametrize("kind", KINDS)
def test_base_and_adapter_answer_as_the_merge_does(
    kind: str, make_folder: MakeFolder, tmp_path: Path
) -> None:
    base = make_folder()
    name = f"{base}+{adapter(base, tmp_path / 'lora', KINDS[kind])}"
    merged(alone(name), tmp_path / "out", 10**9)

    both = load_model(name, device="cpu")

    assert (both.name, both.commit) == (name, None)
    assert both.parameters == load_model(tmp_path / "out", device="cpu").parameters
    torch.testing.assert_close(logits(both), logits(load_model(tmp_path / "out", device="cpu")))
    assert (logits(both) - logits(load_model(base, device="cpu"))).abs().max() > 0.1
    assert load_model(name, device="cpu") is both


def test_adapters_in_a_row_and_a_plus_in_a_folders_name(make_folder: MakeFolder, tmp_path: Path) -> None:
    base = make_folder(name="a+b")
    name = f"{base}+{adapter(base, tmp_path / 'one')}+{adapter(base, tmp_path / 'two', seed=2)}"
    merged(alone(name), tmp_path / "out", 10**9)

    ours, whole = load_model(name, device="cpu"), load_model(tmp_path / "out", device="cpu")

    torch.testing.assert_close(logits(ours), logits(whole), atol=1e-4, rtol=1e-4)
    assert perplexity(ours, [TEXT]).perplexity == pytest.approx(
        perplexity(whole, [TEXT]).perplexity, rel=1e-4
    )


@pytest.mark.parametrize(
    "config",
    [LoHaConfig(r=2), LoKrConfig(r=2), IA3Config(feedforward_modules=["down_proj"])],
    ids=lambda config: str(config.peft_type.value),
)
def test_other_kinds_are_those_of_peft(config: Any, make_folder: MakeFolder, tmp_path: Path) -> None:
    config.target_modules = set(TARGETS)
    base = make_folder()
    lora = adapter(base, tmp_path / "lora", config)

    both = load_model(f"{base}+{lora}", device="cpu")

    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    exact = PeftModel.from_pretrained(network, str(lora))
    with torch.inference_mode():
        tokens = both.tokenizer(TEXT[:60], return_tensors="pt")["input_ids"]
        torch.testing.assert_close(logits(both), exact(input_ids=tokens).logits, atol=1e-4, rtol=1e-4)


def test_a_grown_vocabulary_comes_with_the_adapter(make_folder: MakeFolder, tmp_path: Path) -> None:
    base = make_folder(make_network(tie_word_embeddings=True))
    config = LoraConfig(r=2, target_modules=TARGETS, trainable_token_indices={"embed_tokens": [400, 401]})
    lora = adapter(base, tmp_path / "lora", config, rows=402)
    tokenizer = make_tokenizer(template=None)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(lora)
    merged(alone(f"{base}+{lora}"), tmp_path / "out", 10**9)

    both = load_model(f"{base}+{lora}", device="cpu")

    assert both.tokenizer("<two>")["input_ids"] == [401]
    assert both.has_chat_template  # the base's
    tokens = torch.tensor([[5, 400, 401, 7]])
    with torch.inference_mode():
        ours = both.network(input_ids=tokens).logits
        theirs = load_model(tmp_path / "out", device="cpu").network(input_ids=tokens).logits
    torch.testing.assert_close(ours, theirs)


def test_both_come_from_the_hub_at_their_commits_with_the_visitors_token(
    hub: Hub, make_folder: MakeFolder, tmp_path: Path
) -> None:
    token = hub.add_user("ann")
    base = make_folder()
    lora = adapter(base, tmp_path / "lora")
    commits = hub.put("ann/base", base), hub.put("ann/lora", lora, private=True)

    both = load_model("hf://ann/base@main+ann/lora@main", token=token, device="cpu", allow_folders=False)

    assert (both.name, both.commit) == ("ann/base+ann/lora", "+".join(commits))
    torch.testing.assert_close(logits(both), logits(load_model(f"{base}+{lora}", device="cpu")))
    with pytest.raises(EvaluationError, match="ann/lora was not found"):
        load_model("ann/base+ann/lora", token=False, device="cpu", allow_folders=False)
    with pytest.raises(EvaluationError, match="adapter ann/base has no adapter_config"):
        load_model("ann/base+ann/base", token=token, device="cpu", allow_folders=False)
    with pytest.raises(EvaluationError, match="ann/lora is an adapter, not a whole model"):
        load_model("ann/lora", token=token, device="cpu")
    with pytest.raises(EvaluationError, match="is not a model's id"):
        load_model(f"ann/base+{lora}", token=token, device="cpu", allow_folders=False)


def changed(folder: Path, **options: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no adapter": (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "pickled": (
        lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
        "has no adapter_model.safetensors",
    ),
    "damaged": (lambda f: (f / "adapter_config.json").write_text("[]"), "is damaged"),
    "a kind that loads others": (lambda f: changed(f, peft_type="XLORA"), "of the kind XLORA"),
    "names a module": (lambda f: changed(f, megatron_config={"a": 1}), "is not run here"),
    "other modules": (lambda f: changed(f, target_modules=["wq"]), "trained on .*PEFT says"),
    "fewer modules": (lambda f: changed(f, target_modules=["q_proj"]), "in only one of them"),
    "more modules": (lambda f: changed(f, target_modules=[*TARGETS, "k_proj"]), "in only one of them"),
    "other sizes": (lambda f: changed(f, r=8), "does not fit"),
    "tokens that nobody has": (
        lambda f: changed(f, trainable_token_indices={"embed_tokens": [420]}),
        "those between, such as 400, exist in neither",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_an_adapter_is_said(fault: str, make_folder: MakeFolder, tmp_path: Path) -> None:
    base = make_folder()
    lora = adapter(base, tmp_path / "lora")
    breaks, words = FAULTS[fault]
    breaks(lora)

    with pytest.raises(EvaluationError, match=words) as refused:
        load_model(f"{base}+{lora}", device="cpu")

    assert str(lora) in str(refused.value)


def test_half_a_name_is_refused(make_folder: MakeFolder) -> None:
    base = make_folder()
    for name in (f"{base}+", f"+{base}"):
        with pytest.raises(EvaluationError, match=re.escape(name)):
            load_model(name, device="cpu")
    with pytest.raises(EvaluationError, match="neither a folder here nor a model's id"):
        load_model(f"{base}+./nowhere", device="cpu")


def test_compare_measures_it_and_says_that_it_does_not_stand_alone(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    base = make_folder()
    name = f"{base}+{adapter(base, tmp_path / 'lora')}"

    found = footprint(name, device="cpu", repeats=1, new_tokens=2)

    assert found.tokens_per_second is not None, found.dependence
    assert not found.independent
    assert "needs its base" in " ".join(map(str, found.dependence))
    assert not check_independence(name).ok
    with pytest.raises(EvaluationError, match="Merge it"):
        open_weights(name)


def test_a_model_that_was_read_over_is_judged_anew(make_folder: MakeFolder, tmp_path: Path) -> None:
    base = make_folder()
    lora = adapter(base, tmp_path / "lora")
    before = load_model(f"{base}+{lora}", device="cpu")
    shutil.rmtree(lora)
    adapter(base, lora, seed=2)

    assert not torch.equal(logits(before), logits(load_model(f"{base}+{lora}", device="cpu")))


@pytest.mark.parametrize(
    "options",
    [{"target_modules": "([a-z._0-9]+)+!"}, {"exclude_modules": "([a-z._0-9]+)+!"}],
    ids=["targets", "others"],
)
def test_patterns_of_names_are_not_run(
    make_folder: MakeFolder, tmp_path: Path, options: dict[str, Any]
) -> None:
    base = make_folder()
    plain = load_model(f"{base}+{adapter(base, tmp_path / 'plain')}", device="cpu")
    shutil.copytree(tmp_path / "plain", tmp_path / "evil")
    changed(tmp_path / "evil", **options)

    found = load_model(f"{base}+{tmp_path / 'evil'}", device="cpu")

    pairs = zip(found.network.parameters(), plain.network.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("pattern", [".*.*.*.*!", "(a|b)+q_proj", "q_proj" * 40, "a?a?a?"])
def test_a_pattern_that_may_take_long_is_refused(
    make_folder: MakeFolder, tmp_path: Path, pattern: str
) -> None:
    base = make_folder()
    lora = adapter(base, tmp_path / "lora")
    changed(lora, alpha_pattern={pattern: 1})

    with pytest.raises(EvaluationError, match=r"wildcard|characters"):
        load_model(f"{base}+{lora}", device="cpu")
