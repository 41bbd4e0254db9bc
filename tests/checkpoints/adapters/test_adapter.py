"""Base and adapter as one checkpoint: the same numbers as PEFT's own merge, for every kind that PEFT writes."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftModel,
    TrainableTokensConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    ViTConfig,
    ViTModel,
    WhisperConfig,
    WhisperModel,
)

from checkpoints import Checkpoint, open_adapter, open_checkpoint
from merging import CheckpointError

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama(tied: bool = True, **more: Any) -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied, **more))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64))


def mixtral() -> nn.Module:
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=3))


def gpt_oss() -> nn.Module:
    # A square matrix for each expert: its shape does not say which way it stands.
    sizes = SIZES | {"intermediate_size": 32}
    config = GptOssConfig(**sizes, num_local_experts=3, head_dim=8, layer_types=["full_attention"] * 2)
    return GptOssForCausalLM(config)


def saved(make: Callable[[], nn.Module], folder: Path) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    model.save_pretrained(folder)
    return model


def trained(model: nn.Module, config: Any, folder: Path, seed: int = 1) -> PeftModel:
    """An adapter whose every number is random, saved as PEFT saves it; returns the model under it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, config)
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    noise = torch.randn_like(parameter) * 0.1
                    parameter.copy_(parameter + noise if "magnitude" in name else noise)
        adapted.save_pretrained(folder)
    return adapted


def tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, read whole."""
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16}
    found = {}
    for name, header in checkpoint.tensors.items():
        data = bytearray(header.nbytes)
        checkpoint.read_into(name, 0, memoryview(data))
        found[name] = torch.frombuffer(data, dtype=kinds[header.dtype]).view(header.shape)
    return found


def opened(base: Path, *adapters: Path, scale: float = 1.0) -> Checkpoint:
    checkpoint: Checkpoint = open_checkpoint(str(base))
    for adapter in adapters:
        checkpoint = open_adapter(checkpoint, str(adapter), scale=scale)
    return checkpoint


def loaded(checkpoint: Checkpoint, folder: Path) -> nn.Module:
    """The checkpoint as transformers loads it when it stands in a folder."""
    folder.mkdir()
    save_file(tensors(checkpoint), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(checkpoint.config))
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return model


@torch.no_grad()
def answers(model: nn.Module, tokens: int = 96) -> torch.Tensor:
    return model.eval()(torch.arange(tokens)[None, ::3]).logits


ATTENTION = ["q_proj", "v_proj"]
KINDS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "plain": (llama, LoraConfig(r=4, lora_alpha=8, target_modules=ATTENTION)),
    "rank and alpha patterns": (
        llama,
        LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=[*ATTENTION, "down_proj", "o_proj"],
            rank_pattern={"q_proj": 2, r"layers\.1\..*down_proj": 6},
            alpha_pattern={"^model.layers.0.self_attn.q_proj": 1, "o_proj": 3},
        ),
    ),
    "rsLoRA": (llama, LoraConfig(r=4, target_modules="all-linear", use_rslora=True)),
    "DoRA": (llama, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], use_dora=True)),
    "Conv1D": (
        gpt2,
        LoraConfig(r=4, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True),
    ),
    "square Conv1D": (gpt2, LoraConfig(r=4, target_modules=["attn.c_proj"], fan_in_fan_out=True)),
    "DoRA of Conv1D": (
        gpt2,
        LoraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, use_dora=True),
    ),
    "modules to save": (
        lambda: llama(tied=False),
        LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["lm_head", "embed_tokens", "norm"]),
    ),
    "embedding": (
        lambda: llama(tied=False),
        LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
    ),
    "DoRA of an embedding": (
        lambda: llama(tied=False),
        LoraConfig(r=4, target_modules=["embed_tokens"], use_dora=True),
    ),
    "token rows": (
        lambda: llama(tied=False),
        LoraConfig(r=4, target_modules=ATTENTION, trainable_token_indices={"embed_tokens": [90, 3, 5]}),
    ),
    "token rows of a tied model": (
        llama,
        LoraConfig(r=4, target_modules=ATTENTION, trainable_token_indices=[90, 3, 5]),
    ),
    "only token rows": (llama, TrainableTokensConfig(token_indices=[7, 2])),
    "lora_bias": (
        lambda: llama(attention_bias=True),
        LoraConfig(r=4, lora_alpha=6, target_modules=ATTENTION, lora_bias=True),
    ),
    "biases": (
        lambda: llama(attention_bias=True),
        LoraConfig(r=4, target_modules=ATTENTION, bias="lora_only"),
    ),
    "some layers": (llama, LoraConfig(r=4, target_modules=ATTENTION, layers_to_transform=[1])),
    "LoHa": (llama, LoHaConfig(r=4, alpha=6, target_modules=[*ATTENTION, "down_proj"])),
    "LoHa with patterns": (
        llama,
        LoHaConfig(
            r=4,
            target_modules=ATTENTION,
            rank_pattern={"q_proj": 3},
            alpha_pattern={r"layers\.1\..*q_proj": 5},
        ),
    ),
    "LoHa of the head": (
        lambda: llama(tied=False),
        LoHaConfig(r=3, target_modules=["lm_head"], modules_to_save=["norm"]),
    ),
    "LoKr": (llama, LoKrConfig(r=2, alpha=6, target_modules=[*ATTENTION, "down_proj"])),
    "LoKr of whole matrices": (llama, LoKrConfig(r=64, alpha=6, target_modules=[*ATTENTION, "up_proj"])),
    "LoKr of four factors": (
        llama,
        LoKrConfig(r=2, target_modules=[*ATTENTION, "up_proj"], decompose_both=True, decompose_factor=8),
    ),
    "IA3": (
        lambda: llama(attention_bias=True),
        IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ),
    "IA3 of Conv1D": (
        gpt2,
        IA3Config(
            target_modules=["c_attn", "attn.c_proj", "mlp.c_proj"],
            feedforward_modules=["mlp.c_proj"],
            fan_in_fan_out=True,
        ),
    ),
    "packed experts, stored one by one": (
        mixtral,
        LoraConfig(r=2, target_modules=[], target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
    ),
    "packed experts, transposed": (
        gpt_oss,
        LoraConfig(r=2, target_modules=[], target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
    ),
    "one packed parameter": (
        gpt_oss,
        LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["experts.down_proj"]),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_peft(kind: str, tmp_path: Path) -> None:
    make, config = KINDS[kind]
    model = saved(make, tmp_path / "base")
    before = copy.deepcopy(model)
    adapted = trained(model, copy.deepcopy(config), tmp_path / "adapter")
    expected = adapted.merge_and_unload()

    ours = loaded(opened(tmp_path / "base", tmp_path / "adapter"), tmp_path / "ours").state_dict()

    theirs = expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-7, rtol=2e-6, msg=f"{kind}: {name}")
    moved = [name for name, tensor in before.state_dict().items() if not torch.equal(ours[name], tensor)]
    assert moved, "the adapter changed nothing"


def vit() -> nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    return ViTModel(ViTConfig(**sizes, image_size=16, patch_size=4), add_pooling_layer=False)


def whisper() -> nn.Module:
    sizes = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_mel_bins": 8, "vocab_size": 96}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "pad_token_id": 0}
    return WhisperModel(WhisperConfig(**sizes, **layers, decoder_attention_heads=4))


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "plain": (vit, LoraConfig(r=3, lora_alpha=5, target_modules=["projection"])),
    "DoRA": (vit, LoraConfig(r=3, lora_alpha=5, target_modules=["projection"], use_dora=True)),
    "one axis": (whisper, LoraConfig(r=3, lora_alpha=5, target_modules=["conv2"])),
    "DoRA, one axis": (whisper, LoraConfig(r=3, lora_alpha=5, target_modules=["conv2"], use_dora=True)),
    "LoHa": (vit, LoHaConfig(r=3, alpha=5, target_modules=["projection"])),
    "LoHa of a kernel": (vit, LoHaConfig(r=3, target_modules=["projection"], use_effective_conv2d=True)),
    "LoHa of a kernel, one axis": (
        whisper,
        LoHaConfig(r=3, target_modules=["conv2"], use_effective_conv2d=True),
    ),
    "LoKr": (vit, LoKrConfig(r=1, alpha=5, target_modules=["projection"])),
    "LoKr of a whole kernel": (vit, LoKrConfig(r=64, alpha=5, target_modules=["projection"])),
    "LoKr, one axis": (whisper, LoKrConfig(r=1, target_modules=["conv2"])),
    "LoKr of a kernel": (vit, LoKrConfig(r=1, target_modules=["projection"], use_effective_conv2d=True)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind: str, tmp_path: Path) -> None:
    make, config = CONVOLUTIONS[kind]
    model = saved(make, tmp_path / "base")
    expected = trained(model, copy.deepcopy(config), tmp_path / "adapter").merge_and_unload().state_dict()

    checkpoint = opened(tmp_path / "base", tmp_path / "adapter")

    ours = tensors(checkpoint)
    [changed] = [name for name, header in checkpoint.tensors.items() if header.rounds_to]
    theirs = next(
        tensor for name, tensor in expected.items() if name.endswith(changed) or changed.endswith(name)
    )
    assert theirs.ndim > 2
    torch.testing.assert_close(ours[changed], theirs, atol=2e-7, rtol=2e-6)


@pytest.mark.parametrize(
    ("make", "config", "damage", "said"),
    [
        (whisper, LoKrConfig(r=64, target_modules=["conv2"]), "", "conv2 has no product of the base's shape"),
        (llama, LoHaConfig(r=4, target_modules=["q_proj"]), "hada_w2_b", "q_proj has no product"),
        (llama, LoKrConfig(r=2, target_modules=["q_proj"]), "lokr_w2_a", "q_proj has no product"),
        (llama, LoHaConfig(r=4, target_modules=["up_proj"]), "32", r"up_proj has no product .* \[48, 32\]"),
        (llama, IA3Config(target_modules=["k_proj"], feedforward_modules=[]), "16", "k_proj has 15 factors"),
    ],
)
def test_other_kinds_that_do_not_fit(
    make: Callable[[], nn.Module], config: Any, damage: str, said: str, tmp_path: Path
) -> None:
    trained(saved(make, tmp_path / "base"), config, tmp_path / "adapter")
    file = tmp_path / "adapter/adapter_model.safetensors"
    kept = {}
    for name, tensor in load_file(file).items():
        if damage.isdigit():  # an axis of so many numbers loses one
            for axis in [axis for axis, size in enumerate(tensor.shape) if size == int(damage)]:
                tensor = tensor.narrow(axis, 0, int(damage) - 1)
        if not damage or damage not in name:
            kept[name] = tensor.contiguous()
    save_file(kept, file)

    with pytest.raises(CheckpointError, match=said):
        opened(tmp_path / "base", tmp_path / "adapter")


def test_adapters_in_a_row_each_with_its_scale(tmp_path: Path) -> None:
    base = saved(llama, tmp_path / "base")
    for seed, name in enumerate(("one", "two")):
        config = LoraConfig(r=4, target_modules=[*ATTENTION, "up_proj"][seed:])
        trained(copy.deepcopy(base), config, tmp_path / name, seed)
    model = PeftModel.from_pretrained(base, tmp_path / "one", adapter_name="one")
    model.load_adapter(tmp_path / "two", adapter_name="two")
    for layer in model.modules():
        for name, scale in (("one", 0.5), ("two", -2.0)):
            if hasattr(layer, "set_scale"):
                layer.set_scale(name, scale)
    model.base_model.set_adapter(["one", "two"])
    expected = model.merge_and_unload().state_dict()

    checkpoint = open_adapter(open_checkpoint(str(tmp_path / "base")), str(tmp_path / "one"), scale=0.5)
    checkpoint = open_adapter(checkpoint, str(tmp_path / "two"), scale=-2.0)

    for name, tensor in tensors(checkpoint).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    "kind", ["plain", "DoRA", "DoRA of Conv1D", "modules to save", "token rows", "LoKr", "IA3"]
)
def test_a_scale_of_zero_gives_the_base_back_and_a_half_goes_half_way(kind: str, tmp_path: Path) -> None:
    make, config = KINDS[kind]
    model = saved(make, tmp_path / "base")
    trained(model, copy.deepcopy(config), tmp_path / "adapter")
    base, whole = tensors(opened(tmp_path / "base")), tensors(opened(tmp_path / "base", tmp_path / "adapter"))

    none = tensors(opened(tmp_path / "base", tmp_path / "adapter", scale=0.0))
    half = tensors(opened(tmp_path / "base", tmp_path / "adapter", scale=0.5))

    assert any(not torch.equal(base[name], whole[name]) for name in base)
    for name, tensor in base.items():
        torch.testing.assert_close(none[name], tensor, atol=0, rtol=0)
        torch.testing.assert_close(half[name], (tensor + whole[name]) / 2, atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("config", "tied"),
    [
        (LoraConfig(r=4, target_modules=["embed_tokens"]), False),
        (LoraConfig(r=4, target_modules=["lm_head", "q_proj"]), False),
        (LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]), False),
        (LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"]), False),
        (LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[3, 4]), True),
        (
            LoraConfig(
                r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True
            ),
            True,
        ),
        (LoraConfig(r=4, target_modules=["embed_tokens"], ensure_weight_tying=True), True),
    ],
)
def test_a_tied_model_answers_as_it_did_under_its_adapter(
    config: LoraConfig, tied: bool, tmp_path: Path
) -> None:
    """PEFT changes the embedding or the head: to stay what was trained, they have to become two."""
    adapted = trained(saved(llama, tmp_path / "base"), config, tmp_path / "adapter")
    checkpoint = opened(tmp_path / "base", tmp_path / "adapter")

    ours = answers(loaded(checkpoint, tmp_path / "ours"))

    assert checkpoint.config["tie_word_embeddings"] is tied
    torch.testing.assert_close(ours, answers(adapted), atol=2e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("tied", "more"),
    [
        (True, {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
        (True, {}),  # PEFT saves a vocabulary that was resized by itself
        (False, {}),
        (False, {"modules_to_save": ["embed_tokens", "lm_head"]}),
    ],
)
def test_a_grown_vocabulary_that_is_saved_whole(tied: bool, more: dict[str, Any], tmp_path: Path) -> None:
    saved(lambda: llama(tied), tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model.resize_token_embeddings(101)
    adapted = trained(model, LoraConfig(r=4, target_modules=["q_proj"], **more), tmp_path / "adapter")
    expected = answers(adapted, 101)

    checkpoint = opened(tmp_path / "base", tmp_path / "adapter")

    assert checkpoint.config["vocab_size"] == 101
    assert [problem.code for problem in checkpoint.warnings] == ["adapter-without-tokenizer"]
    ours = answers(loaded(checkpoint, tmp_path / "ours"), 101)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)


def test_rows_of_new_tokens_grow_the_vocabulary(tmp_path: Path) -> None:
    model = saved(llama, tmp_path / "base")
    model.resize_token_embeddings(99, mean_resizing=False)
    config = LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[98, 5, 96, 97])
    adapted = trained(model, config, tmp_path / "adapter")
    expected = answers(adapted.merge_and_unload(), 99)

    checkpoint = opened(tmp_path / "base", tmp_path / "adapter")

    assert checkpoint.tensors["model.embed_tokens.weight"].shape == (99, 32)
    torch.testing.assert_close(
        answers(loaded(checkpoint, tmp_path / "ours"), 99), expected, atol=2e-5, rtol=1e-4
    )


def test_weights_in_a_pickle_are_read_without_running_it(tmp_path: Path) -> None:
    trained(saved(llama, tmp_path / "base"), copy.deepcopy(KINDS["plain"][1]), tmp_path / "adapter")
    expected = tensors(opened(tmp_path / "base", tmp_path / "adapter"))
    weights = tmp_path / "adapter/adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "adapter/adapter_model.bin")
    weights.unlink()

    for name, tensor in tensors(opened(tmp_path / "base", tmp_path / "adapter")).items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize(
    "kind", ["plain", "DoRA", "DoRA of Conv1D", "packed experts, transposed", "LoHa", "LoKr", "IA3"]
)
def test_the_bits_do_not_depend_on_how_much_is_read_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "checkpoints.adapters.changed_tensor.TILE", 300
    )  # several tiles for each of these small tensors
    make, config = KINDS[kind]
    trained(saved(make, tmp_path / "base"), copy.deepcopy(config), tmp_path / "adapter")
    checkpoint = opened(tmp_path / "base", tmp_path / "adapter")
    name = next(name for name, header in checkpoint.tensors.items() if header.rounds_to)
    whole = tensors(checkpoint)[name].numpy().tobytes()
    for step in (4, 52, 1000, 4096):
        data = bytearray(len(whole))
        for start in range(0, len(whole), step):
            checkpoint.read_into(name, start, memoryview(data)[start : start + step])
        assert data == whole
