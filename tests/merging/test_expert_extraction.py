"""Adapters out of models with experts, and out of files with other names than the modules: as PEFT loads them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
import yaml
from peft import PeftModel

from merging import make_plan, read_recipe, run_plan
from merging.lora_extraction import extract_lora

TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
}
EXPERTS = {**TEXT, "num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8, "num_experts_per_tok": 2}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
TOKENS = torch.arange(3, 15)[None]


def mixtral() -> hf.PreTrainedModel:
    return hf.MixtralForCausalLM(hf.MixtralConfig(**TEXT, num_local_experts=2))


def qwen3_moe() -> hf.PreTrainedModel:
    return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**EXPERTS))


def qwen3_next() -> hf.PreTrainedModel:
    """Shared experts, and layers with numbers of their own beside their matrices."""
    config = hf.Qwen3NextConfig(**EXPERTS, **LINEAR, shared_expert_intermediate_size=16)
    return hf.Qwen3NextForCausalLM(config)


def gemma3() -> hf.PreTrainedModel:
    sight = hf.SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    )
    text = hf.Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=8)
    config = hf.Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=4)
    return hf.Gemma3ForConditionalGeneration(config)


MODELS = (mixtral, qwen3_moe, qwen3_next, gemma3)


def every(_: str) -> bool:
    return True


def some_experts(name: str) -> bool:
    return "0.mlp.experts.down" in name


def both_kinds_apart(name: str) -> bool:
    """In one layer only the one parameter of the experts, in the next only the other."""
    return "0.mlp.experts.down" in name or "1.mlp.experts.gate_up" in name


@torch.inference_mode()
def answers(model: torch.nn.Module) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=TOKENS, use_cache=False).logits
    return found


@pytest.mark.parametrize(
    ("make", "changes", "energy"),
    [
        *((make, every, None) for make in MODELS),
        (qwen3_moe, some_experts, None),
        (qwen3_moe, both_kinds_apart, None),
        (qwen3_next, every, 0.9999999),
    ],
)
def test_an_adapter_is_the_fine_tune_again(
    make: Callable[[], hf.PreTrainedModel],
    changes: Callable[[str], bool],
    energy: float | None,
    tmp_path: Path,
) -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    make().float().save_pretrained(tmp_path / "base")
    model_class = type(make())
    finetune = model_class.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        for name, parameter in finetune.named_parameters():
            # Changes of a low rank, of which it takes fewer directions to keep nearly all.
            if changes(name):
                noise = torch.randn_like(parameter)
                noise[..., 1:] *= 1 if energy is None else 1e-4
                parameter.add_(0.05 * noise)
    finetune.save_pretrained(tmp_path / "finetune")

    extract_lora(
        str(tmp_path / "finetune"), str(tmp_path / "base"), str(tmp_path / "lora"), rank=64, energy=energy
    )

    wanted = answers(finetune)
    close = {"atol": 1e-4 if energy is None else 1e-2, "rtol": 1e-3}
    fresh = model_class.from_pretrained(tmp_path / "base")
    assert not torch.allclose(answers(fresh), wanted, **close)
    torch.testing.assert_close(answers(PeftModel.from_pretrained(fresh, tmp_path / "lora")), wanted, **close)
    both = [{"model": f"{tmp_path / 'base'}+{tmp_path / 'lora'}"}]
    plan = make_plan(read_recipe(yaml.safe_dump({"merge_method": "passthrough", "models": both})))
    run_plan(plan, str(tmp_path / "out"))
    torch.testing.assert_close(answers(model_class.from_pretrained(tmp_path / "out")), wanted, **close)
