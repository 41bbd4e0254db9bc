"""Tensors that only some saves of a model bring: taken over, read from the table they are tied to, or missed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml
from safetensors.torch import load_file, save_file

from checkpoints import architecture
from merging import Plan, make_plan, read_recipe, run_plan
from merging.lora_extraction import extract_lora
from merging.planning import parents

TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
}
Tensors = Mapping[str, torch.Tensor]


def llama(**more: Any) -> hf.PreTrainedModel:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, **more))


def bert(model_class: type = hf.BertModel) -> hf.PreTrainedModel:
    sizes = {
        key: TEXT[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    }
    return model_class(hf.BertConfig(**sizes, num_attention_heads=4))  # type: ignore[no-any-return]


def t5() -> hf.PreTrainedModel:
    config = hf.T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_heads=4, num_layers=2)
    return hf.T5ForConditionalGeneration(config)


def save(
    model: hf.PreTrainedModel,
    folder: Path,
    change: Callable[[Tensors], Tensors] = lambda tensors: tensors,
    *without: str,
) -> Path:
    """Save a model, then change the tensors in its file, and take keys out of its config."""
    torch.manual_seed(len(folder.name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    save_file(dict(change(load_file(path))), path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in without}))
    return folder


def planned(*models: Path, **more: Any) -> Plan:
    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    return make_plan(read_recipe(yaml.safe_dump({"merge_method": "linear", "models": entries, **more})))


def codes(plan: Plan) -> set[str]:
    return {problem.code for problem in plan.problems}


def taken_over(plan: Plan) -> dict[str, set[str]]:
    """By model, the tensors that a warning says are taken over from it."""
    found = [warning.values for warning in plan.warnings if warning.code == "taken-over-tensor"]
    return {Path(values["model"]).name: {*values["tensors"]["first"]} for values in found}


def merged(plan: Plan, folder: Path) -> Tensors:
    assert plan.problems == ()
    run_plan(plan, str(folder))
    return load_file(folder / "model.safetensors")


MTP = {
    "mtp.fc.weight": torch.ones(32, 64),
    "mtp.norm.weight": torch.ones(32),
    "mtp.embed_tokens.weight": torch.ones(96, 32),
}
BEHIND = {
    "model.layers.2.eh_proj.weight": torch.ones(32, 64),
    "model.layers.2.mlp.up_proj.weight": torch.ones(48, 32),
}
SCHEDULE = {"score.weight": torch.ones(2, 32), "schedule": torch.ones(9)}


@pytest.mark.parametrize("spare", [MTP, BEHIND, SCHEDULE], ids=["mtp", "behind the last layer", "others"])
@pytest.mark.parametrize("having", [0, 1])
def test_what_a_model_works_without_is_taken_over(spare: Tensors, having: int, tmp_path: Path) -> None:
    added = [lambda tensors: {**tensors, **spare}, lambda tensors: tensors]
    a = save(llama(), tmp_path / "a", added[having])
    b = save(llama(), tmp_path / "bb", added[1 - having])

    for plan in (planned(a, b), planned(a, b, merge_method="ties", base_model=str(b))):
        result = merged(plan, tmp_path / plan.method)
        name = ("a", "bb")[having]
        assert taken_over(plan) == {name: {*spare}}
        for tensor in spare:
            assert torch.equal(result[tensor], spare[tensor])


def test_the_base_comes_first(tmp_path: Path) -> None:
    """Of three models one has no pooler; the two others' are not averaged."""
    a, b, c = (save(bert(), tmp_path / name) for name in ("a", "bb", "ccc"))
    path = a / "model.safetensors"
    save_file(
        {k: t for k, t in load_file(path).items() if "pooler" not in k}, path, metadata={"format": "pt"}
    )

    plan = planned(a, b, c, merge_method="task_arithmetic", base_model=str(c))

    assert taken_over(plan) == {"ccc": {"pooler.dense.bias", "pooler.dense.weight"}}
    result, base = merged(plan, tmp_path / "out"), load_file(c / "model.safetensors")
    assert torch.equal(result["pooler.dense.weight"], base["pooler.dense.weight"])


@pytest.mark.parametrize(
    "name",
    ["model.norm.weight", "lm_head.weight", "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"],
)
def test_what_it_needs_is_missed(name: str, tmp_path: Path) -> None:
    a = save(llama(), tmp_path / "a")
    b = save(llama(), tmp_path / "bb", lambda tensors: {k: t for k, t in tensors.items() if k != name})

    assert codes(planned(a, b)) == codes(planned(b, a)) == {"missing-keys"}


def test_raw_weights_that_share_little_are_no_parents(tmp_path: Path) -> None:
    for name, other in (("a", "x"), ("bb", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        tensors = {f"{other}.{part}.weight": torch.ones(2, 2) for part in "pqr"}
        save_file({"shared.one": torch.ones(2), **tensors}, tmp_path / name / "model.safetensors")

    assert codes(planned(tmp_path / "a", tmp_path / "bb")) == {"missing-keys"}


def test_schedules_of_raw_weights_are_taken_over(tmp_path: Path) -> None:
    for name, more in (
        ("a", {"alphas": torch.ones(3), "first_stage.enc.weight": torch.ones(2, 2)}),
        ("bb", {}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        tensors = {f"unet.{part}.weight": torch.ones(2, 2) for part in "pqr"}
        save_file({**tensors, **more}, tmp_path / name / "model.safetensors")

    assert taken_over(planned(tmp_path / "bb", tmp_path / "a")) == {"a": {"alphas", "first_stage.enc.weight"}}


@pytest.mark.parametrize("known", [True, False], ids=["by its class", "by a general rule"])
@pytest.mark.parametrize("says", [True, None])
@pytest.mark.parametrize("first", ["tied", "own"])
def test_a_head_that_one_parent_has_tied(
    first: str, says: bool | None, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPT ties its head where the config does not say."""
    if not known:
        monkeypatch.setattr(architecture, "ties_by_default", lambda _: None)
    sizes = {
        "vocab_size": 96,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 1,
    }
    opt = [
        hf.OPTForCausalLM(hf.OPTConfig(**sizes, num_attention_heads=4, tie_word_embeddings=tied))
        for tied in (True, False)
    ]
    tied = save(
        opt[0], tmp_path / "tied", lambda tensors: tensors, *(["tie_word_embeddings"] if says is None else [])
    )
    own = save(opt[1], tmp_path / "own")
    table = "model.decoder.embed_tokens.weight"
    heads = [
        load_file(tied / "model.safetensors")[table],
        load_file(own / "model.safetensors")["lm_head.weight"],
    ]

    plan = planned(*([tied, own] if first == "tied" else [own, tied]))

    result = merged(plan, tmp_path / "out")
    torch.testing.assert_close(result["lm_head.weight"], sum(heads) / 2)
    model = hf.OPTForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, result["lm_head.weight"])
    assert not model.config.tie_word_embeddings


def test_a_model_without_a_head_is_not_given_its_embedding(tmp_path: Path) -> None:
    """Its class has none, so that nothing is tied."""
    a = save(llama(), tmp_path / "a")
    b = save(hf.LlamaModel(hf.LlamaConfig(**TEXT)), tmp_path / "bb", lambda t: t, "tie_word_embeddings")

    assert codes(planned(a, b)) == {"missing-keys"}


@pytest.mark.parametrize("first", ["whole", "copies"])
def test_copies_of_a_shared_table(first: str, tmp_path: Path) -> None:
    def copied(tensors: Tensors) -> Tensors:
        copies = (f"{stack}.embed_tokens.weight" for stack in ("encoder", "decoder"))
        return {**tensors, **{name: tensors["shared.weight"].clone() for name in copies}}

    copies, whole = save(t5(), tmp_path / "copies", copied), save(t5(), tmp_path / "whole")

    plan = planned(*([whole, copies] if first == "whole" else [copies, whole]))

    assert not taken_over(plan)
    result = merged(plan, tmp_path / "out")
    table = (
        load_file(whole / "model.safetensors")["shared.weight"]
        + load_file(copies / "model.safetensors")["shared.weight"]
    ) / 2
    for name in ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        torch.testing.assert_close(result[name], table)
    _, report = hf.T5ForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]


SMALL = {key: TEXT[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
HEADS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "BERT": lambda: bert(hf.BertForMaskedLM),
    "RoBERTa": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**SMALL, num_attention_heads=4)),
    "DistilBERT": lambda: hf.DistilBertForMaskedLM(
        hf.DistilBertConfig(vocab_size=96, dim=32, hidden_dim=48, n_layers=2, n_heads=4)
    ),
    "ELECTRA": lambda: hf.ElectraForMaskedLM(
        hf.ElectraConfig(**SMALL, embedding_size=32, num_attention_heads=4)
    ),
    "Whisper": lambda: hf.WhisperForConditionalGeneration(
        hf.WhisperConfig(
            vocab_size=96,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_mel_bins=8,
            max_source_positions=8,
            max_target_positions=8,
            pad_token_id=0,
        )
    ),
}


@pytest.mark.parametrize("known", [True, False], ids=["by its class", "by a general rule"])
@pytest.mark.parametrize("first", ["whole", "copies"])
@pytest.mark.parametrize("kind", HEADS)
def test_copies_of_a_tied_head(
    kind: str, first: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that has the head and its bias a second time, as older releases wrote them."""
    model = HEADS[kind]()
    if not known:
        if kind in ("DistilBERT", "ELECTRA"):
            pytest.skip("what its head is called is known of its class alone")
        monkeypatch.setattr(parents, "load", lambda *_: None)
    tied = model.all_tied_weights_keys

    def copied(tensors: Tensors) -> Tensors:
        return {**tensors, **{copy: tensors[source].clone() for copy, source in tied.items()}}

    copies, whole = save(HEADS[kind](), tmp_path / "copies", copied), save(model, tmp_path / "whole")

    plan = planned(*([whole, copies] if first == "whole" else [copies, whole]))

    assert not taken_over(plan)
    result = merged(plan, tmp_path / "out")
    loaded, report = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    state = loaded.state_dict()
    for copy, source in tied.items():
        assert torch.equal(state[copy], state[source])
        one, other = (load_file(path / "model.safetensors")[source] for path in (copies, whole))
        torch.testing.assert_close(result[source], (one + other) / 2)


def test_an_adapter_of_what_both_have(tmp_path: Path) -> None:
    base = save(llama(), tmp_path / "base", lambda tensors: {**tensors, **MTP})
    finetune = save(llama(), tmp_path / "finetune", lambda tensors: {**tensors, **SCHEDULE})

    done = extract_lora(str(finetune), str(base), str(tmp_path / "out"), rank=2)

    [warning] = done.warnings
    assert warning.code == "left-out-tensor" and {*warning.values["tensors"]["first"]} == SCHEDULE.keys()
    assert not any(
        "mtp" in name or name == "s" for name in load_file(tmp_path / "out" / "adapter_model.safetensors")
    )


@pytest.mark.parametrize("having", ["first", "second", "both"])
def test_a_copy_of_the_head_without_its_bias(having: str, tmp_path: Path) -> None:
    """BERT of old files: the head that the class ties is there, and its bias is not."""

    def with_head(tensors: Tensors) -> Tensors:
        return {
            **tensors,
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].clone(),
        }

    models = [
        save(bert(hf.BertForMaskedLM), tmp_path / name, with_head if having in (place, "both") else dict)
        for name, place in (("a", "first"), ("bb", "second"))
    ]

    merged(planned(*models), tmp_path / "out")

    loaded, report = hf.BertForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    parents = [hf.BertForMaskedLM.from_pretrained(model).state_dict() for model in models]
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, (parents[0][name] + parents[1][name]) / 2)


def test_scales_of_a_cache_are_left_out(tmp_path: Path) -> None:
    """Where not all parents have them; they say nothing of the weights."""
    scales = {
        f"model.layers.{layer}.self_attn.{part}_scale": torch.ones(1) for layer in (0, 1) for part in "kv"
    }
    a, b = (
        save(llama(), tmp_path / "a"),
        save(llama(), tmp_path / "bb", lambda tensors: {**tensors, **scales}),
    )

    for plan in (planned(a, b), planned(b, a)):
        [warning] = [warning for warning in plan.warnings if warning.code == "derived-tensor"]
        assert {*warning.values["tensors"]["first"]} <= scales.keys()
        assert not {tensor.name for tensor in plan.tensors} & scales.keys()
        assert plan.ok
