"""What a training run changes: an adapter, the silent copies of a stack, or all weights; and how that is saved.

Either way it is saved as an adapter, which the engine merges into the student: a low-rank one, or one that has whole
tensors.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from evaluation import LanguageModel
from healing.plan import HealPlan
from healing.training import trained

# The first number in a name is that of the layer.
_LAYER = re.compile(r"(?<![^.])(\d+)\.")


def prepare(student: LanguageModel, plan: HealPlan) -> Any:
    """Let the weights that are trained have gradients, and no others.

    Returns:
        The network to train: PEFT's view of the student for an adapter, else the student's own.
    """
    if plan.weights == "lora":
        return _under_adapter(student, plan)
    # Small steps are lost in 16 bits.
    network = student.network.float()
    for name, weight in network.named_parameters():
        layer = _LAYER.search(name)
        weight.requires_grad_(plan.weights == "all" or bool(layer and int(layer[1]) in plan.copies))
    return network


def _under_adapter(student: LanguageModel, plan: HealPlan) -> Any:
    """A new LoRA on every linear layer but the head."""
    import peft

    given = plan.training.arguments
    config = peft.LoraConfig(
        r=given.lora_r, lora_alpha=given.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(given.seed)
        return peft.get_peft_model(student.network, config)


def save(network: Any, folder: Path, base: str) -> None:
    """Write what was trained as an adapter.

    Args:
        network: from `prepare`.
        folder: that is written.
        base: name of the model that the student was made of: a model in memory has none.
    """
    if hasattr(network, "peft_config"):
        network.peft_config["default"].base_model_name_or_path = base
        network.save_pretrained(str(folder), save_embedding_layers=False)
        return
    weights = trained(network)
    modules = sorted({name.rpartition(".")[0] for name in weights})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": 1,
        "lora_alpha": 1,
        "target_modules": [],
        "modules_to_save": modules,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    tensors = {
        f"base_model.model.{name}": weight.detach().contiguous().cpu() for name, weight in weights.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
