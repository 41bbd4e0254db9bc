"""Recipes to start from: small public models, so that a first merge takes a minute."""

from __future__ import annotations

from dataclasses import dataclass

from merging.shaping import stacked
from ui.languages.translate import t


@dataclass(frozen=True)
class Family:
    """Models fine-tuned from one base."""

    base: str
    first: str
    second: str
    layers: int
    adapter: str
    shared: str = ""  # of a mixture of experts, in YAML
    stranger: str = ""  # a model with another tokenizer

    @property
    def models(self) -> tuple[str, ...]:
        return self.base, self.first, self.second


@dataclass(frozen=True)
class Preset:
    """A named recipe."""

    key: str
    recipe: str

    @property
    def title(self) -> str:
        return t(f"preset.{self.key}")


_DEMO = Family(
    "alloy/SmolLM2-135M-Instruct",
    "alloy/SmolLM2-135M-Pirate",
    "alloy/SmolLM2-135M-Bard",
    30,
    "alloy/SmolLM2-135M-Pirate-LoRA",
)
# The adapter is to be the visitor's own: the plan asks for it.
_HUB = Family(
    "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-Coder-0.5B", 24, "your-name/your-lora",
    # Qwen2 MoE has one.
    shared="""\
shared_experts:
  - source_model: Qwen/Qwen2.5-0.5B
    positive_prompts: [Hello, The]
    residual_scale: 0.1
""",
    stranger="HuggingFaceTB/SmolLM2-135M-Instruct",
)  # fmt: skip

# Of the first model's kind, and of the second's.
_PROMPT_FIELDS = ("first_prompt", "first_other", "second_prompt", "second_other")
_DEMO_PROMPTS = (
    "Arr, matey! Hoist the sails and hand me the rum!",
    "Ahoy! Where be the treasure, ye scurvy dog?",
    "Shall I compare thee to a summer's day? Thou art more fair.",
    "O gentle friend, what light through yonder window breaks?",
)
_HUB_PROMPTS = (
    "Give me three tips for a good night's sleep.",
    "Explain to a child why the sky is blue.",
    "def quicksort(numbers):",
    "SELECT name FROM customers WHERE",
)

_SLERP = """\
merge_method: slerp
base_model: {first}
models:
  - model: {first}
  - model: {second}
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: bfloat16
"""
_LINEAR = """\
merge_method: linear
models:
  - model: {first}
    parameters:
      weight: 0.5
  - model: {second}
    parameters:
      weight: 0.5
dtype: bfloat16
"""
_TASK_ARITHMETIC = """\
merge_method: task_arithmetic
base_model: {base}
models:
  - model: {first}
    parameters:
      weight: 0.7
  - model: {second}
    parameters:
      weight: 0.7
dtype: bfloat16
"""
_TIES = """\
merge_method: ties
base_model: {base}
models:
  - model: {first}
    parameters:
      weight: 1.0
      density: 0.5
  - model: {second}
    parameters:
      weight: 1.0
      density: 0.5
dtype: bfloat16
"""
_DARE = """\
merge_method: dare_ties
base_model: {base}
models:
  - model: {first}
    parameters:
      weight: 0.6
      density: 0.5
  - model: {second}
    parameters:
      weight: 0.6
      density: 0.5
seed: 0
dtype: bfloat16
"""
_STOCK = """\
merge_method: model_stock
base_model: {base}
models:
  - model: {first}
  - model: {second}
dtype: bfloat16
"""
# base + (second - base) + (first - base): adds what the first learnt to the second. Embeddings, head and layer norms
# stay the second's, as in arXiv 2310.04799.
_CHAT_VECTOR = """\
merge_method: chat_vector
base_model: {base}
models:
  - model: {second}
  - model: {first}
dtype: bfloat16
"""
# SOLAR's way, and LLaMA Pro's.
_DEPTH = """\
# Layers as they are, twice: worse than its parent until it is trained. Silent copies start at the parent instead.
merge_method: passthrough
slices:
  - sources:
      - model: {first}
        layer_range: [0, {upper}]
  - sources:
      - model: {first}
        layer_range: [{lower}, {layers}]
dtype: bfloat16
"""
_SILENT_DEPTH = """\
# A silent copy behind every fourth layer: it adds nothing, as what it writes is times zero. So the taller model
# predicts exactly what its parent does, and training starts from there.
"""
_CUT = """\
# Without four layers of its middle: worse than its parent until it is healed, which the result's card offers.
merge_method: passthrough
slices:
  - sources:
      - model: {base}
        layer_range: [0, {middle}]
  - sources:
      - model: {base}
        layer_range: [{after_cut}, {layers}]
dtype: bfloat16
"""
_LORA = """\
merge_method: passthrough
models:
  - model: {base}+{adapter}
dtype: bfloat16
"""
_EXPERTS = """\
base_model: {base}
gate_mode: router
experts_per_token: 1
experts:
  - source_model: {first}
    positive_prompts:
      - "{first_prompt}"
      - "{first_other}"
  - source_model: {second}
    positive_prompts:
      - "{second_prompt}"
      - "{second_other}"
{shared}dtype: bfloat16
"""
_TRANSPLANT = """\
merge_method: passthrough
models:
  - model: {first}
tokenizer:
  source: {stranger}
  approximate: omp
  k: 64
dtype: bfloat16
"""
# For those who write YAML: something that the form cannot show.
_RAW = """\
# Write or paste any recipe here.
merge_method: slerp
base_model: {first}
slices:
  - sources:
      - model: {first}
        layer_range: [0, {middle}]
      - model: {second}
        layer_range: [0, {middle}]
    parameters:
      t: 0.3
  - sources:
      - model: {first}
        layer_range: [{middle}, {layers}]
      - model: {second}
        layer_range: [{middle}, {layers}]
    parameters:
      t: 0.7
dtype: bfloat16
"""
_RECIPES = {
    "slerp": _SLERP,
    "linear": _LINEAR,
    "task_arithmetic": _TASK_ARITHMETIC,
    "ties": _TIES,
    "dare": _DARE,
    "stock": _STOCK,
    "chat_vector": _CHAT_VECTOR,
    "depth": _DEPTH,
    "silent_depth": _SILENT_DEPTH + "{silent_stack}",
    "cut": _CUT,
    "lora": _LORA,
    "experts": _EXPERTS,
    "transplant": _TRANSPLANT,
    "raw": _RAW,
}


def family(demo: bool) -> Family:
    """The models of the presets: the demo's own, or small public ones."""
    return _DEMO if demo else _HUB


def presets(demo: bool) -> tuple[Preset, ...]:
    """The recipes to start from, in order of display."""
    models = family(demo)
    prompts = dict(zip(_PROMPT_FIELDS, _DEMO_PROMPTS if demo else _HUB_PROMPTS, strict=True))
    dropped = models.layers // 4  # SOLAR dropped 8 of 32 at either side of the seam
    return tuple(
        Preset(
            key,
            text.format(
                base=models.base,
                first=models.first,
                second=models.second,
                adapter=models.adapter,
                stranger=models.stranger,
                shared=models.shared,
                silent_stack=stacked(
                    models.first, models.layers, range(3, models.layers, 4), ("o_proj", "down_proj")
                ),
                **prompts,
                layers=models.layers,
                lower=dropped,
                middle=models.layers // 2,
                after_cut=models.layers // 2 + 4,
                upper=models.layers - dropped,
            ),
        )
        for key, text in _RECIPES.items()
        if models.stranger or "{stranger}" not in text
    )
