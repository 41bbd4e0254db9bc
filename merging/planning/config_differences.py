"""Settings in which parents' configs differ although their tensors have the same shapes.

The number of heads, the base of a rotary embedding or an epsilon stands in no tensor. The result has one config, and
weights that were trained under another one compute something else there. All settings are compared but those known to
change nothing about what weights mean, so that the list of exceptions is short and new settings are seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from checkpoints.architecture import LAYER_COUNT_KEYS
from checkpoints.class_defaults import class_defaults

# Names, tokens, sizes of vocabularies and contexts, training, and what a loader may choose.
WITHOUT_MEANING = re.compile(
    r"token|vocab|dtype|version|name_or_path|commit|architectures|model_type|auto_map|dropout|drop_?out|initializer"
    r"|init_|_init$|cache|output_|return_|use_bfloat16|max_(position|length|seq|window)|seq_length|n_positions|n_ctx"
    r"|pretraining|problem_type|label|task|attn_implementation|flash|prefix|language|training|aux_loss|z_loss|jitter"
    r"|tie_|chunk_size|gradient|checkpoint|transformers|quantization|original_max|padding|router_logits|is_decoder"
    r"|license|finetun|_class|tokenizer|template|embd_pdrop|attn_pdrop|resid_pdrop|summary_|use_mrope"
)
# Settings by which the same numbers are cut into other heads.
HEADS = re.compile(
    r"(num|n)_(attention_|key_value_|kv_)?heads?$|^head_dim$|_head_dim$|^multi_query$|^n_head_kv$"
)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config that change what its weights mean, by their names wherever they stand.

    A rotary base is `rope_theta` in older configs and part of `rope_parameters` in newer ones. Positions that are not
    scaled have the type "default", which many configs leave out.
    """
    found = dict(_leaves(_text_part(config)))
    kind = found.pop("rope_type", None) or found.pop("type", None)
    return {**found, "rope_type": kind or "default"}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that both configs have, with different values. One that is left out has its class's default."""
    ours, theirs = settings(one), settings(other)
    if ours.keys() != theirs.keys():
        ours, theirs = {**_left_out(one, other), **ours}, {**_left_out(other, one), **theirs}
    return {
        key: (ours[key], theirs[key]) for key in ours if key in theirs and not _equal(ours[key], theirs[key])
    }


def _left_out(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What settings that another config states are by default in the class of this one."""
    defaults = class_defaults(_text_part(config).get("model_type"))
    part = _text_part(other)
    inside = [value for key, value in part.items() if "rope" in key and isinstance(value, dict)]
    stated = {key for values in (part, *inside) for key in values} if defaults else set()
    return {
        key: defaults[key]
        for key in stated & defaults.keys()
        if not (WITHOUT_MEANING.search(key) or (defaults[key] is None and HEADS.search(key)))
    }


def of_heads(found: Mapping[str, Any]) -> list[str]:
    """Those settings by which numbers are cut into heads."""
    return [key for key in found if HEADS.search(key)]


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that speaks of the language model: inside for models that also see or hear."""
    inner = (value for key, value in config.items() if isinstance(value, dict) and "text" in key)
    return next((part for part in inner if part.keys() & set(LAYER_COUNT_KEYS)), config)


def _leaves(part: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in part.items():
        if WITHOUT_MEANING.search(key) or key in LAYER_COUNT_KEYS:
            continue
        if isinstance(value, dict):
            if not value.keys() & set(LAYER_COUNT_KEYS) and not all(str(name).isdigit() for name in value):
                yield from _leaves(value)
        elif isinstance(value, bool | int | float | str) or (value is None and not HEADS.search(key)):
            yield key, value  # a number of heads that is null follows from others


def _equal(one: Any, other: Any) -> bool:
    if type(one) in (int, float) and type(other) in (int, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)
