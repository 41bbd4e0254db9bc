"""Adapters: what was trained on top of a model, merged into it in memory by PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open

from checkpoints.adapters.adapter import OTHER_PART, PART, check_pattern
from checkpoints.json_value import parse_json
from checkpoints.problems import Problem
from evaluation.error import EvaluationError, memory_named
from evaluation.model_files import ADAPTER, ADAPTER_WEIGHTS

# PEFT knows more kinds. These are weights alone: nothing further is loaded by name, and they can be merged.
_KINDS = ("LORA", "LOHA", "LOKR", "IA3")


def put_on(network: Any, name: str, folder: Path) -> Any:
    """Merge an adapter into a model.

    Args:
        network: the transformers model; it is changed.
        name: of the adapter, for errors.
        folder: with the adapter as PEFT saves it.

    Returns:
        the model, with nothing of PEFT left in it.

    Raises:
        EvaluationError: the adapter cannot be read, is of a kind that cannot be merged, or was trained on another
            base.
    """
    from peft import PeftConfig, PeftModel  # takes a second, and most models have no adapter

    try:
        options = parse_json((folder / ADAPTER).read_bytes())
        kind, trained_on = options["peft_type"], options.get("base_model_name_or_path")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise EvaluationError(Problem("damaged-adapter", {"model": name, "file": ADAPTER})) from None
    if kind not in _KINDS or options.get("megatron_config"):  # which names a module to import
        values = {"model": name, "kind": str(kind), "kinds": _KINDS}
        raise EvaluationError(Problem("adapter-kind-not-run", values))
    try:
        with memory_named(name, "doing-applying"):
            _grow(network, name, folder, options)
            config = PeftConfig.from_pretrained(str(folder))
            if kind == "LORA":
                config.init_lora_weights = True  # the file has them: no singular values of the base first
            _name_targets(config, folder)
            adapted = PeftModel(network, config)
            found = adapted.load_adapter(str(folder), "default")
            lacking = [*found.missing_keys, *found.unexpected_keys]
            if lacking:
                raise ValueError(f"{len(lacking)} tensors are in only one of them, such as {lacking[0]}")
            return adapted.merge_and_unload()
    except EvaluationError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        values = {"model": name, "trained_on": trained_on, "words": words}
        raise EvaluationError(Problem("adapter-fits-not", values)) from error


def _name_targets(config: Any, folder: Path) -> None:
    """Let an adapter name its modules in full, by its tensors: as patterns they would be strangers' programs.

    Raises:
        re.error: a pattern that remains may take too long.
    """
    patterns = [
        *(getattr(config, "alpha_pattern", None) or {}),
        *(getattr(config, "rank_pattern", None) or {}),
    ]
    if isinstance(feedforward := getattr(config, "feedforward_modules", None), str):
        patterns.append(feedforward)
    for pattern in patterns:
        check_pattern(pattern)
    chosen = (config.target_modules, getattr(config, "exclude_modules", None))
    if getattr(config, "layers_to_transform", None) is None and not any(
        isinstance(names, str) for names in chosen
    ):
        return
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
        parts = [PART.fullmatch(key) or OTHER_PART.fullmatch(key) for key in file.keys()]  # noqa: SIM118
    found = {part["module"].removeprefix("base_model.model.") for part in parts if part}
    config.target_modules = {name.removesuffix(".base_layer") for name in found}
    config.exclude_modules = None
    if config.peft_type != "IA3":
        config.layers_to_transform = config.layers_pattern = None


def _grow(network: Any, name: str, folder: Path, options: dict[str, Any]) -> None:
    """Give the model as many token rows as it had when the adapter was trained."""
    embedding = network.get_input_embeddings()
    rows = embedding.weight.shape[0]
    module = next(key for key, value in network.named_modules() if value is embedding)
    wanted = rows
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
        for ending in (".weight", ".base_layer.weight"):
            key = f"base_model.model.{module}{ending}"
            if key in file.keys():  # noqa: SIM118 (it is no dict)
                wanted = file.get_slice(key).get_shape()[0]
    tokens = options.get("trainable_token_indices") or []
    named = tokens.values() if isinstance(tokens, dict) else [tokens]
    trained = {int(token) for each in named for token in each}
    if trained and max(trained) >= wanted:
        unknown = set(range(wanted, max(trained))) - trained
        if unknown:
            values = {"model": name, "token": max(trained), "rows": wanted, "unknown": min(unknown)}
            raise EvaluationError(Problem("token-rows-missing", values))
        wanted = max(trained) + 1
    if wanted != rows:
        network.resize_token_embeddings(wanted, mean_resizing=False)
