"""Tiny dense models of the families that experts are made of, and what tests of mixtures share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf
import yaml

from merging import Plan, make_plan, read_recipe, run_plan
from tests.tiny import save_tokenizer

LAYERS, HIDDEN, WIDTH, ROWS = 3, 32, 48, 258
SETTINGS = {
    "vocab_size": ROWS,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CLASSES = {
    "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, {}),
    "mistral": (hf.MistralConfig, hf.MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM, {}),
    "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, {"head_dim": 16}),
}
# Pairs of a family and a shared expert, if there has to be one.
MIXTURES = [("llama", False), ("mistral", False), ("qwen2", True), ("qwen3", False), ("llama", True)]


def dense(path: Path, kind: str, seed: int, **settings: Any) -> Path:
    """Save a random dense model with a tokenizer; returns the path."""
    config_class, model_class, own = CLASSES[kind]
    torch.manual_seed(seed)
    model = model_class(config_class(**{**SETTINGS, **own, **settings}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    model.to(torch.bfloat16).save_pretrained(path)
    return save_tokenizer(path)


def recipe(
    base: Path, experts: list[Any], *, shared: Any = None, gate_mode: str = "uniform_random", **more: Any
) -> str:
    """A recipe of experts, each a model or an entry; prompts are added where the mode needs them."""
    written: dict[str, Any] = {"base_model": str(base), "gate_mode": gate_mode}
    entries = [dict(expert) if isinstance(expert, dict) else {"source_model": expert} for expert in experts]
    shared_entries = (
        [] if shared is None else [shared if isinstance(shared, dict) else {"source_model": shared}]
    )
    for number, entry in enumerate([*entries, *shared_entries]):
        entry["source_model"] = str(entry["source_model"])
        if "random" not in gate_mode:
            entry.setdefault("positive_prompts", [f"{'abcdefgh'[number] * 3} text", f"number {number}"])
    written["experts"] = entries
    if shared_entries:
        written["shared_experts"] = shared_entries
    return yaml.safe_dump(written | more)


def made(text: str, to: Path, **options: Any) -> Plan:
    """Make a mixture; returns the plan, which has no problems."""
    plan = make_plan(read_recipe(text), str(to))
    assert plan.problems == ()
    run_plan(plan, str(to), **options)
    return plan


def loaded(path: Path) -> hf.PreTrainedModel:
    """A result in float32, of which nothing is missing and nothing left over."""
    model, info = hf.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def logits(model: hf.PreTrainedModel) -> torch.Tensor:
    """The logits of a fixed text."""
    tokens = torch.arange(3, 40)[None]
    with torch.inference_mode():
        return model(tokens).logits
