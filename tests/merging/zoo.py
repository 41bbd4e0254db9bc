"""Every model that transformers registers, as a tiny random model, merged and stacked.

`python -m tests.merging.zoo` tries all causal language models, and counts; `python -m tests.merging.zoo llama gemma2`
tries some, and `python -m tests.merging.zoo others` all models of other kinds. A new architecture joins by itself.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import transformers
import yaml
from transformers.models.auto import modeling_auto

from checkpoints.built_model import build
from merging import make_plan, read_recipe, run_plan

CAUSAL = dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
FAMILIES = tuple(sorted(CAUSAL))
# The classes of all other tasks, each once.
OTHERS = tuple(
    sorted(
        {
            name
            for mapping, classes in vars(modeling_auto).items()
            if mapping.startswith("MODEL_") and mapping.endswith("_MAPPING_NAMES")
            for value in classes.values()
            for name in (value if isinstance(value, tuple) else (value,))
            if hasattr(transformers, name)
        }
        - {*CAUSAL.values()}
    )
)
LAYERS = 4
# Settings by their usual names, small; a config takes those that it has.
SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "embed_dim": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "n_inner": 48,
    "num_hidden_layers": LAYERS,
    "n_layer": LAYERS,
    "num_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "num_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "sliding_window": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "state_size": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 96,
    "n_shared_experts": 1,
    "encoder_hash_byte_group_vocab": 30,
    "ple_embed_dim": 8,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 16,
    "indexer_compress_ratio": 2,
    "laurel_rank": 4,
    "altup_num_inputs": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "d_ff": 48,
    "d_kv": 8,
    "num_mel_bins": 8,
    "image_size": 32,
    "patch_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "max_source_positions": 32,
    "max_target_positions": 32,
    "conv_dim": [32] * 2,
    "conv_stride": [2] * 2,
    "conv_kernel": [3] * 2,
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "depth": 2,
    "projection_dim": 16,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [0],
    "deepstack_visual_indexes": [0],
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# What some configs need besides, tried in this order: sizes that have to agree, lists with an entry for each layer.
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
ALTERNATIVES: tuple[dict[str, Any], ...] = (
    {},
    {"num_key_value_heads": 4},
    {"num_experts_per_tok": 1},
    {"num_heads": 8},
    {"is_decoder": True},
    {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "lsh"] * 2},
    {"num_kv_shared_layers": 0},
    {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
    {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    {"attention_types": [[["global", "local"], LAYERS // 2]]},
    {"layer_types": ["full_attention"] * LAYERS},
    {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_ssm": 64},
)
# A larger model is not tiny: its config has sizes under names of its own.
MOST_PARAMETERS = 20_000_000

Verdict = Literal["exact", "refused", "not buildable", "WRONG"]


class Outcome(NamedTuple):
    """What became of one way to merge one family."""

    family: str
    way: str
    verdict: Verdict
    why: str = ""


def tiny(family: str) -> transformers.PreTrainedModel | None:
    """A tiny random model of a family, or of a class; None if it cannot be built small."""
    model_class = getattr(transformers, CAUSAL.get(family, family))
    for more in ALTERNATIVES:
        try:
            config = small_config(model_class.config_class, more)
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in model_class(config).parameters())
            if size > MOST_PARAMETERS:
                return None
            torch.manual_seed(0)
            model: transformers.PreTrainedModel = model_class(config).float().eval()
        except Exception:  # whatever a config that was made small by names alone does
            continue
        return model
    return None


def small_config(config_class: type, more: dict[str, Any]) -> transformers.PreTrainedConfig:
    """A config with small sizes, and the configs of its parts too."""
    default = config_class()
    known = set(vars(default)) | set(config_class.attribute_map)  # type: ignore[attr-defined]
    settings: dict[str, Any] = {key: value for key, value in {**SMALL, **more}.items() if key in known}
    for name in config_class.sub_configs:  # type: ignore[attr-defined]
        part = getattr(default, name, None)
        if isinstance(part, transformers.PreTrainedConfig):
            settings[name] = small_config(type(part), {}).to_dict()
    return config_class(**settings)  # type: ignore[no-any-return]


def save(model: transformers.PreTrainedModel, folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder / str(seed))


def recipes(folder: Path) -> dict[str, dict[str, Any]]:
    a, b = str(folder / "1"), str(folder / "2")

    def sources(first: int, last: int, *models: str) -> dict[str, Any]:
        return {"sources": [{"model": model, "layer_range": [first, last]} for model in models]}

    each = [{"model": model, "parameters": {"weight": 0.5}} for model in (a, b)]
    return {
        "linear": {"merge_method": "linear", "models": each},
        "gradient": {
            "merge_method": "slerp",
            "base_model": a,
            "slices": [sources(0, LAYERS, a, b)],
            "parameters": {"t": [0.2, 0.8]},
        },
        "stack": {"merge_method": "passthrough", "slices": [sources(0, 3, a), sources(1, LAYERS, b)]},
    }


def outcomes(family: str) -> list[Outcome]:
    """Merge two models of a family in every way, and load each result."""
    model = tiny(family)
    if model is None:
        return [Outcome(family, "build", "not buildable")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            for seed in (1, 2):
                save(model, folder, seed)
            loaded = _trouble(type(model), folder / "1")
        except Exception as error:
            return [Outcome(family, "build", "not buildable", f"{type(error).__name__}: {error}"[:200])]
        if loaded:  # transformers does not load what it saved: no merge can be better
            return [Outcome(family, "build", "not buildable", loaded)]
        return [_tried(type(model), family, way, recipe, folder) for way, recipe in recipes(folder).items()]


def _tried(
    model_class: type[transformers.PreTrainedModel],
    family: str,
    way: str,
    recipe: dict[str, Any],
    folder: Path,
) -> Outcome:
    out = folder / way
    plan = make_plan(read_recipe(yaml.safe_dump(recipe)), str(out))
    if not plan.ok:
        return Outcome(family, way, "refused", str(plan.problems[0]))
    run_plan(plan, str(out))
    trouble = _trouble(model_class, out)
    if not trouble and way == "linear":
        trouble = _other_values(model_class, folder)
    if not trouble and way == "stack":
        trouble = _other_kinds(folder / "1", out)
    return Outcome(family, way, "WRONG" if trouble else "exact", trouble)


def _trouble(model_class: type[transformers.PreTrainedModel], folder: Path) -> str:
    """What loading a folder says is missing, unexpected or of another shape."""
    try:
        _, info = model_class.from_pretrained(folder, output_loading_info=True)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "; ".join(f"{key}: {sorted(map(str, value))[:3]}" for key, value in info.items() if value)


def _other_values(model_class: type[transformers.PreTrainedModel], folder: Path) -> str:
    """The parameters of an average that are not the average of its parents'."""
    first, second, average = (
        dict(model_class.from_pretrained(folder / name).named_parameters()) for name in ("1", "2", "linear")
    )
    wrong = [
        name
        for name, value in average.items()
        if not torch.allclose(value.float(), (first[name].float() + second[name].float()) / 2, atol=1e-4)
    ]
    return f"other values: {wrong[:3]}" if wrong else ""


def _other_kinds(source: Path, result: Path) -> str:
    before, after = build([json.loads((folder / "config.json").read_text()) for folder in (source, result)])
    if before is None or after is None:
        return ""
    for prefix, numbers in before.layers.items():
        if len(numbers) != LAYERS or len(after.layers.get(prefix, ())) != 2 * LAYERS - 2:
            continue
        wanted = [before.kinds[numbers[layer]] for layer in (0, 1, 2, 1, 2, 3)]
        got = [after.kinds[number] for number in after.layers[prefix]]
        if got != wanted:
            return f"{prefix}: layers {[n for n in range(6) if got[n] != wanted[n]]} are of another kind"
    return ""


def main(families: list[str]) -> int:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    found: list[Outcome] = []
    for family in OTHERS if families == ["others"] else families or FAMILIES:
        found += outcomes(family)
        for outcome in found[-3:]:
            if outcome.family == family and outcome.verdict != "exact":
                print(*outcome, sep=" | ", flush=True)
    for way in ("build", "linear", "gradient", "stack"):
        counts = Counter(outcome.verdict for outcome in found if outcome.way == way)
        print(f"{way}: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}")
    return int(any(outcome.verdict == "WRONG" for outcome in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
