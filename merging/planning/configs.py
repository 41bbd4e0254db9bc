"""Configs as dictionaries, rewritten: dtype, vocabulary, ids of tokens, and no paths; names and index of the weights.

Nothing here opens a file or knows a recipe; `result_files` decides what is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from checkpoints import Checkpoint
from checkpoints.dtypes import torch_name
from merging.plan import PlannedShard

# Where loaders note down from which path something was loaded.
TRACES = ("_name_or_path", "name_or_path", "_commit_hash")


def without_traces(value: Any) -> Any:
    """The same JSON value without the keys that remember a path."""
    if isinstance(value, dict):
        return {key: without_traces(item) for key, item in value.items() if key not in TRACES}
    return value


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Write the element type into a config and the configs inside it.

    transformers 5 reads `dtype`, older ones `torch_dtype`; the key that the donor uses is kept.
    """
    name = torch_name(dtype)
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = name
    for value in config.values():
        if isinstance(value, dict):
            for key in {"dtype", "torch_dtype"} & value.keys():
                value[key] = name


def stem(donor: Checkpoint) -> str:
    """What the files of weights are called, without number and ending: as loaders of such a model look for them."""
    if donor.config.keys() & {"architectures", "model_type"}:
        return "model"
    files = (header.file for header in donor.tensors.values() if header.file)
    first = min(files, default="").rpartition("/")[2]
    return re.sub(r"(-\d+-of-\d+)?\.\w+$", "", first) or "model"


def shard_names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def index(shards: Sequence[PlannedShard]) -> str:
    """The text of the index file, which says in which shard each tensor is."""
    tensors = [(tensor, shard.filename) for shard in shards for tensor in shard.tensors]
    metadata = {
        "total_parameters": sum(tensor.elements for tensor, _ in tensors),
        "total_size": sum(tensor.bytes for tensor, _ in tensors),
    }
    names = {header.name: file for tensor, file in tensors for header in tensor.headers(file)}
    return as_json({"metadata": metadata, "weight_map": dict(sorted(names.items()))})


def main_dtype(sizes: Iterable[tuple[str, int]]) -> str:
    """The dtype that most bytes are stored in."""
    total: dict[str, int] = {}
    for dtype, size in sizes:
        total[dtype] = total.get(dtype, 0) + size
    return max(total, key=lambda dtype: total[dtype])


def set_vocabulary(config: dict[str, Any], before: int, size: int) -> None:
    """Write the number of rows into a config and the configs inside it, wherever it says the number before."""
    for key, value in config.items():
        if key == "vocab_size" and value == before:
            config[key] = size
        elif isinstance(value, dict):
            set_vocabulary(value, before, size)


def set_token_ids(
    config: dict[str, Any], translate: Callable[[int], int | None], otherwise: Mapping[str, Any]
) -> list[str]:
    """Give the tokens that a config names by number, and the configs inside it, their new numbers.

    Args:
        config: a config or a generation config, changed in place
        translate: the new number; None for a token that the new vocabulary does not have
        otherwise: a config whose numbers are those of the new vocabulary, for tokens that it does not have

    Returns:
        The keys whose tokens are lost: a model without its end-of-text token would not stop.
    """
    lost = []
    for key, value in config.items():
        if isinstance(value, dict):
            inner = otherwise.get(key)
            lost += set_token_ids(value, translate, inner if isinstance(inner, dict) else otherwise)
        elif key.endswith(("_token_id", "_token_ids", "_token_index")):
            if type(value) is int and value >= 0:
                config[key] = translate(value)
            elif isinstance(value, list):
                known = [translate(item) for item in value if type(item) is int]
                config[key] = [item for item in known if item is not None]
            if value not in (None, []) and config[key] in (None, []):
                config[key] = otherwise.get(key)
                lost += [key] * (config[key] is None)
    return lost


def follow_tokenizer(
    config: dict[str, Any], own: Mapping[str, Any], named: Mapping[str, int], *, keep_ends: bool
) -> None:
    """Let a config begin, end and pad with the tokens of the result's tokenizer, which is not its donor's, in place.

    Args:
        config: with the numbers of the new vocabulary
        own: the same config of the model that the tokenizer comes from, whose numbers are those of the new vocabulary
        named: numbers of the tokens that the tokenizer gives these roles, by the config's keys
        keep_ends: whether what ended the donor's texts ends the result's as well
    """
    for key, value in config.items():
        if isinstance(value, dict):
            inner = own.get(key)
            follow_tokenizer(value, inner if isinstance(inner, dict) else {}, named, keep_ends=keep_ends)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if key not in config and own.get(key) is None:
            continue
        before = config.get(key)
        theirs = before if own.get(key) is None else own[key]
        if isinstance(theirs, list) or (keep_ends and key == "eos_token_id"):
            several = [named.get(key), *_as_list(theirs), *(_as_list(before) if keep_ends else ())]
            found = [number for number in dict.fromkeys(several) if number is not None]
            config[key] = found if len(found) > 1 else next(iter(found), None)
        else:
            config[key] = named.get(key, theirs)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _plain(value: Any) -> Any:
    """The same JSON value without the keys that say how weights are quantized: those of a result never are."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != "quantization_config"}
    return value


def merged_config(donor: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A copy of the donor's config with the dtype set, without traces of a path or of quantisation."""
    config: dict[str, Any] = json.loads(json.dumps(_plain(without_traces(donor))))
    if "_class_name" not in config:  # diffusers' configs name no dtype
        set_dtype(config, dtype)
    return config
