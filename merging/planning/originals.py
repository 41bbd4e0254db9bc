"""The full-precision models that quantized ones on the Hub were made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from checkpoints.json_value import parse_json
from checkpoints.names import hub_id
from checkpoints.problems import CheckpointError, Problem
from checkpoints.quantized.dequantized import quantization_settings
from checkpoints.quantized.original import is_original, original_name
from checkpoints.repositories import open_repository
from checkpoints.repositories.repository import MAX_CONFIG, Token, read_small
from merging.licences import on_hub

CONFIG = "config.json"
# The problems of a quantized model.
QUANTIZED = ("dequantized", "gguf-not-understood", "quantized", "unknown-quantization")
# What a model and its quantized copy have in common in their configs.
SAME = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def with_originals(problems: Iterable[Problem], token: Token, allow_folders: bool) -> tuple[Problem, ...]:
    """The problems; those of quantized models name the full-precision model, `original`, if the Hub has it.

    Args:
        problems: of a plan
        token, allow_folders: see `make_plan`
    """
    return tuple(_with_original(problem, token, allow_folders) for problem in problems)


def _with_original(problem: Problem, token: Token, allow_folders: bool) -> Problem:
    model = str(problem.values.get("model"))
    is_folder = allow_folders and Path(model).expanduser().exists()
    # One GGUF file of a repository is called `owner/name/file.gguf`.
    repository = "/".join(model.split("/")[:2]) if model.endswith(".gguf") else model
    named = [str(name) for name in problem.values.get("made_from") or ()]
    if problem.code not in QUANTIZED:
        return problem
    if not is_folder and hub_id(repository):
        original = find_original(repository, token, named)
    else:
        original = _first_original((name for name in named if is_original(name, model)), model, {}, token)
    return replace(problem, values={**problem.values, "original": original}) if original else problem


def find_original(model: str, token: Token, named: Sequence[str] = ()) -> str:
    """The id of the full-precision model that a quantized one was made from; empty if none is found.

    The quantized model's own name, its config and its card may tell. A card may instead name what the full-precision
    model was tuned from, so a name on it counts if it is the same but for the quantization, or if the card says that it
    names what was quantized.

    Args:
        named: ids that its files name, too
    """
    config = _config(model, token) or {}
    candidates = _candidates(model, config, token)
    of_files = (name for name in named if is_original(name, model))
    return _first_original(chain(candidates, of_files), model, config, token)


def _first_original(candidates: Iterable[str], model: str, config: Mapping[str, Any], token: Token) -> str:
    """The first of the ids that is a plain model like the quantized one; empty if none is."""
    for name in dict.fromkeys(candidates):
        found = _config(name, token) if name.lower() != model.lower() and hub_id(name) else None
        if found and not quantization_settings(found) and _is_alike(found, config):
            return name
    return ""


def _candidates(model: str, config: Mapping[str, Any], token: Token) -> Iterator[str]:
    yield original_name(model)
    source = config.get("_name_or_path")
    if isinstance(source, str) and is_original(source, model):
        yield source
    card = on_hub(model, "main", token)
    if card is None:
        return
    for base in card.bases:
        if card.relation == "quantized" or is_original(base, model):
            yield base


def _config(model: str, token: Token) -> dict[str, Any] | None:
    """The config of a model on the Hub; None if it cannot be read."""
    try:
        repository = open_repository(model, None, token, allow_folders=False)
    except CheckpointError:
        return None
    try:
        config = (
            parse_json(read_small(repository, CONFIG, MAX_CONFIG)) if CONFIG in repository.files else None
        )
    except (CheckpointError, ValueError):
        return None
    finally:
        repository.close()
    return config if isinstance(config, dict) else None


def _is_alike(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(config[key] == other[key] for key in SAME if key in config and key in other)
